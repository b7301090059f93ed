"""What a process added to a running container costs: its start and end, and its streams' speed."""

import os
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any, Final

from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import CONSOLE, step
from lab.release import find_release
from lab.runtimes import RUNTIMES
from lab.trial import Trial
from rich.table import Table

from bench.series import Series

_BYTES: Final = 100_000_000
# Name of a direction, and the program that gives or takes all its bytes: one of few instructions,
# since head and wc would take longer for that under emulation than the way to the host.
_DIRECTIONS: Final = {
    "stdout": ("dd", "if=/dev/zero", "bs=250000", f"count={_BYTES // 250_000}"),
    "stdin": ("dd", "of=/dev/null", "bs=250000"),
}


def measure(release: str, runs: int, copies: int) -> dict[str, Any]:
    """Add `runs` processes to a container of each runtime in turn, then copy; print, return."""
    times: dict[str, list[float]] = defaultdict(list)
    speeds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with PrivateContainerd(find_release(release)) as daemon, ExitStack() as stack:
        daemon.ctr("image", "import", BUSYBOX.archive())
        trials = [Trial(daemon, runtime) for runtime in RUNTIMES]
        containers = [(trial, stack.enter_context(trial.background())) for trial in trials]
        for trial, container in containers:
            trial.exec(container, "warm", "true")
        with step(f"{runs} processes in a container of each runtime") as progress:
            for number in range(runs):
                for trial, container in containers:
                    began = time.perf_counter()
                    trial.exec(container, f"e{number}", "true")
                    times[trial.runtime.name].append((time.perf_counter() - began) * 1000)
                progress.advance_to(100 * (number + 1) / runs)
        with step(f"{copies} copies of {_BYTES // 10**6} MB in each direction") as progress:
            for number in range(copies):
                for direction in _DIRECTIONS:
                    for trial, container in containers:
                        speed = _copy(trial, container, direction, number)
                        speeds[trial.runtime.name][direction].append(speed)
                progress.advance_to(100 * (number + 1) / copies)
    return _report({name: Series(tuple(values)) for name, values in times.items()}, speeds)


def _copy(trial: Trial, container: str, direction: str, number: int) -> float:
    """Copy through a process of its own and return MB (10^6 bytes) a second, its start included."""
    argv = trial.exec_argv(container, f"{direction}-{number}", *_DIRECTIONS[direction])
    source = ["head", "-c", str(_BYTES if direction == "stdin" else 0), "/dev/zero"]
    began = time.perf_counter()
    with (
        subprocess.Popen(source, stdout=subprocess.PIPE) as feeder,
        subprocess.Popen(
            argv,
            env=trial.daemon.environment,
            stdin=feeder.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as ctr,
    ):
        assert feeder.stdout is not None
        assert ctr.stdout is not None
        feeder.stdout.close()
        arrived = 0
        while data := os.read(ctr.stdout.fileno(), 1 << 20):
            arrived += len(data)
    seconds = time.perf_counter() - began
    if ctr.returncode or (direction == "stdout" and arrived != _BYTES):
        raise RuntimeError(
            f"{trial.runtime.name}, {direction}: exit code {ctr.returncode}, {arrived} bytes came"
        )
    return _BYTES / 1e6 / seconds


def _report(series: dict[str, Series], speeds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    ratio = series["kata"].percentile(0.5) / series["runc"].percentile(0.5)
    best = {
        name: {f"{direction}_mb_s": round(max(values), 1) for direction, values in copies.items()}
        for name, copies in speeds.items()
    }
    table = Table(
        "runtime", "p50 ms", "p95 ms", "stdout MB/s", "stdin MB/s", title="ctr task exec true"
    )
    for name, one in series.items():
        figures = (one.percentile(0.5), one.percentile(0.95), *best[name].values())
        table.add_row(name, *(f"{value:.1f}" for value in figures))
    CONSOLE.print(table)
    result: dict[str, Any] = {name: one.summary() | best[name] for name, one in series.items()}
    return result | {"exec_ratio": round(ratio, 2)}
