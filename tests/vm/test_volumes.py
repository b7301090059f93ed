"""Volumes of a pod as kubelet and containerd's CRI hand them over, seen by programs in its containers."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.types_pb2 import Mount
from ttrpc import RpcError
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_BOTH = pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"])
_MIB = 1 << 20


class _Kubelet:
    """A pod's directories, laid out and mounted as kubelet and containerd have them."""

    def __init__(self, base: Path, undo: ExitStack) -> None:
        self.pod = base / "kubelet" / "pods" / "0d1c"
        self._base, self._undo = base, undo

    def mount(self, target: Path, *words: str) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *words, str(target)], check=True)
        self._undo.callback(self.unmount, target)
        return target

    def unmount(self, target: Path) -> None:
        """Unmount all that is at and below a directory, if anything is.

        Lazily: virtiofsd has open what the guest has looked at.
        """
        if target.is_mount():
            subprocess.run(["umount", "-R", "-l", str(target)], check=True)

    def directory(self, plugin: str, name: str) -> Path:
        path = self.pod / "volumes" / f"kubernetes.io~{plugin}" / name
        path.mkdir(parents=True)
        return path

    def memory(self, name: str, size: str) -> Path:
        path = self.mount(
            self.directory("empty-dir", name), "-t", "tmpfs", f"-osize={size}", "tmpfs"
        )
        os.chown(path, 0, 2000)
        path.chmod(0o2777)
        return path

    def share(self, point: Path) -> None:
        """Have later mounts below a mount appear in other namespaces, as systemd does for all."""
        subprocess.run(["mount", "--make-shared", str(point)], check=True)

    def subpath(self, source: Path, container: str, number: int) -> Path:
        volume = source.parent.name
        target = self.pod / "volume-subpaths" / volume / container / str(number)
        source.mkdir(exist_ok=True)
        return self.mount(target, "--bind", str(source))

    def shm(self, size: str) -> Path:
        return self.mount(
            self._base / "shm", "-t", "tmpfs", f"-osize={size},mode=1777,noexec", "shm"
        )


class _Written:
    """A ConfigMap's directory, which is replaced as kubelet's atomic writer does it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = itertools.count()

    def write(self, files: dict[str, str]) -> None:
        before = self.path / "..data"
        old = before.readlink() if before.is_symlink() else None
        version = self.path / f"..2026_{next(self._versions)}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
            (version / name).chmod(0o640)
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(before)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for name in set(os.listdir(self.path)) - set(files):
            if not name.startswith(".."):
                (self.path / name).unlink()
        if old:
            shutil.rmtree(self.path / old)


def _bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    words = ["rbind", *(options or ("rprivate", "rw"))]
    return {"destination": destination, "type": "bind", "source": str(source), "options": words}


class _Pod:
    """A sandbox's containers and what is run in them."""

    def __init__(self, client: Client, bundle: Bundle, root: Path) -> None:
        self._client, self._bundle, self._root = client, bundle, root
        self._numbers = itertools.count()

    async def create(self, name: str, mounts: Sequence[dict[str, Any]], **changes: Any) -> str:
        container_id = f"{self._bundle.id}-{name}"
        folder = self._bundle.path / name
        folder.mkdir()
        root = self._bundle.path / f"{name}-root"
        shutil.copytree(self._root, root, symlinks=True)
        spec = specification("/bin/sh", "-c", "exec busybox sleep 10000", **changes)
        spec["mounts"] += mounts
        spec["annotations"] = {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": self._bundle.id,
        }
        (folder / "config.json").write_text(json.dumps(spec))
        request = pb.CreateTaskRequest(
            id=container_id,
            bundle=str(folder),
            rootfs=[Mount(type="bind", source=str(root), options=["rbind"])],
        )
        await self._client.call(task.v2.CREATE, request, timeout=120)
        await self._client.call(task.v2.START, pb.StartRequest(id=container_id), timeout=60)
        return container_id

    async def begin(self, container_id: str, *args: str) -> tuple[str, Path]:
        """Start a process; return its id and where its output goes."""
        exec_id = f"e{next(self._numbers)}"
        output = self._bundle.path / exec_id
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)
        process = {
            "cwd": "/",
            "args": list(args),
            "env": ["PATH=/bin:/usr/bin"],
            "capabilities": capabilities,
        }
        spec = packed.pack_json(packed.PROCESS_URL, json.dumps(process).encode())
        request = pb.ExecProcessRequest(
            id=container_id,
            exec_id=exec_id,
            spec=spec,
            stdout=f"file://{output}",
            stderr=f"file://{output}",
        )
        await self._client.call(task.v2.EXEC, request, timeout=60)
        start = pb.StartRequest(id=container_id, exec_id=exec_id)
        await self._client.call(task.v2.START, start, timeout=60)
        return exec_id, output

    async def end(self, container_id: str, begun: tuple[str, Path]) -> str:
        """Wait for a process and return what it wrote, with its status if that is not 0."""
        exec_id, output = begun
        wait = pb.WaitRequest(id=container_id, exec_id=exec_id)
        status = (await self._client.call(task.v2.WAIT, wait, timeout=120)).exit_status
        delete = pb.DeleteRequest(id=container_id, exec_id=exec_id)
        await self._client.call(task.v2.DELETE, delete)
        return output.read_text().strip() + (f" (status {status})" if status else "")

    async def run(self, container_id: str, script: str) -> str:
        """Run a shell script to its end; return what it wrote."""
        return await self.end(container_id, await self.begin(container_id, "/bin/sh", "-c", script))

    async def remove(self, container_id: str) -> None:
        kill = pb.KillRequest(id=container_id, signal=signal.SIGKILL, all=True)
        await self._client.call(task.v2.KILL, kill)
        await self._client.call(task.v2.WAIT, pb.WaitRequest(id=container_id), timeout=60)
        await self._client.call(task.v2.DELETE, pb.DeleteRequest(id=container_id), timeout=60)


