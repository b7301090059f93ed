"""The states of a process, and what can be learnt of its end."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from kata.agent_client.agent import GuestExit
from kata.agent_client.stdio import Stdio
from kata.sandbox.errors import NotFoundError, StateError
from kata.sandbox.process import TRANSITIONS, UNKNOWN_STATUS, Process, State

pytestmark = pytest.mark.unit


class _SilentAgent:
    """Has no output to give and takes all that it is told: these tests are about the states."""

    async def read_stdout(self, _container: str, _exec: str, _size: int) -> bytes:
        return b""

    async def read_stderr(self, _container: str, _exec: str, _size: int) -> bytes:
        return b""

    async def close_stdin(self, *_: object) -> None:
        """Take the end of an input that nobody feeds."""

    async def signal_process(self, *_: object) -> None:
        """Take the kill of a process whose start was not answered."""


_AGENT: Any = _SilentAgent()


async def _nothing() -> None:
    """Launch without an agent: these tests are about the states alone."""


def _process(launch: Any = _nothing, exec_id: str = "", stdio: Stdio | None = None) -> Process:
    return Process(_AGENT, "c1", exec_id, stdio or Stdio(), launch)


def test_every_state_has_a_row_and_every_way_ends() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        seen, edge = set(), {state}
        while edge:
            seen |= edge
            edge = {after for before in edge for after in TRANSITIONS[before]} - seen
        assert State.DELETED in seen


async def test_start_twice() -> None:
    process = _process()
    await process.start()
    assert process.state == State.RUNNING
    with pytest.raises(StateError, match="container c1 is running"):
        await process.start()


async def test_a_failed_start_releases_the_waiters(tmp_path: Path) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    path = tmp_path / "out"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    process = _process(fail, stdio=Stdio(stdout=str(path)))
    waiting = asyncio.create_task(process.wait())
    with pytest.raises(RuntimeError):
        await process.start()
    assert (await waiting).status == UNKNOWN_STATUS
    assert process.state == State.STOPPED
    assert os.read(reader, 1) == b""  # the end, not EAGAIN
    os.close(reader)


async def test_the_first_to_learn_of_the_end_is_believed() -> None:
    process = _process()
    await process.start()
    waits = [asyncio.create_task(process.wait()) for _ in range(5)]
    first = process.record_exit(42, 1.0)
    assert process.record_exit(255, 2.0) is None
    assert process.exit == first
    assert {(await wait).status for wait in waits} == {42}
    assert (await process.wait()) == first


async def test_what_the_agent_reported_is_believed_whoever_records_it() -> None:
    class ReportingAgent(_SilentAgent):
        async def wait_process(self, *_: object) -> GuestExit:
            return GuestExit(3)

    agent: Any = ReportingAgent()
    process = Process(agent, "c1", "", Stdio(), _nothing)
    await process.start()
    await process.follow()
    assert process.exit is None  # its output is not through
    process.record_exit(UNKNOWN_STATUS, 1.0)
    assert process.exit == process.reported
    assert (await process.wait()).status == 3


async def test_signals_need_a_process() -> None:
    process = _process(exec_id="e1")
    with pytest.raises(StateError, match="process e1 of container c1 has not been started"):
        await process.signal(15, whole_container=False)
    await process.start()
    process.record_exit(0, 1.0)
    with pytest.raises(NotFoundError):
        await process.signal(10, whole_container=False)
    await process.signal(15, whole_container=False)  # what it asks for is so already
    await process.signal(9, whole_container=True)
    assert repr(process) == "<Process process e1 of container c1 stopped>"
