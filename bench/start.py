"""How long `ctr run --rm … true` takes: ours, ours without a template, and runc's, in turn.

Then ten at once, ours and runc's: what one of them costs in wall time, against one alone.
"""

import dataclasses
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lab.command import LabError, run
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import CONSOLE, step
from lab.release import find_release
from lab.runtimes import RUNTIMES
from lab.trial import Trial
from rich.table import Table

from bench import configurations, ledger
from bench.ledger import StartLedger
from bench.series import Series

AT_ONCE: Final = 10

_BAR: Final = 32  # characters for the whole of a start


@dataclasses.dataclass(frozen=True, slots=True)
class Starts:
    """Serial starts by the runtime's name, bursts' wall times in ms, and our restores' ledgers."""

    series: dict[str, Series]
    bursts: dict[str, Series]
    ledgers: list[StartLedger]

    def figures(self) -> dict[str, Any]:
        """Return the figures, for JSON."""
        p50 = {name: one.percentile(0.5) for name, one in self.series.items()}
        bursts = {
            name: {
                "at_once": AT_ONCE,
                "wall_ms": [round(value, 1) for value in one.values],
                "ratio": round(one.percentile(0.5) / AT_ONCE / p50[name], 2),
            }
            for name, one in self.bursts.items()
        }
        return {
            **{name: one.summary() for name, one in self.series.items()},
            "ratio": round(p50["kata"] / p50["runc"], 2),
            "cold_ratio": round(p50["kata_cold"] / p50["kata"], 2),
            "first_rpc_ms": round(ledger.first_rpc_ms(self.ledgers), 1),
            "burst_ratio": bursts["kata"]["ratio"],
            "bursts": bursts,
            "ledgers": [dataclasses.asdict(one) for one in self.ledgers],
        }


def measure(release: str, runs: int, bursts: int, scratch: Path) -> Starts:
    """Start `runs` containers with each runtime in turn, ours cold as well; then the bursts.

    Raises `LabError` when a start of ours did not restore a template: it would say nothing.
    """
    times: dict[str, list[float]] = defaultdict(list)
    cold = configurations.cold(scratch)
    restored_ids = []
    with PrivateContainerd(find_release(release)) as daemon:
        daemon.ctr("image", "import", BUSYBOX.archive())
        trials = [Trial(daemon, runtime) for runtime in (*RUNTIMES, cold)]
        for trial in trials:
            timed(trial)
        with step(
            f"{runs} starts each of {', '.join(one.runtime.name for one in trials)}"
        ) as progress:
            for number in range(runs):
                for trial in trials:
                    container_id, took = timed(trial)
                    times[trial.runtime.name].append(took)
                    if trial.runtime.name == "kata":
                        restored_ids.append(container_id)
                progress.advance_to(100 * (number + 1) / runs)
        walls: dict[str, list[float]] = defaultdict(list)
        with step(f"{bursts} x {AT_ONCE} starts at once, each of both") as progress:
            for number in range(bursts):
                for trial in trials[: len(RUNTIMES)]:
                    walls[trial.runtime.name].append(burst(trial))
                progress.advance_to(100 * (number + 1) / bursts)
        log = daemon.log_path.read_text(encoding="utf-8", errors="replace")
        found = {one.sandbox_id: one for one in ledger.find(log)}
        ledgers = [found[container_id] for container_id in restored_ids]
        if booted := [one.sandbox_id for one in ledgers if not one.restored]:
            names = ", ".join(booted)
            raise LabError(f"{names}: booted, not restored; why is in:\n{daemon.log_tail()}")
    return Starts(_series(times), _series(walls), ledgers)


def report(starts: Starts) -> None:
    """Print the series, the ratios and where the time of the median start went."""
    table = Table("runtime", "p50 ms", "p95 ms", "min ms", "max ms", "n", title="ctr run --rm true")
    for name, one in starts.series.items():
        table.add_row(name, *(f"{value:g}" for value in one.summary().values()))
    CONSOLE.print(table)
    CONSOLE.print(_timeline(ledger.median(starts.ledgers)))


def timed(trial: Trial) -> tuple[str, float]:
    """Return the container's id, and how many milliseconds it took from nothing to its end."""
    container_id = trial.new_id(trial.runtime.name)
    argv = trial.run_argv(container_id, "true")
    began = time.perf_counter()
    run(argv, env=trial.daemon.environment, timeout_s=trial.runtime.patience_s)
    return container_id, (time.perf_counter() - began) * 1000


def burst(trial: Trial) -> float:
    """Start ten containers at the same moment; return the milliseconds until all have ended."""
    argvs = [trial.run_argv(trial.new_id("burst"), "true") for _ in range(AT_ONCE)]
    began = time.perf_counter()
    with ExitStack() as stack:
        starts = [
            stack.enter_context(
                subprocess.Popen(
                    argv,
                    env=trial.daemon.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
            for argv in argvs
        ]
        said = [start.communicate(timeout=10 * trial.runtime.patience_s)[1] for start in starts]
    took = (time.perf_counter() - began) * 1000
    failed = [text for start, text in zip(starts, said, strict=True) if start.returncode]
    if failed:
        words = failed[0].decode(errors="replace").strip()
        raise LabError(f"{trial.runtime.name}: {len(failed)} of {AT_ONCE} at once failed: {words}")
    return took


def _series(times: dict[str, list[float]]) -> dict[str, Series]:
    return {name: Series(tuple(values)) for name, values in times.items()}


def _timeline(start: StartLedger) -> Table:
    """Return one start as a picture: a bar per step, where it began and how long it took."""
    table = Table(title=f"one start, {start.total_ms:.0f} ms in the shim")
    table.add_column("step", no_wrap=True)
    table.add_column("began ms", justify="right")
    table.add_column("took ms", justify="right")
    table.add_column("", min_width=_BAR, no_wrap=True)
    for one in start.steps:
        before = round(_BAR * one.begin_ms / start.total_ms)
        width = max(1, round(_BAR * one.took_ms / start.total_ms))
        bar = " " * before + "█" * min(width, _BAR - before)
        table.add_row(one.name, f"{one.begin_ms:.0f}", f"{one.took_ms:.0f}", bar)
    return table
