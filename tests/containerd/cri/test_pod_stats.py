"""Numbers about pods: true, not zero, and there for every container."""

import pytest
from lab.cri import Cri, RunningPod
from lab.pod import Container
from lab.pod_trial import PodTrial
from lab.tcp import ask
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

MEBIBYTE = 1 << 20
# Uses a second of CPU, holds 24 MiB of memory and 8 MiB of disk, then stays.
BUSY = (
    "dd if=/dev/urandom of=/written bs=1M count=8 2>/dev/null;"
    # The shell's variable is its memory: a string of 24 Mi characters.
    "x=$(head -c 25165824 /dev/zero | tr '\\0' x);"
    "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done;"
    "echo ready; nc -ll -p 7 -e cat & sleep 100000; echo $x"
)


@pytest.fixture(scope="module")
def busy(shared: PodTrial) -> tuple[RunningPod, str]:
    """A pod with a container that has used CPU, memory and disk, and an idle one."""
    pod, container = shared.run(Container(name="busy", command=("sh", "-c", BUSY)))
    shared.cri.run(pod, Container(name="idle"))
    log = shared.cri.log_path(pod, "busy")
    wait_until(lambda: "ready" in log.read_text(), "the work is done", shared.runtime.patience_s)
    return pod, container


def cpu_s(stats: object) -> float:
    return float(stats.cpu.usage_core_nano_seconds.value) / 1e9  # type: ignore[attr-defined]


def test_one_containers(trial: PodTrial, busy: tuple[RunningPod, str]) -> None:
    cri, (_, container) = trial.cri, busy
    first = cri.stats(container)
    assert first.attributes.metadata.name == "busy"
    assert 0.05 < cpu_s(first) < 600
    memory = first.memory
    # The kernel adds up its counters now and then only: 24 MiB of memory may be a little less here.
    assert 20 * MEBIBYTE <= memory.working_set_bytes.value < 1024 * MEBIBYTE
    assert 24 * MEBIBYTE <= memory.usage_bytes.value < 1024 * MEBIBYTE
    assert memory.rss_bytes.value >= 24 * MEBIBYTE
    assert memory.page_faults.value > 0
    cri.sh(container, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    second = cri.stats(container)
    assert cpu_s(second) > cpu_s(first)
    assert second.cpu.timestamp > first.cpu.timestamp > 0


def test_the_writable_layer(trial: PodTrial, busy: tuple[RunningPod, str]) -> None:
    """containerd looks at the snapshots now and then, whoever asks."""
    cri, (_, container) = trial.cri, busy

    def written() -> bool:
        layer = cri.stats(container).writable_layer
        return bool(layer.used_bytes.value >= 8 * MEBIBYTE and layer.inodes_used.value > 0)

    wait_until(written, "the file is counted", 60)


def test_the_list_of_containers(trial: PodTrial, busy: tuple[RunningPod, str]) -> None:
    cri, (pod, _) = trial.cri, busy
    ended = trial.add(pod, Container(name="ended", command=("true",)))
    cri.wait_for_end(ended)
    trial.add(pod, Container(name="created"), start=False)
    request = {"filter": {"pod_sandbox_id": pod.id}}
    listed = {
        one.attributes.metadata.name: one for one in cri.call("ListContainerStats", request).stats
    }
    assert set(listed) >= {"busy", "idle"}
    for name in ("busy", "idle"):
        assert cpu_s(listed[name]) > 0
        assert listed[name].memory.working_set_bytes.value > 0
    assert cpu_s(listed["busy"]) > cpu_s(listed["idle"])


def test_a_pods(trial: PodTrial, busy: tuple[RunningPod, str]) -> None:
    cri, (pod, container) = trial.cri, busy
    before = cri.pod_stats(pod).linux
    assert cpu_s(before) >= 0.05
    assert before.memory.working_set_bytes.value >= 24 * MEBIBYTE
    assert before.process.process_count.value > 0
    names = {one.attributes.metadata.name for one in before.containers}
    assert names >= {"busy", "idle"}

    data = bytes(MEBIBYTE)
    assert ask(cri.pod_ips(pod)[0], 7, data) == data
    after = cri.pod_stats(pod).linux
    assert after.network.default_interface.name == "eth0"
    for counted in ("rx_bytes", "tx_bytes"):
        grown = count(after, counted) - count(before, counted)
        assert MEBIBYTE <= grown < 2 * MEBIBYTE, counted
    cri.sh(container, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    assert cpu_s(cri.pod_stats(pod).linux) > cpu_s(before)


def count(stats: object, name: str) -> int:
    return int(getattr(stats.network.default_interface, name).value)  # type: ignore[attr-defined]


def test_all_pods(trial: PodTrial, busy: tuple[RunningPod, str]) -> None:
    cri: Cri = trial.cri
    other, _ = trial.run()
    listed = cri.call("ListPodSandboxStats").stats
    assert {one.attributes.id for one in listed} == {busy[0].id, other.id}
    assert all(one.linux.memory.working_set_bytes.value > 0 for one in listed)
