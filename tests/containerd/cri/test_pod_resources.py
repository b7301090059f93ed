"""Limits of a pod's containers: enforced, seen from inside, changed while they run."""

from pathlib import Path

import pytest
from lab import pod_cgroup
from lab.cri import Cri
from lab.pod import Container, Mount, Pod, Resources
from lab.pod_trial import PodTrial
from lab.trial import until_exists, wait_until

pytestmark = pytest.mark.containerd

MEBIBYTE = 1 << 20
# The same limit in each version of cgroups: what a container sees is the guest's in a VM.
MEMORY = "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
QUOTA = "cut -d' ' -f1 /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
PERIOD = "cut -d' ' -f2 /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu/cpu.cfs_period_us"
CPUSET = "cat /sys/fs/cgroup/cpuset.cpus || cat /sys/fs/cgroup/cpuset/cpuset.cpus"
# The CPU time used, the periods in which it was, and in how many of them the quota was used up.
COUNTS = (
    "cat /sys/fs/cgroup/cpu.stat || { cat /sys/fs/cgroup/cpu/cpu.stat;"
    " echo usage_usec $(($(cat /sys/fs/cgroup/cpuacct/cpuacct.usage) / 1000)); }"
)


def seen(cri: Cri, container: str, limit: str) -> str:
    return cri.sh(container, f"{{ {limit}; }} 2>/dev/null").strip()


def test_limits_are_set_and_changed(trial: PodTrial) -> None:
    cri = trial.cri
    limits = Resources(memory=64 * MEBIBYTE, cpu_quota=50_000, cpu_period=100_000, cpu_shares=512)
    _, container = trial.run(Container(resources=limits))
    assert seen(cri, container, MEMORY) == str(64 * MEBIBYTE)
    assert (seen(cri, container, QUOTA), seen(cri, container, PERIOD)) == ("50000", "100000")

    for memory, quota in ((128 * MEBIBYTE, 150_000), (48 * MEBIBYTE, 20_000)):
        changed = Resources(memory=memory, cpu_quota=quota, cpu_period=100_000, cpu_shares=512)
        cri.update(container, changed)
        assert seen(cri, container, MEMORY) == str(memory)
        assert seen(cri, container, QUOTA) == str(quota)
    # What is not named stays.
    cri.update(container, Resources(memory=32 * MEBIBYTE))
    assert seen(cri, container, MEMORY) == str(32 * MEBIBYTE)
    assert seen(cri, container, QUOTA) == "20000"


def test_no_limit_is_no_limit(trial: PodTrial) -> None:
    cri = trial.cri
    _, container = trial.run(Container(resources=Resources()))
    memory = seen(cri, container, MEMORY)
    assert memory == "max" or int(memory) > 1 << 60
    assert seen(cri, container, QUOTA) in {"max", "-1"}


def test_a_quota_slows(trial: PodTrial) -> None:
    """A fifth of a CPU: of each period that the kernel counts, not of this machine's time."""
    cri = trial.cri
    burn = ("sh", "-c", "while :; do :; done")
    _, container = trial.run(
        Container(command=burn, resources=Resources(cpu_quota=400_000, cpu_period=100_000))
    )

    def counts() -> tuple[int, int, int]:
        words = seen(cri, container, COUNTS).split()
        found = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return found["usage_usec"], found["nr_periods"], found["nr_throttled"]

    # A loop and who asks cannot use four CPUs.
    wait_until(lambda: counts()[0] > 500_000, "CPU time is used", trial.runtime.patience_s)
    assert counts()[2] == 0
    cri.update(container, Resources(cpu_quota=20_000, cpu_period=100_000))
    before = counts()
    wait_until(lambda: counts()[2] >= before[2] + 20, "the quota holds", trial.runtime.patience_s)
    used, periods, _ = (now - then for now, then in zip(counts(), before, strict=True))
    print(f"{used / periods:.0f} us of each period, which may have 20 000")
    # A thread may exceed its share before it is held back; half of a CPU would be 50 000.
    assert used < periods * 50_000


def test_too_much_memory_kills_with_a_reason(trial: PodTrial, tmp_path: Path) -> None:
    cri = trial.cri
    limits = Resources(memory=32 * MEBIBYTE)
    pod, other = trial.run(Container(name="other"))
    # runc's shim watches for a lack of memory only after the start.
    command = ("sh", "-c", f"{until_exists('/shared/go')}; exec tail /dev/zero")
    shared = (Mount(tmp_path, "/shared"),)
    hungry = Container(name="hungry", command=command, mounts=shared, resources=limits)
    container = cri.run(pod, hungry)
    (tmp_path / "go").touch()
    assert cri.wait_for_end(container, trial.runtime.patience_s).exit_code == 137
    # The events of the lack and of the end come in any order.
    wait_until(lambda: cri.status(container).reason == "OOMKilled", "the reason is told", 60)
    assert cri.state(other) == "RUNNING"


def test_the_number_of_processes(trial: PodTrial) -> None:
    if not (trial.runtime.is_machine or pod_cgroup.is_unified()):
        pytest.skip("the CRI has this limit for cgroup v2 only, and this machine has v1")
    cri = trial.cri
    limits = Resources(unified={"pids.max": "16"})
    _, container = trial.run(Container(resources=limits))
    script = "for i in $(seq 1 40); do sleep 20 >/dev/null 2>&1 & done; true"
    ended = cri.exec(container, "sh", "-c", script)
    assert "can't fork" in ended.stderr


def test_the_set_of_cpus(trial: PodTrial) -> None:
    cri = trial.cri
    _, container = trial.run(Container(resources=Resources(cpuset_cpus="0")))
    assert seen(cri, container, CPUSET) == "0"
    assert cri.sh(container, "nproc").strip() == "1"


def test_shared_memory(trial: PodTrial) -> None:
    """64 MiB, one folder for the pod."""
    cri = trial.cri
    pod, one = trial.run(Container(name="one"))
    other = cri.run(pod, Container(name="other"))
    size = cri.sh(one, "df -k /dev/shm | tail -n 1").split()
    assert size[1] == str(64 * 1024)
    full = cri.exec(one, "sh", "-c", "dd if=/dev/zero of=/dev/shm/much bs=1M count=65")
    assert "No space left on device" in full.stderr
    assert cri.sh(other, "stat -c %s /dev/shm/much").strip() == str(64 * MEBIBYTE)
    cri.sh(other, "rm /dev/shm/much")


def test_the_pods_cgroup_holds_all_of_it(trial: PodTrial) -> None:
    """Every process of the pod is below the cgroup that kubelet made, and so is accounted."""
    pod, _ = trial.run(pod=Pod(overhead=Resources(memory=160 * MEBIBYTE)))
    root = pod_cgroup.folders(pod.cgroup)[0]

    def inside() -> set[int]:
        files = [root / "cgroup.procs", *root.rglob("cgroup.procs")]
        return {int(word) for file in files for word in file.read_text().split()}

    def has(start: str) -> bool:
        return any(command(pid).startswith(start) for pid in inside())

    if trial.runtime.is_machine:
        wait_until(lambda: any("qemu" in command(pid) for pid in inside()), "QEMU is inside", 60)
        outside = {
            int(item.what.split()[0])
            for item in trial.new()
            if item.kind == "process" and "containerd-shim" not in item.what
        } - inside()
        assert outside == set()
    else:
        # Each is the runtime's own program before it becomes the command.
        for start in ("/pause", "sleep"):
            wait_until(lambda start=start: has(start), f"{start} is inside", 60)  # type: ignore[misc]


def command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""
