"""What of a specification is refused, what is warned of, and what becomes of the rest."""

import logging
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kata.agent_client import to_agent
from kata.sandbox import guest_spec
from kata.sandbox.errors import UnimplementedError
from kata.storage.share import Share
from kata_api import oci

pytestmark = pytest.mark.unit

_SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}]},
}


def _spec(**linux: Any) -> oci.Spec:
    changed = _SPEC | {"linux": _SPEC["linux"] | linux}
    return oci.decode_spec(msgspec.json.encode(changed))


def test_a_plain_specification_passes_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    guest_spec.check(_spec(), guest_seccomp=False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("linux", "says"),
    [
        ({"netDevices": {"eth0": {"name": "a"}}}, "linux.netDevices"),
        ({"intelRdt": {"closID": "a"}}, "linux.intelRdt"),
        ({"resources": {"network": {"classID": 1}}}, "linux.resources.network"),
        ({"resources": {"cpu": {"realtimeRuntime": 1}}}, "linux.resources.cpu.realtimeRuntime"),
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "user namespaces"),
    ],
)
def test_refuses(linux: dict[str, Any], says: str) -> None:
    with pytest.raises(UnimplementedError, match=says):
        guest_spec.check(_spec(**linux), guest_seccomp=False)


def test_a_seccomp_listener_is_refused() -> None:
    spec = _spec(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener"})
    with pytest.raises(UnimplementedError, match="listenerPath"):
        guest_spec.check(spec, guest_seccomp=True)
    guest_spec.check(spec, guest_seccomp=False)


@pytest.mark.parametrize(
    ("linux", "says"),
    [
        ({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}, "linux.seccomp"),
        ({"resources": {"cpu": {"cpus": "0-3"}}}, "linux.resources.cpu.cpus"),
        ({"resources": {"memory": {"swappiness": 0}}}, "linux.resources.memory.swappiness"),
    ],
)
def test_warns(linux: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        guest_spec.check(_spec(**linux), guest_seccomp=False)
    assert says in caplog.text


@pytest.mark.parametrize("guest_seccomp", [True, False])
def test_a_profile_reaches_the_guest_unless_it_is_disabled(
    tmp_path: Path, *, guest_seccomp: bool
) -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    spec = _spec(
        seccomp={"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [rule]}
    )
    share = Share("s", str(tmp_path))
    built, _ = guest_spec.build("c1", spec, "/root", share, guest_seccomp=guest_seccomp)
    sent = to_agent.spec(built).Linux
    assert sent.HasField("Seccomp") == guest_seccomp
    if guest_seccomp:
        assert sent.Seccomp.DefaultErrnoRet == 38
        # Zero is not "none", which would mean EPERM.
        assert sent.Seccomp.Syscalls[0].HasField("errnoret")


def test_device_rules_tell_any_number_from_zero() -> None:
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "r"},
    ]
    first, second = to_agent.spec(_spec(resources={"devices": rules})).Linux.Resources.Devices
    assert (first.Allow, first.Type, first.Major, first.Minor, first.Access) == (
        *(False, "", -1, -1),
        "rwm",
    )
    assert (second.Major, second.Minor) == (5, 0)


@pytest.fixture
def disk() -> tuple[str, int]:
    """A block device of this host, which is looked at only."""
    for entry in sorted(os.scandir("/dev"), key=lambda entry: entry.name):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISBLK(status.st_mode):
            return entry.path, status.st_rdev
    pytest.skip("missing: a block device below /dev")


@pytest.mark.parametrize(
    ("rules", "read_only"),
    [
        ([], None),
        (["b *:* m"], None),
        (["b 1:1 rwm", "c MAJOR:MINOR rwm"], None),
        (["b MAJOR:MINOR rwm"], False),
        (["b MAJOR:* r"], True),
        (["a *:* rwm"], False),
    ],
)
def test_a_bound_disk_is_given_as_the_device_rules_allow(
    disk: tuple[str, int], rules: list[str], read_only: bool | None, tmp_path: Path
) -> None:
    path, number = disk
    listed: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for rule in rules:
        kind, place, access = rule.split()
        major, minor = place.split(":")
        names = {"MAJOR": os.major(number), "MINOR": os.minor(number), "*": -1}
        numbers = {"major": names.get(major, 1), "minor": names.get(minor, 1)}
        listed.append({"allow": True, "type": kind, "access": access, **numbers})
    bind = oci.Mount("/dev/bound", "bind", path, ("rbind",))
    spec = msgspec.structs.replace(_spec(resources={"devices": listed}), mounts=(bind,))
    built, wanted = guest_spec.build(
        "c1", spec, "/root", Share("s", str(tmp_path)), guest_seccomp=False
    )
    assert built.linux
    assert built.linux.resources
    (device,) = built.linux.devices
    kept = [each for each in built.linux.resources.devices if each.type == "b"]
    if read_only is None:
        assert wanted.nodes == []  # the machine is not given the disk
        assert (device.path, device.type, device.major, device.minor) == ("/dev/bound", "b", 0, 0)
        assert [(each.major, each.access) for each in kept if each.major != -1] == []
    else:
        assert [(node.number, node.read_only) for node in wanted.nodes] == [(number, read_only)]
        assert os.makedev(device.major, device.minor) == number
        assert {os.makedev(each.major or 0, each.minor or 0) for each in kept} <= {number}
        assert bool(kept) == (rules != ["a *:* rwm"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/c1"),
        ("/default/c1", "/default/c1"),
        ("default/c1", "/default/c1"),
        ("kubepods.slice:cri-containerd:abc", "/kubepods.slice/cri-containerd-abc.scope"),
    ],
)
def test_cgroup_path_is_plain(path: str, expected: str) -> None:
    assert guest_spec.cgroup_path(path, "c1") == expected
