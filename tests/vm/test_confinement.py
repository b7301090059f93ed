"""What QEMU and virtiofsd may do on the host, and what a guest can do through them."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.bundle import Bundle, Configured, specification, wait_gone
from lab.paths import CHECKOUT, GUEST_KERNEL

from kata.host import libc
from kata.resources.cgroup import hierarchies
from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_FILE_CAPABILITIES = {0, 1, 3, 4, 27, 31}
"""chown, dac_override, fowner, fsetid, mknod, setfcap."""

_SCRIPT = r"""
exec 2>&1; cd /
busybox ln -s VICTIM /link; busybox ln -s ../../../../../../../..VICTIM /up
busybox mkfifo /fifo
busybox mknod /disk b 254 0
echo from the guest > /link/x; echo from the guest > /up/x
busybox mount -o remount,rw /readonly; echo from the guest > /readonly/x
echo ready; exec busybox sleep 1000
"""

_PROBE = """
import errno, os, socket, sys
from kata.host import libc
pid, unix, *nodes = sys.argv[1:]
libc.setns(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), libc.CLONE_NEWNS)
libc.keep_capabilities(())
for attempt in (lambda: socket.socket(socket.AF_UNIX).connect(unix),
                *(lambda node=node: os.open(node, os.O_RDWR) for node in nodes)):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
"""Whether a root without capabilities, who sees the mounts of a process, gets at what."""


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _capabilities(text: str) -> set[int]:
    return {number for number in range(64) if int(text, 16) >> number & 1}


def _descendants(pid: int) -> dict[int, str]:
    """Return pid and name of all processes below one."""
    found = {}
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for task_ in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task_ / "children").read_text().split()):
                    with contextlib.suppress(OSError):
                        found[child] = Path(f"/proc/{child}/comm").read_text().strip()
                        found |= _descendants(child)
    return found


def _opened(pid: int) -> set[str]:
    """Return the names of the files that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(link.readlink().name)
    return found


def _writable_mounts(pid: int) -> list[str]:
    """Return the mount points that a process can write below, but for those of the guest."""
    rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return [
        row[4] for row in rows if not row[5].startswith("ro") and "/shared/sandboxes/" not in row[4]
    ]


def _probe(pid: int | str, *paths: Path | str) -> list[str]:
    command = [sys.executable, "-c", _PROBE, str(pid), *map(str, paths)]
    environment = {"PYTHONPATH": str(CHECKOUT / "src")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def _check_reach(pid: int, root: Path, place: Path) -> None:
    """Check what QEMU can connect to and open by path; on the host it all could be."""
    before, guests = place / "node", root / "node"
    for node in (before, guests):  # as a guest with CAP_MKNOD makes them in its root filesystem
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    late = Path(f"/run/kata-test-{os.getpid()}.late")
    late.mkdir()
    libc.mount("none", str(late), "tmpfs")
    other = subprocess.Popen(["sleep", "100"], preexec_fn=lambda: libc.keep_capabilities(()))
    with socket.socket(socket.AF_UNIX) as listener:
        path = Path(f"/run/kata-test-{os.getpid()}.sock")
        listener.bind(str(path))
        try:
            listener.listen()
            (late / "file").touch()
            hidden = ("/dev/ptmx", late / "file", f"/proc/{other.pid}/root{before}")
            paths = (path, before, guests, *hidden, "/dev/null", "/dev/urandom")
            assert _probe("self", *paths) == ["done"] * 8
            reached = ["ENOENT", "EACCES", "EACCES", *["ENOENT"] * 3, "done", "done"]
            assert _probe(pid, *paths) == reached
        finally:
            other.kill()
            other.wait()
            libc.umount(str(late))
            late.rmdir()
            path.unlink()
            before.unlink()
            guests.unlink()


def _check_file_servers(shim_pid: int, sandbox_id: str) -> int:
    """Check every virtiofsd below a shim; return how many there are."""
    servers = [
        child for child, name in _descendants(shim_pid).items() if name.startswith("virtiofsd")
    ]
    for server in servers:
        status = _status(server)
        assert status["NoNewPrivs"] == "1"
        assert _capabilities(status["CapBnd"]) < _FILE_CAPABILITIES | set(range(32))
    if servers:  # the one that no other descends from serves, in a tree of its own
        (serving,) = [server for server in servers if not _descendants(server)]
        status = _status(serving)
        assert status["Seccomp"] == "2"
        assert _capabilities(status["CapEff"]) <= _FILE_CAPABILITIES | {6, 7}
        mounted = Path(f"/proc/{serving}/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in mounted]
        own = r"/$|/proc|/\.volumes/|/" + re.escape(sandbox_id)
        assert all(re.match(own, point) for point in points)
    return len(servers)


@pytest.mark.parametrize("template", ["true", "false"])
@pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"])
async def test_helpers_are_locked_in_and_a_guest_stays_in_its_tree(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    tmp_path: Path,
    shared_fs: str,
    template: str,
) -> None:
    configured.set("hypervisor.qemu", shared_fs=f'"{shared_fs}"')
    with (configured.path.parent / "config.d" / "60-factory.toml").open("w") as file:
        file.write(f"[factory]\nenable_template = {template}\n")
    victim, readonly = tmp_path / "victim", tmp_path / "readonly"
    victim.mkdir()
    readonly.mkdir()
    spec = specification("/bin/sh", "-c", _SCRIPT.replace("VICTIM", str(victim)))
    everything = [
        f"CAP_{name}" for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "MKNOD", "SYS_ADMIN")
    ]
    spec["process"]["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted"), everything
    )
    spec["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    bind = {"type": "bind", "source": str(readonly), "options": ["rbind", "ro"]}
    bundle.write(spec | {"mounts": [*spec["mounts"], {"destination": "/readonly"} | bind]})
    log = bundle.path / "output"
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root, stdout=f"file://{log}")
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        await _until_ready(log)
        qemu = _status(pid)
        allowed = _FILE_CAPABILITIES if shared_fs == "virtio-9p" else set()
        assert (qemu["Seccomp"], qemu["NoNewPrivs"]) == ("2", "1")
        for kind in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert _capabilities(qemu[kind]) <= allowed, kind
        assert _capabilities(qemu["CapEff"]) == allowed
        assert _writable_mounts(pid) == []
        _check_reach(pid, root, tmp_path)
        opened = _opened(pid)
        # What is read only can be opened again for writing: the template has to be out of reach.
        assert "state" not in opened
        assert ("memory" in opened) is (shared_fs == "virtio-9p" and template == "true")
        own, host = (Path(f"/proc/{each}/ns/net").readlink() for each in (pid, "self"))
        assert own != host
        servers = _check_file_servers(bundle.shim_pid, bundle.id)
        assert bool(servers) is (shared_fs == "virtio-fs")
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    assert list(victim.iterdir()) == []
    assert list(readonly.iterdir()) == []
    if shared_fs == "virtio-fs":  # QEMU neither makes nor opens such files (CVE-2023-2861)
        assert (root / "disk").is_block_device(), log.read_text()
        assert (root / "fifo").is_fifo()


async def _until_ready(log: Path) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or "ready" not in log.read_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def _groups(pid: int) -> set[str]:
    """Return the paths of a process's groups, as far as they are a sandbox's."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {path for _, _, path in (line.split(":", 2) for line in lines) if "kata" in path}


