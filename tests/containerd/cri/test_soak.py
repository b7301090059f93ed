"""Pods come and go, and leave no more than there was before: the counts are printed.

KATA_SOAK_CYCLES says how many come four at a time, KATA_SOAK_PODS how many one after another; a release
is given 200 and 100, a change a few.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import standbys
from lab.containerd import CLEAN_TIMEOUT_S
from lab.cri import Cri
from lab.pod import Container, Pod
from lab.pod_trial import PodTrial

pytestmark = pytest.mark.containerd

_CYCLES = int(os.environ.get("KATA_SOAK_CYCLES", "8"))
_PODS = int(os.environ.get("KATA_SOAK_PODS", "2"))
_AT_ONCE = 4
_PLACES = ("/run/kata", "/run/kata-containers/shared/sandboxes", "/run/containerd/s", "/run/netns")


def test_cycles_leave_nothing(trial: PodTrial) -> None:
    names = [f"soak-{number}" for number in range(_CYCLES)]
    with _nothing_more(trial, f"{_CYCLES} cycles"), ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: _cycle(trial.cri, trial.runtime.name, name), names))


def test_pods_in_sequence_leave_nothing(trial: PodTrial) -> None:
    seconds = []
    with _nothing_more(trial, f"{_PODS} pods in sequence"):
        for number in range(_PODS):
            began = time.monotonic()
            _cycle(trial.cri, trial.runtime.name, f"sequence-{number}")
            seconds.append(time.monotonic() - began)
    print(f"a pod's life: {min(seconds):.2f} to {max(seconds):.2f} s")


@contextmanager
def _nothing_more(trial: PodTrial, what: str) -> Iterator[None]:
    """Count before and after, and compare."""
    # As many at once as there will be: what containerd keeps for them is no leak.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        names = [f"warm-{number}" for number in range(_AT_ONCE)]
        list(pool.map(lambda name: _cycle(trial.cri, trial.runtime.name, name), names))
    before = _counts(trial.cri)
    yield
    # Most counts are of the whole machine: what others start meanwhile goes again, a leak does not.
    deadline = time.monotonic() + CLEAN_TIMEOUT_S
    while _excess(before, after := _counts(trial.cri)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for name, count in before.items():
        print(f"{name}: {count} before {what}, {after[name]} after")
    assert _excess(before, after) == {}


def _excess(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    # The daemon keeps a few connections and threads for next time, however many pods there were.
    spare = {"descriptors of containerd": 3 * _AT_ONCE, "threads of containerd": 4 * _AT_ONCE}
    return {n: c for n, c in after.items() if c > before[n] + spare.get(n, 0)}


def _cycle(cri: Cri, handler: str, name: str) -> None:
    pod = cri.run_pod(Pod(name=name), handler)
    container = cri.run(pod, Container())
    assert cri.sh(container, "hostname").strip() == name
    cri.stop_pod(pod)
    cri.remove_pod(pod)


def _counts(cri: Cri) -> dict[str, int]:
    process = Path("/proc", str(cri.daemon.pid))
    groups = (len(_without_standbys(names)) for _, names, _ in os.walk("/sys/fs/cgroup"))
    counts = {
        "descriptors of containerd": len(list((process / "fd").iterdir())),
        "threads of containerd": len(list((process / "task").iterdir())),
        "mounts": len(Path("/proc/mounts").read_text().splitlines()),
        "cgroups": sum(groups),
        "network devices": len(os.listdir("/sys/class/net")),
    }
    for place in _PLACES:
        counts[place] = len(_without_standbys(os.listdir(place))) if os.path.isdir(place) else 0
    return counts


def _without_standbys(names: list[str]) -> list[str]:
    """Return names without those of whoever stands by, and without the one above them."""
    ours = ("_standby-", "kata_overhead") if standbys.WANTED else ()
    return [name for name in names if not name.startswith(ours)]
