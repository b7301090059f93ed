"""Pods come and go, four at a time, and leave no more than there was before: the counts are printed.

KATA_SOAK_CYCLES says how many; a release is given 200, a change a few.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.cri import Cri
from lab.pod import Container, Pod
from lab.pod_trial import PodTrial

pytestmark = pytest.mark.containerd

_CYCLES = int(os.environ.get("KATA_SOAK_CYCLES", "8"))
_AT_ONCE = 4
_PLACES = ("/run/kata", "/run/kata-containers/shared/sandboxes", "/run/containerd/s", "/run/netns")


def test_cycles_leave_nothing(trial: PodTrial) -> None:
    cri = trial.cri
    _cycle(cri, trial.runtime.name, "warm")
    before = _counts(cri)
    names = [f"soak-{number}" for number in range(_CYCLES)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: _cycle(cri, trial.runtime.name, name), names))
    after = _counts(cri)
    for name, count in before.items():
        print(f"{name}: {count} before {_CYCLES} cycles, {after[name]} after")
    # The daemon keeps a few connections and threads for next time, however many pods there were.
    spare = {"descriptors of containerd": 3 * _AT_ONCE, "threads of containerd": 4 * _AT_ONCE}
    assert {n: c for n, c in after.items() if c > before[n] + spare.get(n, 0)} == {}


def _cycle(cri: Cri, handler: str, name: str) -> None:
    pod = cri.run_pod(Pod(name=name), handler)
    container = cri.run(pod, Container())
    assert cri.sh(container, "hostname").strip() == name
    cri.stop_pod(pod)
    cri.remove_pod(pod)


def _counts(cri: Cri) -> dict[str, int]:
    process = Path("/proc", str(cri.daemon.pid))
    groups = (len(folders) for _, folders, _ in os.walk("/sys/fs/cgroup"))
    counts = {
        "descriptors of containerd": len(list((process / "fd").iterdir())),
        "threads of containerd": len(list((process / "task").iterdir())),
        "mounts": len(Path("/proc/mounts").read_text().splitlines()),
        "cgroups": sum(groups),
        "network devices": len(os.listdir("/sys/class/net")),
    }
    for place in _PLACES:
        counts[place] = len(os.listdir(place)) if os.path.isdir(place) else 0
    return counts