@pytest.mark.parametrize("only", ["true", "false"])
async def test_the_host_accounts_for_a_sandbox_below_its_pod(
    bundle: Bundle, configured: Configured, root: Path, only: str
) -> None:
    trees = hierarchies()
    if not trees or not all(os.access(tree.mount_point, os.W_OK) for tree in trees):
        pytest.skip("the control groups of this machine cannot be written")
    configured.set("runtime", sandbox_cgroup_only=only)
    pod = f"/pods-{bundle.id}/burstable"
    spec = specification("/bin/sh", "-c", "busybox sleep 1000")
    bundle.write(spec | {"linux": spec["linux"] | {"cgroupsPath": f"{pod}/{bundle.id}"}})
    async with await bundle.connect() as client:
        before = Path(f"/proc/{bundle.shim_pid}/cgroup").read_text()
        pid = await bundle.create(client, configured.path, root)
        name = next(path.name for path in Path("/run/kata").glob(f"{bundle.id}*"))
        ours, overhead = f"{pod}/kata_{name}", f"/kata_overhead/{name}"
        others = [bundle.shim_pid, *_descendants(bundle.shim_pid)]
        others.remove(pid)
        assert _groups(pid) == {ours}
        assert {path for each in others for path in _groups(each)} == {
            ours if only == "true" else overhead
        }
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        assert Path(f"/proc/{bundle.shim_pid}/cgroup").read_text() == before
        for tree in trees:
            assert not Path(tree.mount_point + pod).parent.exists()
            assert not Path(tree.mount_point + overhead).exists()
        await bundle.shut_down(client)


async def test_the_groups_of_a_killed_shim_go_with_it(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    spec = specification("/bin/sh")
    pod = f"/pods-{bundle.id}"
    bundle.write(spec | {"linux": spec["linux"] | {"cgroupsPath": f"{pod}/{bundle.id}"}})
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root)
        os.kill(bundle.shim_pid, signal.SIGKILL)
        await wait_gone(pid)
    bundle.run("-bundle", str(bundle.path), "delete")
    assert not [tree for tree in hierarchies() if Path(tree.mount_point + pod).exists()]
