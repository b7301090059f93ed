"""Security contexts: who a container's processes are, and what they are kept from."""

import json
import os
from pathlib import Path
from typing import Final

import pytest
from lab.cri import Cri, CriError, RunningPod
from lab.pod import MASKED_PATHS, RUNTIME_DEFAULT, Container, Mount, Pod, Seccomp, Security
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

# Bits of capabilities(7).
CAPABILITIES: Final = {
    "CHOWN": 0,
    "KILL": 5,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_ADMIN": 21,
    "SYS_TIME": 25,
}
# What containerd gives a container that asks for nothing.
DEFAULT: Final = 0xA80425FB
STATUS = "cat /proc/self/status"


def status(cri: Cri, container: str) -> dict[str, str]:
    lines = cri.sh(container, STATUS).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def wait_for(cri: Cri, container: str, script: str, said: str) -> None:
    """Return once a script says so: process 1 is the runtime's own before it becomes the command."""
    wait_until(lambda: cri.sh(container, script).strip() == said, f"{script} says {said}", 60)


def with_security(name: str, **fields: object) -> Container:
    return Container(name=name, security=Security(**fields))  # type: ignore[arg-type]


def test_users_and_groups(trial: PodTrial, shared_pod: RunningPod) -> None:
    cri = trial.cri
    user = {"run_as_user": 1234, "run_as_group": 2345}
    container = trial.add(
        shared_pod, with_security("user", **user, supplemental_groups=(3000, 4000))
    )
    seen = status(cri, container)
    assert seen["Uid"].split() == ["1234"] * 4
    assert seen["Gid"].split() == ["2345"] * 4
    assert set(seen["Groups"].split()) >= {"3000", "4000"}
    assert "0" not in seen["Groups"].split()
    # Of the container's process itself, too, and none of its capabilities is effective.
    wait_for(cri, container, "stat -c %u:%g /proc/1", "1234:2345")
    assert int(seen["CapEff"], 16) == 0
    assert cri.exec(container, "sh", "-c", "echo > /etc/x").code != 0


def test_a_volume_of_a_group(trial: PodTrial, shared_pod: RunningPod, tmp_path: Path) -> None:
    """fsGroup: kubelet gives the volume to the group, which the container then is in."""
    cri = trial.cri
    shared = tmp_path / "shared"
    shared.mkdir()
    tmp_path.chmod(0o755)
    shared.chmod(0o2770)
    os.chown(shared, 0, 4000)
    member = Container(
        name="member",
        mounts=(Mount(shared, "/volume"),),
        security=Security(run_as_user=1234, supplemental_groups=(4000,)),
    )
    container = trial.add(shared_pod, member)
    assert (
        cri.sh(container, "echo mine > /volume/file; stat -c %u:%g /volume/file") == "1234:4000\n"
    )
    assert (shared / "file").stat().st_gid == 4000
    cri.sh(container, "mkdir /volume/made && ln -s file /volume/link && mkfifo /volume/made/fifo")
    assert {path.lstat().st_gid for path in shared.rglob("*")} == {4000}

    stranger = Container(
        name="stranger",
        mounts=(Mount(shared, "/volume"),),
        security=Security(run_as_user=1234, supplemental_groups=(4001,)),
    )
    outside = trial.add(shared_pod, stranger)
    for command in ("touch /volume/theirs", "mkdir /volume/theirs", "cat /volume/file"):
        assert "Permission denied" in cri.exec(outside, "sh", "-c", command).stderr


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), DEFAULT),
        (("NET_ADMIN", "SYS_TIME"), (), DEFAULT | 1 << 12 | 1 << 25),
        ((), ("CHOWN", "KILL"), DEFAULT & ~(1 << 0 | 1 << 5)),
        ((), ("ALL",), 0),
        (("NET_BIND_SERVICE",), ("ALL",), 1 << 10),
    ],
    ids=["default", "added", "dropped", "all dropped", "all dropped and one added"],
)
def test_capabilities(
    trial: PodTrial,
    shared_pod: RunningPod,
    add: tuple[str, ...],
    drop: tuple[str, ...],
    expected: int,
) -> None:
    container = trial.add(shared_pod, with_security("able", add=add, drop=drop))
    seen = status(trial.cri, container)
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(seen[kind], 16) == expected, kind
    for name in add:
        assert expected >> CAPABILITIES[name] & 1


