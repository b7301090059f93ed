"""Specifications like those of ``ctr run``, and short words for the calls a test makes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode
from ttrpc.client import Client

DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    )
]
MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


APPLETS = (
    "cat",
    "dd",
    "dmesg",
    "echo",
    "env",
    "false",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ls",
    "mkdir",
    "mount",
    "od",
    "pwd",
    "readlink",
    "sh",
    "sha256sum",
    "sleep",
    "stat",
    "stty",
    "test",
    "touch",
    "true",
    "tty",
    "wc",
    "yes",
)


def build_rootfs(path: Path, busybox: str) -> None:
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "run"):
        (path / name).mkdir(parents=True)
    shutil.copy(busybox, path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
    )


def make_process(*args: str, **fields: Any) -> oci.Process:
    values: dict[str, Any] = {
        "Args": args,
        "Env": ["PATH=/bin"],
        "Cwd": "/",
        "NoNewPrivileges": True,
        "Capabilities": oci.LinuxCapabilities(
            Bounding=DEFAULT_CAPABILITIES,
            Effective=DEFAULT_CAPABILITIES,
            Permitted=DEFAULT_CAPABILITIES,
        ),
        "Rlimits": [oci.POSIXRlimit(Type="RLIMIT_NOFILE", Soft=1024, Hard=1024)],
    }
    return oci.Process(**(values | fields))


def make_spec(root: str, process: oci.Process) -> oci.Spec:
    def mount(destination: str, kind: str, source: str, *options: str) -> oci.Mount:
        return oci.Mount(destination=destination, type=kind, source=source, options=options)

    return oci.Spec(
        Version="1.0.2",
        Process=process,
        Root=oci.Root(Path=root),
        Mounts=[
            mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            ),
            mount(
                "/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"
            ),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        ],
        Linux=oci.Linux(
            Namespaces=[oci.LinuxNamespace(Type=kind) for kind in ("pid", "mount", "cgroup")],
            MaskedPaths=MASKED,
            ReadonlyPaths=READONLY,
        ),
    )


class Guest:
    """The agent under test, as its host sees it."""

    def __init__(self, client: Client, rootfs: Callable[[], str], cgroup_root: str) -> None:
        self.client = client
        self.cgroup_root = cgroup_root
        self._rootfs = rootfs
        self._names = 0

    def new_rootfs(self) -> str:
        return self._rootfs()

    async def create(self, spec: oci.Spec, name: str = "", **fields: Any) -> str:
        self._names += 1
        name = name or f"c{self._names}"
        request = pb.CreateContainerRequest(container_id=name, exec_id=name, OCI=spec, **fields)
        await self.client.call(api.CREATE_CONTAINER, request)
        return name

    async def start(self, name: str) -> None:
        await self.client.call(api.START_CONTAINER, pb.StartContainerRequest(container_id=name))

    async def launch(self, *args: str, **fields: Any) -> str:
        """Create and start a container of its own root file system."""
        name = await self.create(make_spec(self._rootfs(), make_process(*args, **fields)))
        await self.start(name)
        return name

    async def sleeper(self) -> str:
        """A container that does nothing, for execs."""
        return await self.launch("sleep", "1000")

    async def execute(self, name: str, exec_id: str, process: oci.Process) -> None:
        request = pb.ExecProcessRequest(container_id=name, exec_id=exec_id, process=process)
        await self.client.call(api.EXEC_PROCESS, request)

    async def wait(self, name: str, exec_id: str = "") -> int:
        request = pb.WaitProcessRequest(container_id=name, exec_id=exec_id)
        return (await self.client.call(api.WAIT_PROCESS, request, timeout=20)).status

    async def signal(self, name: str, number: int, exec_id: str = "") -> None:
        request = pb.SignalProcessRequest(container_id=name, exec_id=exec_id, signal=number)
        await self.client.call(api.SIGNAL_PROCESS, request)

    async def write(self, name: str, data: bytes, exec_id: str = "") -> None:
        request = pb.WriteStreamRequest(container_id=name, exec_id=exec_id, data=data)
        await self.client.call(api.WRITE_STDIN, request)

    async def close_stdin(self, name: str, exec_id: str = "") -> None:
        request = pb.CloseStdinRequest(container_id=name, exec_id=exec_id)
        await self.client.call(api.CLOSE_STDIN, request)

    async def read_some(self, name: str, exec_id: str = "", *, stderr: bool = False) -> bytes:
        method = api.READ_STDERR if stderr else api.READ_STDOUT
        request = pb.ReadStreamRequest(container_id=name, exec_id=exec_id, len=1 << 20)
        return (await self.client.call(method, request, timeout=20)).data

    async def read_all(self, name: str, exec_id: str = "", *, stderr: bool = False) -> bytes:
        data = bytearray()
        try:
            while True:
                data += await self.read_some(name, exec_id, stderr=stderr)
        except RpcError as error:
            if (error.code, error.message) != (StatusCode.OUT_OF_RANGE, "EOF"):
                raise
        return bytes(data)

    async def resize(self, name: str, rows: int, columns: int, exec_id: str = "") -> None:
        request = pb.TtyWinResizeRequest(
            container_id=name, exec_id=exec_id, row=rows, column=columns
        )
        await self.client.call(api.TTY_WIN_RESIZE, request)

    async def remove(self, name: str, timeout: int = 0) -> None:
        request = pb.RemoveContainerRequest(container_id=name, timeout=timeout)
        await self.client.call(api.REMOVE_CONTAINER, request)

    async def run(self, *args: str, **fields: Any) -> tuple[int, str, str]:
        """Run a container to its end: exit code, stdout, stderr."""
        name = await self.launch(*args, **fields)
        return await self.collect(name)

    async def run_spec(self, spec: oci.Spec) -> tuple[int, str, str]:
        name = await self.create(spec)
        await self.start(name)
        return await self.collect(name)

    async def collect(self, name: str, exec_id: str = "") -> tuple[int, str, str]:
        out = await self.read_all(name, exec_id)
        err = await self.read_all(name, exec_id, stderr=True)
        return await self.wait(name, exec_id), out.decode(), err.decode()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Return the processes whose parent this one is, ended ones that nobody waited for included."""
    found = set()
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            stat = Path("/proc", entry, "stat").read_text() if entry.isdecimal() else ""
            if stat and int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry))
    return found
