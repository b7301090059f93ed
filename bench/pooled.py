"""Starts for which guests stand by (`vm_cache_number`), against runc's: the pool is full each time."""

import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from lab import standbys
from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import step
from lab.release import find_release
from lab.runtimes import RUNTIMES
from lab.trial import Trial

from bench import configurations, start
from bench.series import Series

_PATIENCE_S: Final = 30  # for each


def measure(release: str, runs: int, bursts: int, scratch: Path) -> dict[str, Any]:
    """Start `runs` containers of each in turn, then bursts with a guest for each; return the figures."""
    times: dict[str, list[float]] = defaultdict(list)
    walls = []
    with PrivateContainerd(find_release(release)) as daemon:
        daemon.ctr("image", "import", BUSYBOX.archive())
        runc = Trial(daemon, RUNTIMES[0])
        start.timed(runc)
        try:
            one = _opened(daemon, scratch, 1)
            with step(f"{runs} starts each of runc and of who stands by") as progress:
                for number in range(runs):
                    _wait_until_full(1)
                    for name, trial in (("runc", runc), ("kata", one)):
                        times[name].append(start.timed(trial)[1])
                    progress.advance_to(100 * (number + 1) / runs)
            many = _opened(daemon, scratch, start.AT_ONCE)
            with step(f"{bursts} x {start.AT_ONCE} starts at once of who stands by"):
                for _ in range(bursts):
                    _wait_until_full(start.AT_ONCE)
                    walls.append(start.burst(many))
            _wait_until_full(start.AT_ONCE)
        finally:
            _drain()
    series = {name: Series(tuple(values)) for name, values in times.items()}
    alone = series["kata"].percentile(0.5)
    return {
        **{name: one.summary() for name, one in series.items()},
        "ratio": round(alone / series["runc"].percentile(0.5), 2),
        "burst_wall_ms": [round(wall, 1) for wall in walls],
        "burst_ratio": round(Series(tuple(walls)).percentile(0.5) / start.AT_ONCE / alone, 2),
    }


def _opened(daemon: PrivateContainerd, scratch: Path, most: int) -> Trial:
    """Open a pool of so many: the first start does, the second has it filled."""
    trial = Trial(daemon, configurations.pooled(scratch, most))
    for _ in range(2):
        start.timed(trial)
    return trial


def _wait_until_full(most: int) -> None:
    deadline = time.monotonic() + most * _PATIENCE_S
    while len(standbys.listening()) < most:
        if time.monotonic() > deadline:
            raise LabError(f"{len(standbys.listening())} of {most} stand by in {standbys.POOLS}")
        time.sleep(0.02)
    time.sleep(0.2)  # its guest has just answered, and goes quiet


def _drain() -> None:
    """End those that stand by, and wait until they are gone."""
    standbys.drain()
    for directory in Path(standbys.POOLS).glob("*"):
        shutil.rmtree(directory, ignore_errors=True)
