"""Limits of a pod's containers hold and can be changed, and what it uses is told."""

import os

import pytest
from lab import pod_cgroup, standbys
from lab.cri import Cri, CriError
from lab.pod import Container, Pod, Resources
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

MIB = 1 << 20
BURN = "i=0; while :; do i=$((i+1)); done"


def limits(mib: int = 0, quota: int = 0) -> Resources:
    return Resources(
        cpu_period=100_000 if quota else 0, cpu_quota=quota, cpu_shares=512, memory=mib * MIB
    )


def can_use(cri: Cri, container: str, mib: int) -> bool:
    """Tell whether a process of the container can have so much memory."""
    code = cri.exec(container, "dd", "if=/dev/zero", "of=/dev/null", f"bs={mib}M", "count=1").code
    assert code in (0, 137)
    return code == 0


def test_a_pod_gets_what_its_containers_may_use(trial: PodTrial) -> None:
    if not trial.runtime.is_machine:
        pytest.skip("a pod without a machine of its own has no size")
    cri = trial.cri
    plain = cri.run(trial.run_pod(), Container())
    pod = trial.run_pod(Pod(resources=limits(1024, 60_000)))
    one = cri.run(pod, Container(name="one", resources=limits(1024, 60_000)))
    show = "nproc; grep MemTotal /proc/meminfo"
    vcpus, _, default = cri.sh(plain, show).split()[:3]
    bigger = cri.sh(one, show).split()
    assert (int(vcpus), int(bigger[0])) == (1, min(2, os.cpu_count() or 1))
    assert int(bigger[2]) == int(default) + (1024 << 10)
    assert can_use(cri, one, 900)


def test_limits_hold_and_change(trial: PodTrial) -> None:
    cri = trial.cri
    pod = trial.run_pod(Pod(resources=limits(64)))
    main = cri.run(pod, Container(resources=limits(64)))
    assert can_use(cri, main, 40)
    assert not can_use(cri, main, 80)
    cri.update(main, limits(160, 50_000))
    assert can_use(cri, main, 100)
    assert cri.status(main).resources.linux.memory_limit_in_bytes in (0, 160 * MIB)  # 1.6: not told
    cri.update(main, limits(64))
    assert not can_use(cri, main, 100)
    if trial.runtime.is_machine:
        with pytest.raises(CriError, match=r"the virtual machine cannot grow: .*default_maxmemory"):
            cri.update(main, limits(1 << 30))
        assert not can_use(cri, main, 100)
    assert can_use(cri, main, 40)


def test_what_a_container_and_its_pod_use(trial: PodTrial) -> None:
    cri = trial.cri
    pod = trial.run_pod(Pod(resources=limits(96)))
    main = cri.run(pod, Container(command=("sh", "-c", BURN), resources=limits(96)))
    cri.sh(main, "dd if=/dev/urandom of=/file bs=1M count=4")
    first = cri.stats(main)
    wait_until(
        lambda: (
            cri.stats(main).cpu.usage_core_nano_seconds.value
            > first.cpu.usage_core_nano_seconds.value + 10**8
        ),
        "the container uses CPU time",
        30,
    )
    stats = cri.stats(main)
    assert stats.attributes.id == main
    memory = stats.memory
    assert 0 < memory.working_set_bytes.value < 96 * MIB
    wait_until(
        lambda: cri.stats(main).writable_layer.used_bytes.value >= 4 * MIB,
        "the file is in the writable layer's size",
        30,
    )
    listed = cri.call("ListContainerStats", {"filter": {"pod_sandbox_id": pod.id}}).stats
    assert [each.attributes.id for each in listed] == [main]
    if memory.HasField("available_bytes"):  # not told by containerd 1.6
        both = memory.available_bytes.value + memory.working_set_bytes.value
        assert both == 96 * MIB
        assert 0 < memory.rss_bytes.value <= memory.usage_bytes.value < 96 * MIB

    network = cri.daemon.network
    assert network is not None
    cri.sh(main, f"ping -c 1 -W 30 {network.gateway}")
    told = cri.pod_stats(pod)
    assert told.attributes.id == pod.id
    before = told.linux.cpu.usage_core_nano_seconds.value
    assert before > 10**8
    assert told.linux.memory.working_set_bytes.value > memory.working_set_bytes.value // 2
    assert told.linux.process.process_count.value >= 1  # 2.x leaves the pause container out
    assert told.linux.network.default_interface.rx_bytes.value > 0
    # QEMU, virtiofsd and the shim; the guest's memory is QEMU's, but for what it stood by with.
    if trial.runtime.is_machine and not standbys.WANTED:
        assert told.linux.memory.working_set_bytes.value > 64 * MIB
        assert all(
            (folder / "cgroup.procs").read_text() == "" for folder in pod_cgroup.folders(pod.cgroup)
        )
    wait_until(
        lambda: cri.pod_stats(pod).linux.cpu.usage_core_nano_seconds.value > before + 10**8,
        "the pod uses CPU time",
        30,
    )
