"""A machine that cannot be started: what is open afterwards."""

import os
import socket
from pathlib import Path

import pytest

from kata.host.channel import VsockAddress
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.port import HypervisorError
from kata.hypervisor.qemu.command import MachinePlan, Memory
from kata.hypervisor.qemu.machine import Machine

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
