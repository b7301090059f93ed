"""A node: a whole Debian machine in a VM, with what the machines of this project lack.

It has systemd, cgroup v2 and no v1, `/dev/vhost-vsock`, and a `/dev/kvm` that runs guests: the
processor that QEMU emulates has AMD's SVM. It is made of a bare Debian root folder in which this
checkout's last commit was cloned and its own `make setup` was run, as a user would on a new machine.
Commands go in through QEMU's guest agent (QEMU Guest Agent Protocol Reference, guest-exec).
"""

import base64
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lab.command import LabError, Result, run
from lab.debian import Suite, host_codename
from lab.freshness import Stamp, digest
from lab.paths import BUILD, CHECKOUT, RUN, TEST_LOGS
from lab.progress import step

MEMORY_MIB: Final = 8192
"""Memory of the node; as much has to be free on the host."""

CHECKOUT_IN_NODE: Final = "/root/kata"

_FOLDER: Final = BUILD / "node"
_DISK_SIZE: Final = "12G"  # sparse; two gigabytes are used
_PACKAGES: Final = (
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "procps", "ca-certificates"),
    *("git", "make", "qemu-guest-agent", "initramfs-tools"),
)
_KERNEL_PACKAGES: Final = {"x86_64": "linux-image-amd64"}
_COMMAND_LINE: Final = "root=/dev/vda rw console=ttyS0 systemd.default_timeout_start_sec=900"
_BOOT_S: Final = 600
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class NodeImage:
    """What a node boots: its disk, and the kernel and initrd that are in it too."""

    disk: Path
    kernel: Path
    initrd: Path

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of it."""
        return self.disk, self.kernel, self.initrd


def node_image() -> NodeImage:
    """Return the image of the checkout's last commit; made anew after another commit.

    That takes some five minutes and 4 GiB. Raises `LabError` when the set-up fails in it, or when
    this is a machine for which it has no kernel package.
    """
    image = NodeImage(*(_FOLDER / name for name in ("disk.img", "vmlinuz", "initrd.img")))
    commit = run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"]).stdout.strip()
    codename = host_codename()
    key, stamp = digest(commit, codename, *_PACKAGES, _recipe().read_text()), Stamp("node")
    if stamp.matches(key, image.files):
        return image
    kernel = _KERNEL_PACKAGES.get(platform.machine())
    if kernel is None:
        raise LabError(f"a node has no kernel package for {platform.machine()}")
    stamp.forget()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    root = _FOLDER / "root"
    try:
        with step("node: a bare Debian, and `make setup` in it (five minutes)"):
            run(
                [
                    # Its mounts go with it, however it ends: what removes the folder must not meet them.
                    *("unshare", "--mount", "--propagation", "private"),
                    "mmdebstrap",
                    "--variant=minbase",
                    "--mode=root",
                    "--format=directory",
                    f"--include={','.join((*_PACKAGES, kernel))}",
                    f"--customize-hook={_recipe()}",
                    codename,
                    root,
                    "-",
                ],
                env={"KATA_CHECKOUT": str(CHECKOUT), "KATA_CHECKOUT_IN_NODE": CHECKOUT_IN_NODE},
                stdin=Suite(codename).source.as_deb822().encode(),
                timeout_s=3600,
                remedy="the last lines are those of the project's set-up in a bare Debian",
            )
        with step("node: its disk"):
            for made, stem in ((image.kernel, "vmlinuz"), (image.initrd, "initrd.img")):
                shutil.copyfile(next((root / "boot").glob(f"{stem}-*")), made)
            run(["mke2fs", "-q", "-t", "ext4", "-d", root, image.disk, _DISK_SIZE])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    stamp.remember(key)
    return image


def _recipe() -> Path:
    return CHECKOUT / "lab" / "node_recipe"


class Node:
    """A running node, whose disk forgets with its end what was written to it."""

    def __init__(self, image: NodeImage) -> None:
        self._image = image
        self._folder = Path()
        self._machine: subprocess.Popen[bytes] | None = None
        self._agent = socket.socket(socket.AF_UNIX)
        self._answers = self._agent.makefile("r")

    def __enter__(self) -> Self:
        RUN.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="node-", dir=RUN))
        try:
            with step("node: boot"):
                self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def console(self) -> Path:
        """What the node's kernel and systemd have said."""
        return TEST_LOGS / "node-console.log"

    def _boot(self) -> None:
        path = self._folder / "agent.sock"
        TEST_LOGS.mkdir(parents=True, exist_ok=True)
        self._machine = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-smp", "2"),
                *("-accel", "tcg,thread=multi,tb-size=1024", "-m", str(MEMORY_MIB)),
                *("-nodefaults", "-display", "none", "-serial", f"file:{self.console}"),
                *("-kernel", self._image.kernel, "-initrd", self._image.initrd),
                *("-append", _COMMAND_LINE, "-snapshot"),
                *("-drive", f"file={self._image.disk},if=virtio,format=raw,cache=unsafe"),
                *("-nic", "user,model=virtio-net-pci,restrict=on", "-device", "virtio-rng-pci"),
                *("-chardev", f"socket,id=agent,path={path},server=on,wait=off"),
                *("-device", "virtio-serial-pci"),
                *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            ],
            env={**os.environ, "TMPDIR": str(_FOLDER)},  # what the node writes goes there
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _BOOT_S
        while not path.exists():
            self._look(deadline)
        self._agent.connect(str(path))
        self._send("guest-sync", id=os.getpid())
        # The port keeps what comes before its reader does; the agent answers when it runs.
        self._agent.settimeout(_BOOT_S)
        while self._receive() != os.getpid():
            self._look(deadline)

    def _look(self, deadline: float) -> None:
        if self._machine is None or self._machine.poll() is not None:
            raise LabError(f"the node's QEMU has ended; see {self.console}")
        if time.monotonic() > deadline:
            raise LabError(f"the node is not up after {_BOOT_S} s; see {self.console}")
        time.sleep(_POLL_S)

    def _send(self, command: str, **arguments: object) -> None:
        line = json.dumps({"execute": command, "arguments": arguments})
        self._agent.sendall(line.encode() + b"\n")

    def _receive(self) -> Any:
        try:
            line = self._answers.readline()
        except TimeoutError as error:
            raise LabError(f"the node's agent does not answer; see {self.console}") from error
        answer = json.loads(line or "{}")
        if "return" not in answer:
            raise LabError(f"the node's agent says {answer}; see {self.console}")
        return answer["return"]

    def run(self, script: str, *, timeout_s: float) -> Result:
        """Run a shell script in the node's checkout, as root, and return its end and output.

        Raises `LabError` when it is not done after `timeout_s` seconds; it may run on then.
        """
        words = ["-c", f"cd {CHECKOUT_IN_NODE} && {script}"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = [f"PATH={path}", "HOME=/root", "LANG=C.UTF-8"]
        call = {"path": "/bin/bash", "arg": words, "env": environment, "capture-output": True}
        self._send("guest-exec", **call)
        pid = self._receive()["pid"]
        deadline = time.monotonic() + timeout_s
        while True:
            self._send("guest-exec-status", pid=pid)
            if (status := self._receive())["exited"]:
                break
            if time.monotonic() > deadline:
                raise LabError(f"not done in the node after {timeout_s:g} s: {script}")
            time.sleep(_POLL_S)
        said = [base64.b64decode(status.get(name, "")) for name in ("out-data", "err-data")]
        code = status["exitcode"] if "exitcode" in status else -status["signal"]
        out, err = (data.decode(errors="replace") for data in said)
        return Result(("/bin/bash", *words), code, out, err)

    def _end(self) -> None:
        if self._machine is not None:
            self._machine.kill()
            self._machine.wait()
        self._answers.close()
        self._agent.close()
        shutil.rmtree(self._folder, ignore_errors=True)
