"""A bundle and the shim in it, driven over ttrpc as containerd does, with no daemon between.

For tests of what containerd would hide: faults while a sandbox starts, exact status codes, what is
left after each.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kata.host import proc
from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.runtime_options_pb2 import Options
from kata_api.containerd.types_pb2 import Mount
from lab import leftovers
from lab.paths import CHECKOUT, CONFIGURATION, DROP_INS
from ttrpc.client import Client

_MOUNTS: Final = (
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
)
# Where a sandbox has directories of its own.
_PLACES: Final = (Path("/run/kata"), Path("/run/kata-containers/shared/sandboxes"))

# A helper that has lost its peer (virtiofsd's inner process, when QEMU is killed) ends by itself.
_LAST_BREATH_S: Final = 2.0

# What runc and containerd give a container by default, as far as it concerns files.
_CAPABILITIES: Final = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD")


def specification(*args: str, **changes: Any) -> dict[str, Any]:
    """Return a small OCI specification that runs `args`; `changes` replace its top-level fields."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/",
            "args": list(args),
            "env": ["PATH=/bin:/usr/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in _MOUNTS
        ],
        "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "network", "ipc", "uts")]},
    } | changes


class Bundle:
    """A bundle directory as containerd makes it; `close` before its directory goes."""

    def __init__(self, path: Path, *, namespace: str = "test", container_id: str = "") -> None:
        self.path = path
        self.id = container_id or f"bundle-{secrets.token_hex(4)}"
        self._namespace = namespace
        self.environment: dict[str, str] = {}
        """What the shim finds in its environment beside PATH."""
        self.module = "kata.shim.main"
        """What runs as the shim."""
        os.mkfifo(path / "log")
        self._log = os.open(path / "log", os.O_RDWR | os.O_NONBLOCK)
        self.write({"annotations": {}})

    def write(self, specification: Mapping[str, Any]) -> None:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(specification))

    def run(self, *words: str, container_id: str = "") -> "subprocess.CompletedProcess[bytes]":
        """Run the shim's binary with one pipe for both outputs, as containerd does."""
        flags = [
            "-namespace",
            self._namespace,
            "-address",
            "/run/none.sock",
            "-publish-binary",
            "/bin/false",
        ]
        return subprocess.run(
            [
                sys.executable,
                "-m",
                self.module,
                *flags,
                "-id",
                container_id or self.id,
                *words,
            ],
            cwd=self.path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(CHECKOUT / "src"),
                **self.environment,
            },
            input=b"",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )

    @property
    def socket(self) -> str | None:
        """The path of the shim's socket, or None before `start`."""
        address = self.path / "address"
        return address.read_text().removeprefix("unix://") if address.exists() else None

    @property
    def shim_pid(self) -> int:
        """Process id of the shim."""
        return int((self.path / "shim.pid").read_text())

    async def connect(self) -> Client:
        """Start the shim and connect to it."""
        result = self.run("start")
        if result.returncode:
            raise RuntimeError(result.stdout.decode())
        return await Client.connect_unix(result.stdout.decode().removeprefix("unix://"), timeout=10)

    async def create(
        self, client: Client, configuration: Path, root: Path, *, stdout: str = ""
    ) -> int:
        """Create the container from a directory as its root filesystem; return the task's pid."""
        request = pb.CreateTaskRequest(
            id=self.id,
            bundle=str(self.path),
            rootfs=[Mount(type="bind", source=str(root), options=["rbind"])],
            stdout=stdout,
            options=packed.pack(Options(config_path=str(configuration))),
        )
        return (await client.call(task.v2.CREATE, request, timeout=170)).pid

    def log(self) -> str:
        """Return what the shim has logged since the last call."""
        try:
            return os.read(self._log, 1 << 20).decode()
        except BlockingIOError:
            return ""

    async def shut_down(self, client: Client) -> None:
        """Ask the shim to end, and wait until its process is gone."""
        pid = self.shim_pid
        await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id=self.id))
        await wait_gone(pid)

    def leftovers(self) -> list[str]:
        """Return what is there of the bundle's sandbox: processes, folders, sockets, cgroups."""
        found = [str(path) for place in _PLACES for path in place.glob(f"{self.id}*")]
        found += [str(path) for path in leftovers.groups() if self.id in path.name]
        if self.socket and os.path.exists(self.socket):
            found.append(self.socket)
        deadline = time.monotonic() + _LAST_BREATH_S
        while running := self._processes():
            if time.monotonic() > deadline or not any("shim" not in one for one in running):
                break
            time.sleep(0.01)
        return found + running

    def _processes(self) -> list[str]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
                if any(self.id.encode() in word for word in words):
                    found.append(f"process {pid}: {b' '.join(words).decode()[:200]}")
        return found

    def keep_evidence(self, folder: Path) -> None:
        """Save the shim's log and the guest's console in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shim.log").write_text(self.log())
        for console in Path("/run/kata").glob(f"{self.id}*/console.log"):
            shutil.copy(console, folder)

    def close(self) -> None:
        """End whatever is left and close the log."""
        if self.leftovers():
            with contextlib.suppress(OSError):
                os.kill(self.shim_pid, signal.SIGKILL)
            self.run("-bundle", str(self.path), "delete")
        os.close(self._log)


class Configured:
    """A copy of the installed configuration, with a drop-in of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "configuration.toml"
        shutil.copy(CONFIGURATION, self.path)
        shutil.copytree(DROP_INS, folder / "config.d")

    def set(self, table: str, **values: str) -> None:
        """Set keys of a table, to values as TOML spells them."""
        lines = [f"[{table}]", *(f"{key} = {value}" for key, value in values.items())]
        (self.path.parent / "config.d" / "50-test.toml").write_text("\n".join(lines) + "\n")

    def asset(self, key: str) -> Path:
        """Return the path that the configuration names for `kernel` or `initrd`."""
        for line in self.path.read_text().splitlines():
            if line.startswith(f"{key} ="):
                return Path(line.split('"')[1])
        raise KeyError(key)


async def wait_gone(pid: int, timeout: float = 30) -> None:
    """Wait until a process has ended; raises `TimeoutError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if not proc.is_running(pid, proc.start_time(pid)):
                return
        except ProcessLookupError:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"process {pid} has not ended after {timeout:g} s")
