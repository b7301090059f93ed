"""A machine that cannot be started, and one that fails while it is given something."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from qemu.qmp import QMPClient, QMPError

from kata.host import child
from kata.host.channel import VsockAddress
from kata.host.tail import Tail
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.port import Disk, Growth, HypervisorError
from kata.hypervisor.qemu.command import MachinePlan, Memory
from kata.hypervisor.qemu.machine import Machine
from kata.hypervisor.qemu.room import Room

pytestmark = pytest.mark.unit


Pair = tuple[socket.socket, socket.socket]


async def _start(program: Path, console_log: Path, monitor: Pair, console: Pair) -> None:
    plan = MachinePlan(
        name="pod1",
        program=str(program),
        machine_type="q35",
        machine_options="",
        accelerator=Accelerator("tcg", "no vmx"),
        cpu_features="",
        vcpus=1,
        max_vcpus=1,
        memory=Memory(64, shared=False),
        kernel="/k",
        initrd="/i",
        kernel_parameters=(),
        seccomp_sandbox="",
        devices=(),
    )
    await Machine.start(
        plan,
        monitor=monitor,
        console=console,
        channel=VsockAddress(3, 1024),
        inherited=(),
        console_log=str(console_log),
        prepare=lambda: None,
        user=None,
    )


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    pairs = [socket.socketpair() for _ in range(4)]  # held, lest a collector closes them
    with pytest.raises(FileNotFoundError):
        await _start(Path("/bin/true"), tmp_path / "missing" / "console.log", *pairs[:2])
    with pytest.raises(HypervisorError, match=r"cannot start .*/qemu: No such file"):
        await _start(tmp_path / "qemu", tmp_path / "console.log", *pairs[2:])
    assert os.listdir("/proc/self/fd") == before
    assert all(end.fileno() < 0 for pair in pairs for end in pair)


class _Monitor:
    """QEMU's monitor: a descriptor that was sent is taken by the next command that asks for one."""

    def __init__(self) -> None:
        self.refused = ""
        self.carried_out: list[str] = []
        self.taken: dict[object, int] = {}
        self._sent = -1

    def register_listener(self, _listener: object) -> None:
        pass

    def send_fd_scm(self, descriptor: int) -> None:
        self._sent = descriptor

    async def execute(self, name: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(0)  # others have their turn before QEMU reads
        if name == "add-fd":
            self.taken[arguments["fdset-id"]], self._sent = self._sent, -1
        if name == self.refused or (name == "blockdev-del" and self.refused == "blockdev-add"):
            raise QMPError(f"{name} is refused")
        self.carried_out.append(name)


class _Given:
    """A machine of a process that only sleeps, and its monitor."""

    def __init__(self) -> None:
        with open(os.devnull, "wb") as silent:
            self.process = child.spawn(["/bin/sleep", "60"], output=silent.fileno())
        self.monitor = _Monitor()
        self.machine = Machine(
            self.process,
            cast("QMPClient", self.monitor),
            cast("Tail", None),
            cast("Tail", _NoOutput()),
            VsockAddress(3, 1024),
            Room(1, 2, "max", Memory(512, shared=False, slots=2, most_mib=2048)),
        )

    def disk(self, name: str) -> Disk:
        return Disk(name, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), read_only=False)


class _NoOutput:
    def lines(self, _count: int) -> list[str]:
        return []


@pytest.fixture
async def given() -> AsyncIterator[_Given]:
    made = _Given()
    yield made
    made.process.kill()
    await made.process.wait()


async def test_each_command_takes_the_descriptor_that_was_sent_for_it(given: _Given) -> None:
    disks = [given.disk(name) for name in ("blk8-16", "blk8-32")]
    await asyncio.gather(*map(given.machine.plug, disks))
    assert list(given.monitor.taken.values()) == [disk.descriptor for disk in disks]
    for disk in disks:
        os.close(disk.descriptor)


async def test_a_disk_that_is_refused_is_let_go_of(given: _Given) -> None:
    """QEMU's descriptor would keep the disk in use, exclusively, for as long as the pod lives."""
    disk = given.disk("blk8-16")
    given.monitor.refused = "blockdev-add"
    with pytest.raises(HypervisorError, match="blockdev-add is refused"):
        await given.machine.plug(disk)
    os.close(disk.descriptor)
    assert given.monitor.carried_out == ["add-fd", "remove-fd"]


async def test_nobody_waits_for_the_memory_of_a_machine_that_has_ended(given: _Given) -> None:
    growing = asyncio.ensure_future(given.machine.grow(Growth(0, 128)))
    await asyncio.sleep(0.05)
    begin = time.monotonic()
    given.process.kill()
    with pytest.raises(HypervisorError, match="killed by SIGKILL"):
        await growing
    assert time.monotonic() - begin < 5
