"""Parts of a pod that are killed: noticed at once, told truthfully, and removed without a trace."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from lab import pod_cgroup
from lab.cri import CriError
from lab.pod import Container, Pod, Security
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

# Name of a part, and what the name of its program begins with; the agent is in the guest.
_AGENT = "agent"
_PARTS = {"shim": "", "monitor": "qemu-system", "file server": "virtiofsd", _AGENT: ""}
_PRIVILEGED = Container(security=Security(privileged=True))


@pytest.mark.parametrize("part", _PARTS)
def test_a_killed_part_ends_the_pod(trial: PodTrial, part: str) -> None:
    if not trial.runtime.is_machine:
        pytest.skip("runc leaves control groups and a socket behind when its shim is killed")
    cri = trial.cri
    pod, container = trial.run(_PRIVILEGED, Pod(privileged=True))
    victim = 0 if part == _AGENT else _pid(trial.cri.daemon.shim_pid(pod.id), _PARTS[part])
    patience_s = trial.runtime.patience_s
    began = time.monotonic()  # what is printed is 0.2 to 1.3 s on a quiet machine
    if victim:
        os.kill(victim, signal.SIGKILL)
    else:
        _kill_agent(trial, container)
    wait_until(lambda: cri.pod_state(pod) == "NOTREADY", "the pod is not ready", patience_s)
    wait_until(lambda: cri.state(container) == "EXITED", "the container has ended", patience_s)
    print(f"{part}: noticed after {time.monotonic() - began:.2f} s")
    assert cri.status(container).exit_code != 0
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    # containerd 1.6 does not wait for the `delete` of a dead shim; kubelet tries until this is gone.
    wait_until(lambda: pod_cgroup.remove(pod.cgroup), "the pod's cgroup is empty", patience_s)


def _kill_agent(trial: PodTrial, container: str) -> None:
    """End the agent with its kernel: no signal ends a PID 1 that does not want to be ended."""
    with suppress(CriError):
        trial.cri.exec(container, "sh", "-c", "echo c > /proc/sysrq-trigger")


def _pid(shim: int, name: str) -> int:
    """Return the process of a part: a child of the shim, or itself."""
    parts = Path(f"/proc/{shim}/task/{shim}/children").read_text().split() if name else []
    found = [int(pid) for pid in parts if Path(f"/proc/{pid}/comm").read_text().startswith(name)]
    return found[0] if name else shim