def test_capabilities_work(trial: PodTrial, shared_pod: RunningPod) -> None:
    """Not the bits alone: what they allow, and what is refused without them."""
    cri = trial.cri
    able = trial.add(shared_pod, with_security("able", add=("NET_ADMIN",)))
    cri.sh(able, "ip link set lo mtu 65000 && ip link set lo mtu 65536")
    plain = trial.add(shared_pod, with_security("plain"))
    assert cri.exec(plain, "ip", "link", "set", "lo", "mtu", "65000").code != 0
    none = trial.add(shared_pod, with_security("none", drop=("ALL",)))
    assert "Operation not permitted" in cri.exec(none, "chown", "1:1", "/etc/passwd").stderr


def test_a_root_that_is_read_only(trial: PodTrial, shared_pod: RunningPod) -> None:
    container = trial.add(shared_pod, with_security("frozen", readonly_rootfs=True))
    for path in ("/x", "/etc/passwd", "/root/x"):
        ended = trial.cri.exec(container, "sh", "-c", f"echo > {path}")
        assert "Read-only file system" in ended.stderr
    trial.cri.sh(container, "echo > /dev/shm/x; rm /dev/shm/x")


def test_no_new_privileges(trial: PodTrial, shared_pod: RunningPod) -> None:
    for allowed, seen in ((True, "0"), (False, "1")):
        wanted = with_security(f"privileges-{seen}", allow_privilege_escalation=allowed)
        container = trial.add(shared_pod, wanted)
        assert status(trial.cri, container)["NoNewPrivs"] == seen
        wait_for(trial.cri, container, "grep NoNewPrivs /proc/1/status", f"NoNewPrivs:\t{seen}")


def test_seccomp(trial: PodTrial, shared_pod: RunningPod, tmp_path: Path) -> None:
    cri = trial.cri
    free = trial.add(shared_pod, with_security("free"))
    assert status(cri, free)["Seccomp"] == "0"
    cri.sh(free, "unshare --user true 2>/dev/null || unshare -U true")

    standard = trial.add(shared_pod, with_security("standard", seccomp=RUNTIME_DEFAULT))
    assert status(cri, standard)["Seccomp"] == "2"
    assert "Operation not permitted" in cri.exec(standard, "unshare", "-U", "true").stderr

    profile = tmp_path / "profile.json"
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 36}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    own = trial.add(shared_pod, with_security("own", seccomp=Seccomp.localhost(profile)))
    assert status(cri, own)["Seccomp"] == "2"
    assert "File name too long" in cri.exec(own, "mkdir", "/x").stderr
    missing = with_security("missing", seccomp=Seccomp.localhost(tmp_path / "absent.json"))
    with pytest.raises(CriError, match=r"absent\.json"):
        trial.add(shared_pod, missing)


def test_paths_that_are_masked(trial: PodTrial, shared_pod: RunningPod) -> None:
    cri = trial.cri
    masked = trial.add(shared_pod, with_security("masked"))
    for path in MASKED_PATHS:
        script = f"if test -d {path}; then ls -A {path}; else cat {path} 2>/dev/null; fi; true"
        assert cri.sh(masked, script) == "", path
    write = "echo 1 > /proc/sys/net/ipv4/ip_forward"
    assert "Read-only file system" in cri.exec(masked, "sh", "-c", write).stderr
    unmasked = with_security("bare", unmasked=True, add=("NET_ADMIN",))
    bare = trial.add(shared_pod, unmasked)
    assert cri.sh(bare, "ls -A /sys/firmware").strip() != ""
    cri.sh(bare, write)


