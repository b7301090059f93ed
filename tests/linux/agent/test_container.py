"""What a program finds in its container: files, identity, limits, and what it must not find."""

# A look at a file of this host blocks nobody here.

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from containers import (
    DEFAULT_CAPABILITIES,
    MASKED,
    READONLY,
    Guest,
    make_process,
    make_spec,
)

from kata_agent.identity import mask
from kata_api import agent_service as api
from kata_api import health
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import health_pb2
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode

# 32 and 33 are the C library's own; whoever runs us through posix_spawn (make) leaves them ignored.
LIBRARY_SIGNALS = 0b11 << 31
# Those that Python ignores, and the agent must give back. The guest's kernel ignores none for it; a
# shell that runs us in the background has us ignore SIGQUIT.
_OF_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1

pytestmark = pytest.mark.linux


async def probe(guest: Guest, command: str, **fields: object) -> str:
    code, out, err = await guest.run("sh", "-c", command, **fields)
    assert (code, err) == (0, "")
    return out


async def status(guest: Guest, **fields: object) -> dict[str, str]:
    # No shell: busybox runs cat inside of it, with the shell's signal handlers.
    code, out, _ = await guest.run("cat", "/proc/self/status", **fields)
    assert code == 0
    lines = out.splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_environment_and_directory(guest: Guest) -> None:
    out = await probe(guest, "env; pwd", Env=["PATH=/bin", "A=1", "B=x=y", "A=2"], Cwd="/made/here")
    assert sorted(out.splitlines()) == sorted(
        ["PATH=/bin", "A=2", "B=x=y", "HOME=/root", "PWD=/made/here", "/made/here", "SHLVL=1"]
    )


async def test_home_is_from_the_container_s_passwd(guest: Guest) -> None:
    out = await probe(guest, "echo $HOME", User=oci.User(UID=1000, GID=1000))
    assert out == "/home/ann\n"
    assert await probe(guest, "echo $HOME", User=oci.User(UID=4242)) == "/\n"


async def test_user_groups_and_capabilities_of_a_plain_user(guest: Guest) -> None:
    found = await status(guest, User=oci.User(UID=1000, GID=1001, AdditionalGids=[5, 20]))
    assert found["Uid"].split() == ["1000"] * 4
    assert found["Gid"].split() == ["1001"] * 4
    assert found["Groups"].split() == ["5", "20"]
    assert found["NoNewPrivs"] == "1"
    assert found["Umask"] == "0022"
    assert int(found["CapEff"], 16) == 0  # execve of a plain user without ambient ones
    assert int(found["CapBnd"], 16) == mask(DEFAULT_CAPABILITIES)
    own = Path("/proc/self/status").read_text().split("SigIgn:\t")[1].split()[0]
    spared = LIBRARY_SIGNALS | int(own, 16) & ~_OF_PYTHON
    for field in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(found[field], 16) & ~spared == 0


async def test_ambient_capabilities_survive_the_user(guest: Guest) -> None:
    names = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]
    every = oci.LinuxCapabilities(
        Bounding=names, Effective=names, Permitted=names, Inheritable=names, Ambient=names
    )
    found = await status(guest, User=oci.User(UID=1000, GID=1000), Capabilities=every)
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[field], 16) == mask(names)


async def test_plain_user_can_write_to_its_own_output(guest: Guest) -> None:
    user = oci.User(UID=1000, GID=1000)
    assert await probe(guest, "echo hi > /dev/stdout", User=user) == "hi\n"


async def test_limits(guest: Guest) -> None:
    limits = [
        oci.POSIXRlimit(Type="RLIMIT_NOFILE", Soft=100, Hard=200),
        oci.POSIXRlimit(Type="RLIMIT_CORE", Soft=0, Hard=2**64 - 1),
    ]
    out = await probe(guest, "cat /proc/self/limits", Rlimits=limits)
    rows = {line[:26].strip(): line[26:].split()[:2] for line in out.splitlines()}
    assert rows["Max open files"] == ["100", "200"]
    assert rows["Max core file size"] == ["0", "unlimited"]


async def test_unknown_limit_names_itself(guest: Guest) -> None:
    process = make_process("true", Rlimits=[oci.POSIXRlimit(Type="RLIMIT_LUCK", Soft=1, Hard=1)])
    with pytest.raises(RpcError, match="RLIMIT_LUCK"):
        await guest.create(make_spec(guest.new_rootfs(), process))


async def test_oom_score(guest: Guest) -> None:
    assert await probe(guest, "cat /proc/self/oom_score_adj", OOMScoreAdj=300) == "300\n"


