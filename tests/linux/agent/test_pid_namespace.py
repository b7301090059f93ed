"""The pid namespace of a pod, which the containers share that ask for it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from containers import Guest, make_process, make_spec

from kata_agent import pid_namespace
from kata_agent.launcher import Gate
from kata_agent.progress import Progress
from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux

_SHOW = ("readlink", "/proc/self/ns/pid")


async def _shared(guest: Guest, *args: str) -> str:
    """Create a container in the pod's pid namespace."""
    spec = make_spec(guest.new_rootfs(), make_process(*args))
    return await guest.create(spec, sandbox_pidns=True)


async def _shown(guest: Guest, name: str) -> str:
    await guest.start(name)
    assert await guest.wait(name) == 0
    return (await guest.read_all(name)).decode().strip()


def _refuse(_gate: Gate, _: Progress) -> NoReturn:
    raise OSError(errno.ENOSPC, "")


def _never(_gate: Gate, _: Progress) -> NoReturn:
    while True:
        signal.pause()


def _first(pids: set[int]) -> int:
    """Return the one of some processes that is the first in its pid namespace."""
    (found,) = [
        pid
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("NSpid:") and line.split()[-1] == "1"
    ]
    return found


async def test_containers_that_come_at_once_share_one(guest: Guest) -> None:
    names = await asyncio.gather(*(_shared(guest, *_SHOW) for _ in range(3)))
    seen = {await _shown(guest, name) for name in names}
    assert len(seen) == 1
    assert seen != {os.readlink("/proc/self/ns/pid")}


async def test_one_that_failed_is_given_to_nobody(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(pid_namespace, "_wait", _refuse)
        with pytest.raises(RpcError, match="no space left on device") as error:
            await _shared(guest, *_SHOW)
        assert error.value.code == StatusCode.INTERNAL
    seen = await _shown(guest, await _shared(guest, *_SHOW))
    assert seen.startswith("pid:[")
    assert seen == await _shown(guest, await _shared(guest, *_SHOW))


async def test_one_that_is_killed_before_it_is_ready_is_told_of(
    guest: Guest, children: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    with monkeypatch.context() as slow:
        slow.setattr(pid_namespace, "_wait", _never)
        spec = make_spec(guest.new_rootfs(), make_process(*_SHOW))
        creating = asyncio.create_task(guest.create(spec, sandbox_pidns=True))
        while children() == before:  # noqa: ASYNC110 - the agent in this process tells nobody
            await asyncio.sleep(0.01)
        (first,) = set(children()) - set(before)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(RpcError, match="killed before it was ready"):
            await creating
    assert children() == before
    assert (await _shown(guest, await _shared(guest, *_SHOW))).startswith("pid:[")


async def test_that_of_a_pod_whose_own_container_has_ended_is_no_more(guest: Guest) -> None:
    await guest.client.call(api.CREATE_SANDBOX, pb.CreateSandboxRequest(sandbox_id="pod"))
    spec = make_spec(guest.new_rootfs(), make_process("sleep", "1000"))
    pod = await guest.create(spec, name="pod")
    await guest.start(pod)
    shown = await _shown(guest, await _shared(guest, *_SHOW))
    assert shown.startswith("pid:[")
    await guest.signal(pod, signal.SIGKILL)
    assert await guest.wait(pod) == 128 + signal.SIGKILL
    with pytest.raises(RpcError, match="container pod of the pod itself has ended") as error:
        await _shared(guest, *_SHOW)
    assert error.value.code == StatusCode.FAILED_PRECONDITION


async def test_one_that_has_ended_is_made_anew(
    guest: Guest, children: Callable[[], list[int]]
) -> None:
    before = children()
    lost = await _shared(guest, "sleep", "1000")
    first = _first(set(children()) - set(before))
    os.kill(first, signal.SIGKILL)
    assert await guest.wait(lost) == 128 + signal.SIGKILL
    assert (await _shown(guest, await _shared(guest, *_SHOW))).startswith("pid:[")


async def test_one_that_is_about_to_end_is_made_anew(
    guest: Guest, children: Callable[[], list[int]]
) -> None:
    before = children()
    lost = await _shared(guest, "sleep", "1000")
    first = _first(set(children()) - set(before))
    # A zombie that nobody collects keeps the first process from ending.
    entered = await asyncio.create_subprocess_exec(
        "nsenter", f"--target={first}", "--pid", "sh", "-c", "echo; exec sleep 1000",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert entered.stdout is not None
    assert await entered.stdout.readline() == b"\n"
    entered.send_signal(signal.SIGSTOP)
    try:
        os.kill(first, signal.SIGKILL)
        assert await guest.wait(lost) == 128 + signal.SIGKILL
        assert first in children()
        assert (await _shown(guest, await _shared(guest, *_SHOW))).startswith("pid:[")
    finally:
        entered.send_signal(signal.SIGCONT)
        await entered.wait()