_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD")


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[_Kubelet]:
    """Kubelet's directories; whatever is mounted there is unmounted at the end."""
    with ExitStack() as undo:
        yield _Kubelet(tmp_path, undo)


@pytest.fixture
def with_python(root: Path) -> Path:
    """The root filesystem, with the links that the host's /usr needs."""
    (root / "usr").mkdir()
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    return root


@asynccontextmanager
async def _pod(
    bundle: Bundle, configured: Configured, root: Path, **settings: str
) -> AsyncIterator[_Pod]:
    configured.set("hypervisor.qemu", **{k: f'"{v}"' for k, v in settings.items()})
    spec = specification("/bin/sh", "-c", "exec busybox sleep 10000")
    bundle.write(spec | {"annotations": {"io.kubernetes.cri.container-type": "sandbox"}})
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        pod = _Pod(client, bundle, root)
        yield pod
        await pod.remove(bundle.id)
        await bundle.shut_down(client)


_PYTHON = (sys.executable if sys.executable.startswith("/usr/") else "/usr/bin/python3", "-S", "-c")

_LISTEN = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.bind(sys.argv[1] + "/socket"); s.listen()
    print("up", flush=True)
    c, _ = s.accept()
    print(c.recv(99).decode()); c.sendall(b"answer")
"""
_CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1] + "/socket"); s.sendall(b"question"); print(s.recv(99).decode())
"""
_WATCH = """
import ctypes, os, struct
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
libc.inotify_add_watch(fd, b"/config", 0x80)
print("up", flush=True)
data = os.read(fd, 4096)
length = struct.unpack_from("iIII", data)[3]
print(data[16:16 + length].rstrip(b"\\0").decode(), open("/config/key").read())
"""


async def _until_said(output: Path, wanted: str) -> None:
    async with asyncio.timeout(60):
        while wanted not in output.read_text():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)


@_BOTH
async def test_a_pod_s_volumes(
    bundle: Bundle, configured: Configured, with_python: Path, kubelet: _Kubelet, shared_fs: str
) -> None:
    memory = kubelet.memory("cache", "8m")
    part = kubelet.subpath(memory / "sub", "b", 0)
    shm = kubelet.shm("16m")
    disk = kubelet.directory("empty-dir", "data")
    disk.chmod(0o2775)
    os.chown(disk, 0, 2000)
    config = _Written(kubelet.directory("configmap", "config"))
    config.write({"key": "one", "gone": "x"})
    log = kubelet.pod / "termination-log"
    log.touch()
    usr = _bind("/usr", "/usr", "rprivate", "ro")
    async with _pod(bundle, configured, with_python, shared_fs=shared_fs) as pod:
        a = await pod.create(
            "a",
            [
                _bind(memory, "/cache"),
                _bind(shm, "/dev/shm"),
                _bind(disk, "/data"),
                _bind(config.path, "/config", "rprivate", "ro"),
                _bind(log, "/dev/termination-log"),
                usr,
            ],
        )
        b = await pod.create(
            "b",
            [
                _bind(part, "/part"),
                _bind(memory, "/cache", "rprivate", "ro"),
                _bind(shm, "/dev/shm"),
                _bind(disk, "/theirs", "rprivate", "ro"),
                usr,
            ],
        )
        await _memory(pod, a, b)
        await _on_disk(pod, a, b, disk)
        if shared_fs == "virtio-fs":
            await _sockets_and_fifos(pod, a, b, "/data", "/theirs")
            assert (disk / "socket").is_socket()
        else:  # QEMU 7.2's 9p server makes no special files since the mend of CVE-2023-2861
            said = await pod.run(a, "busybox mkfifo /data/fifo")
            assert not said or "No such device or address" in said
            await _sockets_and_fifos(pod, a, b, "/cache", "/cache")
        await _updates(pod, a, config)
        await pod.run(a, "echo why > /dev/termination-log")
        await pod.remove(a)
        assert log.read_text() == "why\n"
        # What was in memory stays for whoever comes.
        assert await pod.run(b, "cat /cache/file /part/below") == "text\nlow"


