"""A start for which a guest stands by (`vm_cache_number`), against runc's: the pool is full each time."""

import os
import signal
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import step
from lab.release import find_release
from lab.runtimes import RUNTIMES
from lab.trial import Trial

from bench import configurations, start
from bench.series import Series

_PATIENCE_S: Final = 30
_POOL: Final = "/run/kata-containers/standby/"
_LISTENS: Final = 0x10000  # SO_ACCEPTCON among the flags of /proc/net/unix


def measure(release: str, runs: int, scratch: Path) -> dict[str, Any]:
    """Start `runs` containers of each in turn; return the series and their ratio."""
    times: dict[str, list[float]] = defaultdict(list)
    with PrivateContainerd(find_release(release)) as daemon:
        daemon.ctr("image", "import", BUSYBOX.archive())
        pooled = configurations.pooled(scratch)
        trials = [Trial(daemon, runtime) for runtime in (RUNTIMES[0], pooled)]
        try:
            for trial in (
                *trials,
                trials[1],
            ):  # the first start opens the pool, the second fills it
                start.timed(trial)
            with step(f"{runs} starts each of runc and of who stands by") as progress:
                for number in range(runs):
                    _wait_until_full()
                    for trial in trials:
                        times[trial.runtime.name].append(start.timed(trial)[1])
                    progress.advance_to(100 * (number + 1) / runs)
            _wait_until_full()
        finally:
            _drain()
    series = {name: Series(tuple(values)) for name, values in times.items()}
    runc, ours = (series[trial.runtime.name] for trial in trials)
    return {
        **{name: one.summary() for name, one in series.items()},
        "ratio": round(ours.percentile(0.5) / runc.percentile(0.5), 2),
    }


def _wait_until_full() -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not _standing_by():
        if time.monotonic() > deadline:
            raise LabError(f"nobody stands by in {_POOL} after {_PATIENCE_S} s")
        time.sleep(0.02)
    time.sleep(0.2)  # its guest has just answered, and goes quiet


def _standing_by() -> list[int]:
    """Return the pids of those that take a commission."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        rows = [line.split() for line in list(file)[1:]]
    return [
        int(Path(row[7]).name.partition(".")[0])
        for row in rows
        if len(row) > 7 and row[7].startswith(_POOL) and int(row[3], 16) & _LISTENS
    ]


def _drain() -> None:
    """End those that stand by, and wait until they are gone."""
    for pid in _standing_by():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            while os.path.exists(f"/proc/{pid}"):
                time.sleep(0.02)
    for directory in Path(_POOL).glob("*"):
        with suppress(OSError):
            directory.rmdir()