def test_kernel_parameters(trial: PodTrial) -> None:
    """Safe and unsafe ones: kubelet decides that, not the runtime."""
    wanted = {
        "kernel.shm_rmid_forced": "1",
        "net.ipv4.ip_local_port_range": "20000 30000",
        "net.core.somaxconn": "321",
        "kernel.msgmax": "12345",
    }
    _, container = trial.run(pod=Pod(sysctls=wanted))
    for name, value in wanted.items():
        path = name.replace(".", "/")
        assert trial.cri.sh(container, f"cat /proc/sys/{path}").split() == value.split(), name
    # Those that containerd sets by itself: small ports and echo requests are everyone's.
    seen = trial.cri.sh(container, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert seen.strip() == "0"


def test_kernel_parameters_of_the_host(trial: PodTrial) -> None:
    with pytest.raises(CriError, match=r'sysctl "kernel\.panic" is not in a separate kernel'):
        trial.run_pod(Pod(sysctls={"kernel.panic": "5"}))


def test_privileged(trial: PodTrial) -> None:
    """Every right in the pod; under a machine's kernel, and without the host's devices."""
    cri = trial.cri
    security = Security(privileged=True)
    _, container = trial.run(Container(security=security), Pod(privileged=True))
    effective = int(status(cri, container)["CapEff"], 16)
    for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_TIME"):
        assert effective >> CAPABILITIES[name] & 1, name
    cri.sh(container, "mkdir /m; mount -t tmpfs none /m; umount /m")
    cri.sh(container, "test -w /proc/sys/kernel/domainname && test -w /sys/fs")
    assert status(cri, container)["Seccomp"] == "0"
    devices = set(cri.sh(container, "ls /dev").split())
    if trial.runtime.is_machine:
        assert not devices & {path.name for path in Path("/dev").glob("loop*")}
    else:
        assert "loop-control" in devices


def test_process_namespaces(trial: PodTrial) -> None:
    cri = trial.cri
    pod = trial.run_pod(Pod(share_process_namespace=True))
    one = cri.run(pod, Container(name="one", command=("sleep", "11111")))
    other = cri.run(pod, Container(name="other", command=("sleep", "22222")))
    commands = {"sleep 11111", "sleep 22222", "/pause"}
    wait_until(lambda: commands <= set(cri.sh(one, "ps -o args").splitlines()), "all are seen", 60)
    assert cri.sh(one, "cat /proc/1/cmdline").rstrip("\0") == "/pause"
    # One may look at and end another's process; a child that lost its parent is reaped by pause.
    cri.sh(one, "kill -KILL $(pidof sleep | tr ' ' '\\n' | while read p; do "
        "grep -q 22222 /proc/$p/cmdline && echo $p; done)")  # fmt: skip
    assert cri.wait_for_end(other).exit_code == 137
    cri.sh(one, "(sh -c 'sleep 0.2 &' >/dev/null 2>&1 </dev/null); sleep 0.6")
    assert "[sleep]" not in cri.sh(one, "ps -o stat,args")

    alone = trial.run()[1]
    assert "/pause" not in cri.sh(alone, "ps -o args").splitlines()
    wait_for(cri, alone, "tr '\\0' ' ' < /proc/1/cmdline", "sleep 100000")


def test_the_hosts_processes(trial: PodTrial) -> None:
    """hostPID and hostIPC: the namespaces around the pod, which are the machine's own in a VM."""
    pod = Pod(host_pid=True, host_ipc=True)
    _, container = trial.run(Container(command=("sleep", "33333")), pod)
    first = trial.cri.sh(container, "cat /proc/1/cmdline").split("\0")[0]
    assert first not in {"sleep", "/pause"}
    if not trial.runtime.is_machine:
        for kind in ("pid", "ipc"):
            inside = trial.cri.sh(container, f"readlink /proc/self/ns/{kind}").strip()
            assert inside == os.readlink(f"/proc/self/ns/{kind}")
