"""The end of virtiofsd's processes, with a program in its place that forks as both daemons do."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kata.host import proc
from kata.storage.virtiofsd import Virtiofsd

pytestmark = pytest.mark.linux


def _start(folder: Path, inner: str) -> Virtiofsd:
    """Start a daemon that forks `inner` for its sandbox, and waits for it."""
    program = folder / "virtiofsd"
    program.write_text(f"#!/bin/sh\n({inner}) &\nwait\n")
    program.chmod(0o755)
    socket = str(folder / "socket")
    return Virtiofsd.start(
        str(program), str(folder), socket, cache="auto", extra=(), prepare=lambda: None
    )


async def _inner(daemon: Virtiofsd) -> int:
    async with asyncio.timeout(60):
        while not (found := proc.children(daemon.process.pid)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    return found[0]


def _is_running(pid: int) -> bool:
    try:
        return proc.is_running(pid, proc.start_time(pid))
    except ProcessLookupError:
        return False


async def test_the_inner_process_is_killed_with_one_that_had_no_machine(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    daemon = _start(tmp_path, "exec sleep 1000")
    inner = await _inner(daemon)
    await daemon.stop()
    assert not _is_running(inner)
    await daemon.stop()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_inner_process_that_outlives_the_other_is_killed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    daemon = _start(tmp_path, "exec sleep 1000")
    inner = await _inner(daemon)
    daemon.disconnect_path()
    daemon.process.kill()
    assert await daemon.wait() == "virtiofsd killed by SIGKILL"
    assert _is_running(inner)
    await daemon.stop(0.1)
    assert not _is_running(inner)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_inner_process_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    # It ends once the machine has gone: here, once nobody writes to the pipe.
    os.mkfifo(tmp_path / "machine")
    daemon = _start(
        tmp_path,
        f"exec 3< {tmp_path}/machine; echo > {tmp_path}/up; cat <&3; echo over > {tmp_path}/said",
    )
    machine = os.open(tmp_path / "machine", os.O_RDWR)
    async with asyncio.timeout(60):
        while not (tmp_path / "up").exists():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    inner = await _inner(daemon)
    daemon.disconnect_path()
    daemon.process.kill(signal.SIGTERM)
    await daemon.wait()
    stopping = asyncio.create_task(daemon.stop(60))
    await asyncio.sleep(0.2)
    assert not stopping.done()
    os.close(machine)
    await stopping
    assert not _is_running(inner)
    assert (tmp_path / "said").read_text() == "over\n"
