"""Parts of a pod that are killed: noticed at once, told truthfully, and removed without a trace."""

import os
import signal
import time

import pytest
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

# Name of a part, and what its command line has beside the pod's id.
_PARTS = {"shim": "containerd-shim", "monitor": "qemu-system", "file server": "virtiofsd"}
_NOTICED_S = 5.0


@pytest.mark.parametrize("part", _PARTS)
def test_a_killed_part_ends_the_pod(trial: PodTrial, part: str) -> None:
    if not trial.runtime.is_machine:
        pytest.skip("runc leaves control groups and a socket behind when its shim is killed")
    cri = trial.cri
    pod, container = trial.run()
    os.kill(_pid(trial, pod.id, _PARTS[part]), signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: cri.pod_state(pod) == "NOTREADY", "the pod is not ready", _NOTICED_S)
    wait_until(lambda: cri.state(container) == "EXITED", "the container has ended", _NOTICED_S)
    print(f"{part}: noticed after {time.monotonic() - began:.2f} s")
    assert cri.status(container).exit_code != 0
    cri.stop_pod(pod)
    cri.remove_pod(pod)


def _pid(trial: PodTrial, pod_id: str, words: str) -> int:
    """Return the process of a part, the first where it has several."""
    return min(
        int(item.what.split()[0])
        for item in trial.new()
        if item.kind == "process" and words in item.what and pod_id in item.what
    )
