"""What one more idle sandbox costs in memory: PSS of all its processes on the host.

PSS divides a page by the processes that map it, so that the sum counts each mapped page once. Pages
of a memory file that nobody has touched since it was written are in no process's PSS; so what the
machine says it has less available stands beside it.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import CONSOLE, step
from lab.release import find_release
from lab.runtimes import RUNC, Runtime
from lab.trial import Trial
from rich.table import Table

from bench import configurations

SHARES: Final = ("virtio-fs", "virtio-9p")  # the default first

_SETTLE_SECONDS: Final = 2.0  # for shims and guests to come to rest after the last start
_RESERVE: Final = 2  # times what the next sandboxes are expected to take has to be available

# MiB of one kind of process, or of all: by name of the figure, "pss" and "private".
Usage = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Sample:
    """MiB of the processes, and what the machine has less available than before the first start."""

    usage: Usage
    taken: float


def measure(release: str, counts: Sequence[int], scratch: Path) -> dict[str, Any]:
    """Hold idle sandboxes, as many as each count says; return the figures by kind of share.

    runc's containers are counted the same way beside them. Larger counts are left out when memory
    does not allow them.
    """
    runtimes = [*(configurations.with_share(scratch, share) for share in SHARES), RUNC]
    found: dict[str, Any] = {}
    for runtime in runtimes:
        with (
            PrivateContainerd(find_release(release)) as daemon,
            step(f"memory of up to {counts[-1]} idle sandboxes, {runtime.name}"),
        ):
            daemon.ctr("image", "import", BUSYBOX.archive())
            trial = Trial(daemon, runtime)
            trial.run("true")  # makes the template if there is none
            found[runtime.name] = figures(_sample(trial, counts))
    return found


def figures(samples: Mapping[int, Sample]) -> dict[str, Any]:
    """Return samples by count with the slope of each kind's PSS, for JSON; MiB throughout."""
    kinds = next(iter(samples.values())).usage
    return {
        "mib_per_sandbox": {
            kind: round(slope({n: one.usage[kind]["pss"] for n, one in samples.items()}), 1)
            for kind in kinds
        },
        "available_mib_per_sandbox": round(slope({n: one.taken for n, one in samples.items()}), 1),
        "counts": {
            str(count): {
                kind: {name: round(value, 1) for name, value in figure.items()}
                for kind, figure in one.usage.items()
            }
            for count, one in samples.items()
        },
    }


def slope(totals: Mapping[int, float]) -> float:
    """Return what one more costs: the slope of the straight line closest to totals by count."""
    return linear_regression(list(totals), list(totals.values())).slope


def report(found: Mapping[str, Any]) -> None:
    """Print a table: PSS by count and kind of process, and the cost of one more."""
    columns = ("share", "process", "one more MiB")
    counts = next(iter(found.values()))["counts"]
    table = Table(*columns, *(f"{count} idle" for count in counts), title="PSS, MiB")
    for name, one in found.items():
        for kind, more in one["mib_per_sandbox"].items():
            cells = (one["counts"].get(count, {}).get(kind) for count in counts)
            shown = (f"{cell['pss']:.0f}" if cell else "" for cell in cells)
            table.add_row(name, kind, f"{more:.1f}", *shown)
        taken = f"{one['available_mib_per_sandbox']:.1f}"
        table.add_row(name, "(less available)", taken, end_section=True)
    CONSOLE.print(table)


def _sample(trial: Trial, counts: Sequence[int]) -> dict[int, Sample]:
    samples: dict[int, Sample] = {}
    running = 0
    time.sleep(_SETTLE_SECONDS)
    before = _available()
    with ExitStack() as stack:
        for count in counts:
            if len(samples) > 1 and not _room_for(count - running, samples):
                CONSOLE.print(f"    {count} idle: left out, too little memory is available")
                break
            for _ in range(count - running):
                stack.enter_context(trial.background())
            running = count
            time.sleep(_SETTLE_SECONDS)
            samples[count] = Sample(_usage(trial, count), before - _available())
    return samples


def _room_for(more: int, samples: Mapping[int, Sample]) -> bool:
    return _available() > _RESERVE * more * slope({n: one.taken for n, one in samples.items()})


def _available() -> float:
    """Return the MiB that the machine can give without swapping, page cache included."""
    return fields("/proc/meminfo")["MemAvailable"] / 1024


def _usage(trial: Trial, count: int) -> Usage:
    """Add up the processes of all sandboxes; raises `LabError` if some are not accounted for."""
    usage: Usage = defaultdict(lambda: {"pss": 0.0, "private": 0.0})
    number: Counter[str] = Counter()
    for item in trial.daemon.census():
        if item.kind != "process":
            continue
        pid, _, command = item.what.partition(" ")
        kind = kind_of(command, trial.runtime)
        rollup = fields(f"/proc/{pid}/smaps_rollup")
        private = rollup["Private_Clean"] + rollup["Private_Dirty"]
        number[kind] += 1
        for name in (kind, "total"):
            usage[name]["pss"] += rollup["Pss"] / 1024
            usage[name]["private"] += private / 1024
    expected = "container" if trial.runtime is RUNC else "qemu"
    if number[expected] != count:
        raise LabError(f"{number[expected]} processes of kind {expected!r}, not {count}: {number}")
    total = usage.pop("total")
    return {**dict(sorted(usage.items())), "total": total}


def kind_of(command: str, runtime: Runtime) -> str:
    """Tell a process's kind by its command line: qemu, virtiofsd, shim, or a runc's container."""
    program = os.path.basename(command.split(maxsplit=1)[0])
    if program.startswith("qemu-system-"):
        return "qemu"
    if program == "virtiofsd":
        return "virtiofsd"
    if "shim" in command:
        return "shim"
    return "container" if runtime is RUNC else "other"


def fields(path: str) -> dict[str, int]:
    """Return the figures of a file of `name: figure kB` lines, in KiB."""
    with open(path, encoding="utf-8") as stream:
        lines = (line.split() for line in stream)
        return {words[0][:-1]: int(words[1]) for words in lines if words[-1] == "kB"}