async def test_sees_only_itself(guest: Guest) -> None:
    out = await probe(guest, "ls /proc")
    assert [int(name) for name in out.split() if name.isdigit()] == [1]
    mounts = await probe(guest, "cat /proc/self/mountinfo")
    assert "/tmp/pytest" not in "".join(line.split()[4] for line in mounts.splitlines())
    assert sum(line.split()[4] == "/" for line in mounts.splitlines()) == 1
    assert await probe(guest, "cat /proc/self/cgroup | grep ^0:") == "0::/\n"


async def test_devices_and_links(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sh", "-c", "stat -c '%n %a %t:%T' /dev/*"))
    spec.Linux.Devices.add(Path="/dev/mine", Type="c", Major=1, Minor=3, FileMode=0o640, UID=7)
    _, out, _ = await guest.run_spec(spec)
    lines = out.splitlines()
    for name, number in (("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("tty", "5:0")):
        assert f"/dev/{name} 666 {number}" in lines
    assert "/dev/mine 640 1:3" in lines
    links = await probe(guest, "for l in fd stdin ptmx; do readlink /dev/$l; done")
    assert links.split() == ["/proc/self/fd", "/proc/self/fd/0", "pts/ptmx"]
    assert await probe(guest, "head -c 4 /dev/zero | wc -c; echo x > /dev/null") == "4\n"


async def test_a_disk_that_is_closed_is_a_node_that_opens_for_nobody(guest: Guest) -> None:
    root = guest.new_rootfs()
    script = "for each in /dev/a /b/c; do stat -c '%F %a %u' $each; cat $each; done"
    spec = make_spec(root, make_process("sh", "-c", script))
    for path in ("/dev/a", "/b/c"):
        device = oci.LinuxDevice(Path=path, Type="b", Major=0, Minor=0, FileMode=0o640, UID=7)
        spec.Linux.Devices.append(device)
    try:
        name = await guest.create(spec)
        await guest.start(name)
        await guest.wait(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/dev/no-disk-640-7-0")
    assert await guest.read_all(name) == b"block special file 640 7\n" * 2
    said = (await guest.read_all(name, stderr=True)).decode()
    assert said.count("Operation not permitted") == 2
    # Shown there, not made: a file system that the host shares may not be able to hold one.
    assert Path(root, "b/c").is_file()


async def test_masked_and_read_only_paths(guest: Guest) -> None:
    command = """
        for p in MASKED; do
            if test -d $p; then ls $p | wc -l; elif test -e $p; then cat $p | wc -c; fi
        done
        for p in READONLY; do
            test ! -e $p || grep -q " $p [^ ]* ro[, ]" /proc/mounts || echo writable $p
        done
        if echo 1 2>/dev/null > /proc/sys/kernel/printk; then echo hole; fi
    """
    command = command.replace("MASKED", " ".join(MASKED)).replace("READONLY", " ".join(READONLY))
    assert set((await probe(guest, command)).split()) == {"0"}


async def test_read_only_root(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sh", "-c", "touch /x; touch /run/y"))
    spec.Root.Readonly = True
    code, _, err = await guest.run_spec(spec)
    assert (code, err) == (0, "touch: /x: Read-only file system\n")


async def test_binds(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/data").write_text("from outside")
    (tmp_path / "file").write_text("single")
    command = "cat /in/data /etc/single; echo; echo z > /rw/new; touch /in/x; touch /etc/single"
    spec = make_spec(guest.new_rootfs(), make_process("sh", "-c", command))
    for source, target, options in (
        ("shared", "/in", ["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]),
        ("shared", "/rw", ["bind"]),
        ("file", "/etc/single", ["bind", "ro"]),
    ):
        spec.Mounts.add(
            type="bind", source=str(tmp_path / source), destination=target, options=options
        )
    _, out, err = await guest.run_spec(spec)
    assert out == "from outsidesingle\n"
    assert err.count("Read-only file system") == 2
    assert (tmp_path / "shared/new").read_text() == "z\n"


async def test_image_s_links_never_lead_a_mount_outside(guest: Guest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = guest.new_rootfs()
    os.symlink(str(outside), root + "/trap")
    os.symlink("../../../../../../../.." + str(outside), root + "/etc/trap")
    for target in ("/trap/here", "/etc/trap"):
        spec = make_spec(root, make_process("true"))
        spec.Mounts.add(type="tmpfs", source="tmpfs", destination=target)
        assert (await guest.run_spec(spec))[0] == 0
    assert list(outside.iterdir()) == []
    assert os.path.isdir(root + str(outside))


async def test_failed_step_is_named_and_leaves_nothing(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    spec.Mounts.add(type="bind", source="/no/such/place", destination="/x", options=["bind"])
    with pytest.raises(RpcError) as caught:
        await guest.create(spec, name="twice")
    assert caught.value.code == StatusCode.INTERNAL
    assert caught.value.message == (
        'error mounting "/no/such/place" to rootfs at "/x": mount bind (bind): no such file or directory'
    )
    del spec.Mounts[-1]
    assert await guest.create(spec, name="twice") == "twice"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.Linux.Seccomp.SetInParent(), "defaultAction: '' is none of SCMP_ACT_ALLOW"),
        (lambda s: s.Linux.UIDMappings.add(Size=1), "user namespaces are not"),
        (lambda s: setattr(s.Process, "ApparmorProfile", "x"), "AppArmor"),
        (lambda s: setattr(s.Process, "SelinuxLabel", "x"), "SELinux"),
        (
            lambda s: s.Linux.Sysctl.update({"kernel.panic": "1"}),
            'sysctl "kernel.panic" is not in a separate',
        ),
        (lambda s: s.Linux.Sysctl.update({"net./../x": "1"}), "not in a separate"),
        (lambda s: s.Hooks.Prestart.add(Path="/x"), "hooks"),
        (lambda s: s.Process.Args.pop(), "args must not be empty"),
        (lambda s: setattr(s.Root, "Path", "/nonexistent"), "no directory"),
        (lambda s: setattr(s.Linux, "CgroupsPath", "/../../evil"), "cgroupsPath"),
    ],
)
async def test_refusals(guest: Guest, change: object, message: str) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    assert callable(change)
    change(spec)
    with pytest.raises(RpcError, match=message) as caught:
        await guest.create(spec)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


async def test_limit_without_its_controller_is_explained(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    spec.Linux.Resources.Memory.Limit = 64 << 20
    controllers = Path(guest.cgroup_root, "cgroup.controllers").read_text()
    if "memory" in controllers.split():
        pytest.skip("missing: a unified hierarchy without the memory controller")
    with pytest.raises(RpcError, match=r"cannot limit memory\.max to 67108864.*cgroup_no_v1"):
        await guest.create(spec)


async def test_cgroup_is_made_and_removed(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sleep", "100"))
    spec.Linux.CgroupsPath = "/pods/one"
    name = await guest.create(spec)
    await guest.start(name)
    group = Path(guest.cgroup_root, "pods/one")
    assert len((group / "cgroup.procs").read_text().split()) == 1
    await guest.remove(name)
    assert not group.exists()


async def test_pause_and_resume(guest: Guest) -> None:
    name = await guest.launch("sh", "-c", "while :; do echo x; sleep 0.01; done")
    await guest.read_some(name)
    await guest.client.call(api.PAUSE_CONTAINER, pb.PauseContainerRequest(container_id=name))
    group = Path(guest.cgroup_root, "kata", name)
    assert "frozen 1" in (group / "cgroup.events").read_text()
    await guest.client.call(api.RESUME_CONTAINER, pb.ResumeContainerRequest(container_id=name))
    assert "frozen 0" in (group / "cgroup.events").read_text()
    assert await guest.read_some(name)


async def test_paused_container_can_be_removed(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.client.call(api.PAUSE_CONTAINER, pb.PauseContainerRequest(container_id=name))
    await guest.remove(name)


async def test_statistics(guest: Guest) -> None:
    name = await guest.launch("sh", "-c", "i=0; while test $i -lt 20000; do i=$((i+1)); done")
    await guest.wait(name)
    request = pb.StatsContainerRequest(container_id=name)
    stats = (await guest.client.call(api.STATS_CONTAINER, request)).cgroup_stats
    usage = stats.cpu_stats.cpu_usage
    assert usage.total_usage > 1_000_000
    assert usage.total_usage >= usage.usage_in_usermode


async def test_network_statistics_are_those_of_every_interface_but_the_loopback(
    guest: Guest,
) -> None:
    name = await guest.sleeper()

    def counted() -> dict[str, int]:
        found = {}
        for interface in set(os.listdir("/sys/class/net")) - {"lo"}:
            with contextlib.suppress(OSError):  # no interface, or gone
                counter = Path("/sys/class/net", interface, "statistics/rx_bytes")
                found[interface] = int(counter.read_text())
        return found

    before = counted()
    request = pb.StatsContainerRequest(container_id=name)
    stats = await guest.client.call(api.STATS_CONTAINER, request)
    after = counted()
    told = {each.name: each.rx_bytes for each in stats.network_stats}
    assert "lo" not in told
    for interface in before.keys() & after.keys():  # others come and go on this host
        assert before[interface] <= told[interface] <= after[interface]


async def test_storages_are_mounted_shared_and_undone(guest: Guest, tmp_path: Path) -> None:
    point, source = tmp_path / "volume", tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("bound")
    storages = [
        pb.Storage(
            driver="ephemeral",
            source="tmpfs",
            fstype="tmpfs",
            mount_point=str(point),
            options=["size=1m", "mode=755"],
            fs_group=pb.FSGroup(group_id=4000),
        ),
        pb.Storage(driver="bind", source=str(source), mount_point=str(point / "b"), options=["ro"]),
        pb.Storage(driver="local", mount_point=str(tmp_path / "local"), options=["mode=1777"]),
    ]
    names = []
    for _ in range(2):
        spec = make_spec(guest.new_rootfs(), make_process("sleep", "100"))
        names.append(await guest.create(spec, storages=storages))
    assert os.path.ismount(point)
    assert (point / "b/f").read_text() == "bound"
    assert (point.stat().st_gid, point.stat().st_mode & 0o7777) == (4000, 0o2775)
    assert (tmp_path / "local").stat().st_mode & 0o7777 == 0o1777
    bigger = pb.Storage(driver="ephemeral", mount_point=str(point), options=["size=2m"])
    await guest.client.call(
        api.UPDATE_EPHEMERAL_MOUNTS, pb.UpdateEphemeralMountsRequest(storages=[bigger])
    )
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize == 2 << 20
    await guest.remove(names[0])
    assert os.path.ismount(point)
    await guest.remove(names[1])
    assert not os.path.ismount(point)


async def test_failed_storage_is_explained_and_leaves_no_mount(
    guest: Guest, tmp_path: Path
) -> None:
    good = pb.Storage(driver="ephemeral", mount_point=str(tmp_path / "good"))
    for bad, code in (
        (pb.Storage(driver="bind", source="/no/such", mount_point=str(tmp_path / "b")), "INTERNAL"),
        (pb.Storage(driver="floppy", mount_point="/x"), "INVALID_ARGUMENT"),
    ):
        spec = make_spec(guest.new_rootfs(), make_process("true"))
        with pytest.raises(RpcError, match=bad.driver) as caught:
            await guest.create(spec, storages=[good, bad])
        assert caught.value.code.name == code
        assert not os.path.ismount(tmp_path / "good")


async def test_sandbox_writes_name_servers(guest: Guest, tmp_path: Path) -> None:
    request = pb.CreateSandboxRequest(dns=["search a.example", "192.0.2.1", "nameserver 192.0.2.2"])
    await guest.client.call(api.CREATE_SANDBOX, request)
    assert (tmp_path / "resolv.conf").read_text() == (
        "search a.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
    )


async def test_remove_of_a_running_container_kills_all(guest: Guest) -> None:
    name = await guest.launch("sh", "-c", "trap '' TERM; sleep 500 & sleep 500")
    await guest.execute(name, "e", make_process("sleep", "500"))
    await guest.remove(name, timeout=5)
    with pytest.raises(RpcError) as caught:
        await guest.signal(name, signal.SIGKILL)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


async def test_removal_before_start(guest: Guest) -> None:
    name = await guest.create(make_spec(guest.new_rootfs(), make_process("true")))
    await guest.remove(name)
    assert await guest.create(make_spec(guest.new_rootfs(), make_process("true")), name) == name


async def test_health(guest: Guest) -> None:
    check = await guest.client.call(health.CHECK, health_pb2.CheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    version = await guest.client.call(health.VERSION, health_pb2.CheckRequest())
    assert version.agent_version


async def test_guest_details(guest: Guest) -> None:
    request = pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
    details = await guest.client.call(api.GET_GUEST_DETAILS, request)
    assert "virtio-fs" in details.agent_details.storage_handlers
    assert details.agent_details.supports_seccomp
    assert not details.agent_details.init_daemon


async def test_absent_methods_say_so(guest: Guest) -> None:
    with pytest.raises(RpcError) as caught:
        await guest.client.call(api.SET_POLICY, pb.SetPolicyRequest())
    assert caught.value.code == StatusCode.UNIMPLEMENTED


async def test_keys_are_the_containers_own(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sleep", "100"))
    spec.Linux.ClearField("MaskedPaths")
    name = await guest.create(spec)
    await guest.start(name)
    command = make_process("sh", "-c", "grep -o ' _ses[^:]*' /proc/keys")
    await guest.execute(name, "keys", command)
    _, said, _ = await guest.collect(name, "keys")
    # Every user sees its own keyrings of the whole system, those of other containers of root too.
    assert f"_ses.{name}" in said.split()
    await guest.remove(name)


@pytest.mark.parametrize("user", [oci.User(UID=2**32 - 1), oci.User(GID=2**32 - 1)])
async def test_an_id_that_is_none_does_not_mean_root(guest: Guest, user: oci.User) -> None:
    with pytest.raises(RpcError, match="invalid argument"):
        await probe(guest, "id", User=user)