async def _memory(pod: _Pod, a: str, b: str) -> None:
    said = await pod.run(a, "busybox stat -c '%a %u %g' /cache; busybox df -k /cache /dev/shm")
    assert said.splitlines()[0] == "2777 0 2000"
    sizes = [line.split()[1] for line in said.splitlines()[2:]]
    assert sizes == ["8192", "16384"]
    assert await pod.run(a, "echo text > /cache/file; echo seg > /dev/shm/seg; ls -d /cache/sub")
    assert await pod.run(b, "cat /cache/file /dev/shm/seg; echo low > /part/below") == "text\nseg"
    assert await pod.run(a, "cat /cache/sub/below; busybox stat -f -c %T /cache") == "low\ntmpfs"
    assert "Read-only" in await pod.run(b, "echo no > /cache/file")


async def _on_disk(pod: _Pod, a: str, b: str, disk: Path) -> None:
    said = await pod.run(a, "busybox stat -c '%a %u %g' /data; echo x > /data/new")
    assert said == "2775 0 2000"
    assert (disk / "new").stat().st_gid == 2000
    assert await pod.run(b, "cat /theirs/new") == "x"
    assert "Read-only" in await pod.run(b, "echo no > /theirs/file")


async def _sockets_and_fifos(pod: _Pod, a: str, b: str, ours: str, theirs: str) -> None:
    """Connect containers by what is `ours` in the one and `theirs` in the other, where read-only."""
    listening = await pod.begin(a, *_PYTHON, _LISTEN, ours)
    await _until_said(listening[1], "up")
    assert await pod.end(b, await pod.begin(b, *_PYTHON, _CONNECT, theirs)) == "answer"
    assert await pod.end(a, listening) == "up\nquestion"
    assert await pod.run(a, f"busybox mkfifo {ours}/fifo && echo made") == "made"
    reading = await pod.begin(b, "/bin/sh", "-c", f"cat {theirs}/fifo")
    assert await pod.run(a, f"echo through > {ours}/fifo") == ""
    assert await pod.end(b, reading) == "through"


async def _updates(pod: _Pod, a: str, config: _Written) -> None:
    listing = "cd /config; busybox stat -c '%N %a' * ..data/*; cat key"
    assert "'key' -> '..data/key'" in await pod.run(a, listing)
    watching = await pod.begin(a, *_PYTHON, _WATCH)
    await _until_said(watching[1], "up")
    config.write({"key": "two", "new": "y"})
    assert await pod.end(a, watching) == "up\n..data two"
    await _until(pod, a, "cd /config; ls; cat new", "key\nnew\ny")
    assert await pod.run(a, "busybox stat -L -c '%a' /config/new") == "640"
    for number in range(5):
        config.write({"key": str(number)})
    await _until(pod, a, "cat /config/key", "4")


async def _until(pod: _Pod, container_id: str, script: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await pod.run(container_id, script) != wanted:  # noqa: ASYNC110 - it takes a while
            await asyncio.sleep(0.1)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A disk of the host with an ext4 file system on it: a loop device."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 * _MIB)
    made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=False)
    found = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if made.returncode or found.returncode:
        pytest.skip(f"no loop device can be made here: {found.stderr}")
    device = found.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


async def test_disks_devices_and_later_mounts(
    bundle: Bundle, configured: Configured, root: Path, kubelet: _Kubelet, loop: str, tmp_path: Path
) -> None:
    number = os.stat(loop).st_rdev
    rule = {"type": "b", "major": os.major(number), "minor": os.minor(number)}
    listed = {"path": "/dev/xvda", "fileMode": 0o600, "uid": 0, "gid": 0, **rule}
    linux = specification()["linux"] | {
        "devices": [listed, {**listed, "path": "/elsewhere"}],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "access": "rwm", **rule}]
        },
    }
    shared = kubelet.mount(tmp_path / "shared", "-t", "tmpfs", "tmpfs")
    kubelet.share(shared)
    for name in ("slave", "private"):
        (shared / name / "later").mkdir(parents=True)
    os.mknod(tmp_path / "node", 0o20666, os.makedev(1, 3))
    async with _pod(bundle, configured, root, shared_fs="virtio-fs") as pod:
        raw = await pod.create("raw", [], linux=linux)
        await _raw(pod, raw, loop)
        kubelet.mount(tmp_path / "mounted", loop)
        with pytest.raises(RpcError, match="is it mounted there"):
            await pod.create(
                "busy",
                [{"destination": "/fs", "type": "ext4", "source": loop, "options": ["rw"]}],
            )
        kubelet.unmount(tmp_path / "mounted")
        await pod.remove(raw)
        mounted = await pod.create(
            "mounted",
            [
                {"destination": "/fs", "type": "ext4", "source": loop, "options": ["rw"]},
                _bind(loop, "/dev/bound"),
                _bind(tmp_path / "node", "/dev/nothing"),
                _bind(shared / "slave", "/slave", "rslave"),
                _bind(shared / "private", "/private"),
            ],
        )
        await _later(pod, mounted, kubelet, shared)
        said = await pod.run(
            mounted, "cat /fs/lost+found/x; echo in > /fs/file; echo a >/dev/nothing"
        )
        assert "No such file" in said
        assert await pod.run(mounted, "busybox stat -c %F /dev/bound") == "block special file"
        await pod.remove(mounted)
        kubelet.mount(tmp_path / "after", loop)
        assert (tmp_path / "after" / "file").read_text() == "in\n"


