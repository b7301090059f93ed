"""containerd ends and comes again while pods run: they go on, and it finds them as they are.

KATA_OUTAGE_PODS says how many run meanwhile; a release is given 20, a change a few.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.cri import Cri, RunningPod
from lab.pod import Container, Pod
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

_PODS = int(os.environ.get("KATA_OUTAGE_PODS", "2"))
_AT_ONCE = 4
_AT_A_READ = 10
_BEAT = "i=0; while :; do echo beat $i; i=$((i+1)); sleep 0.1; done"


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "killed"])
def test_pods_outlive_their_containerd(trial: PodTrial, crash: bool) -> None:
    cri = trial.cri
    names = [f"outage-{number}" for number in range(_PODS)]
    beating = Container(command=("sh", "-c", _BEAT))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pods = list(pool.map(lambda name: trial.run(beating, Pod(name=name)), names))
        began = time.monotonic()
        if crash:
            cri.daemon.kill()
            cri.daemon.start()
        else:
            cri.daemon.restart()
        wait_until(cri.is_ready, "the CRI is ready", 60)
        print(f"{_PODS} pods: the CRI was away for {time.monotonic() - began:.2f} s")
        states = [(cri.pod_state(pod), cri.state(container)) for pod, container in pods]
        assert states == [("READY", "RUNNING")] * _PODS
        said = pool.map(lambda one: cri.sh(one[1], "hostname").strip(), pods)
        assert list(said) == names
        for pod, _ in pods:
            _prove_log_goes_on(cri.log_path(pod, "main"))
        list(pool.map(lambda one: _end(cri, *one), pods))


def _prove_log_goes_on(log: Path) -> None:
    seen = len(_beats(log))
    wait_until(lambda: len(_beats(log)) > seen, "the log goes on", 60)
    beats = _beats(log)
    assert beats == sorted(set(beats)), "a line came twice or too late"
    # The daemon that ended takes along at most what it had read at once and not yet written: a line,
    # or a second's lines where it was kept waiting.
    missing = sorted(set(range(beats[-1] + 1)) - set(beats))
    assert len(missing) <= _AT_A_READ, missing
    assert not missing or missing == list(range(missing[0], missing[-1] + 1))


def _beats(log: Path) -> list[int]:
    return [int(number) for number in re.findall(r"F beat (\d+)\n", log.read_text())]


def _end(cri: Cri, pod: RunningPod, container: str) -> None:
    cri.stop(container)
    assert cri.status(container).exit_code == 137
    cri.stop_pod(pod)
    assert cri.pod_state(pod) == "NOTREADY"
    cri.remove_pod(pod)