@_BOTH
async def test_what_several_containers_may_have_of_one_disk(
    bundle: Bundle, configured: Configured, root: Path, loop: str, shared_fs: str
) -> None:
    number = os.stat(loop).st_rdev
    deny = {"allow": False, "access": "rwm"}

    def mount(*options: str) -> dict[str, Any]:
        return {"destination": "/fs", "type": "ext4", "source": loop, "options": list(options)}

    def rules(*more: dict[str, Any]) -> dict[str, Any]:
        return specification()["linux"] | {"resources": {"devices": [deny, *more]}}

    async with _pod(bundle, configured, root, shared_fs=shared_fs) as pod:
        writer = await pod.create("writer", [mount("rw", "nodev")])
        script = "printf '#!/bin/sh\necho ran\n' > /fs/run; chmod 755 /fs/run; /fs/run"
        assert await pod.run(writer, script) == "ran"
        binds = (_bind(loop, "/dev/closed"), _bind(loop, "/closed"))
        reader = await pod.create("reader", [mount("ro", "noexec"), *binds], linux=rules())
        assert "Read-only file system" in await pod.run(reader, "echo > /fs/new")
        assert "Permission denied" in await pod.run(reader, "/fs/run")
        assert "ro,noexec,relatime" in await pod.run(reader, "busybox grep ' /fs ' /proc/mounts")
        assert "rw,nodev,relatime" in await pod.run(writer, "busybox grep ' /fs ' /proc/mounts")
        for path in ("/dev/closed", "/closed"):
            said = await pod.run(reader, f"busybox stat -c %F {path}; : < {path}")
            assert "block special file" in said
            assert "Operation not permitted" in said
        with pytest.raises(RpcError, match="it is mounted with no such options for container"):
            await pod.create("other", [mount("rw", "sync")])
        for container_id in (writer, reader):
            await pod.remove(container_id)
        every = {"allow": True, "type": "b", "major": os.major(number), "access": "r"}
        bound = await pod.create("bound", [_bind(loop, "/dev/bound")], linux=rules(every))
        script = "busybox dd if=/dev/bound bs=2 skip=540 count=1 2>/dev/null | busybox od -tx1"
        assert "53 ef" in await pod.run(bound, script)  # the magic number of ext4
        assert "Operation not permitted" in await pod.run(bound, ": > /dev/bound")
        await pod.remove(bound)


async def _raw(pod: _Pod, raw: str, loop: str) -> None:
    size = "busybox blockdev --getsize64 /dev/xvda"
    assert await pod.run(raw, f"{size}; busybox stat -c '%a %F' /dev/xvda") == (
        f"{16 * _MIB}\n600 block special file"
    )
    script = "echo from the guest | busybox dd of=/dev/xvda bs=512 seek=32760 conv=fsync 2>&1"
    assert "0+1 records out" in await pod.run(raw, script)
    assert _at(loop, 32760 * 512, 14) == b"from the guest"
    assert "fr" in await pod.run(
        raw, "busybox dd if=/elsewhere bs=512 skip=32760 count=1 2>/dev/null"
    )


async def _later(pod: _Pod, container_id: str, kubelet: _Kubelet, shared: Path) -> None:
    ls = "ls /slave/later /private/later"
    assert await pod.run(container_id, ls) == "/private/later:\n\n/slave/later:"
    for name in ("slave", "private"):
        target = kubelet.mount(shared / name / "later", "-t", "tmpfs", "tmpfs")
        (target / "file").touch()
    await _until(pod, container_id, ls, "/private/later:\n\n/slave/later:\nfile")
    for name in ("slave", "private"):
        kubelet.unmount(shared / name / "later")
    await _until(pod, container_id, ls, "/private/later:\n\n/slave/later:")


def _at(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
