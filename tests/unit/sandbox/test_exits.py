"""Ends of containers that are told of, whatever goes wrong before."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kata.agent_client.stdio import Stdio
from kata.sandbox import events
from kata.sandbox.container import Container, ContainerRequest
from kata.sandbox.exits import Exits
from kata.sandbox.process import Exit, Process, State
from kata_api import oci

pytestmark = pytest.mark.unit


class _Process:
    """A container's own process, which has just ended with 3."""

    container_id = name = "a"
    exec_id = ""
    state = State.RUNNING

    def __init__(self) -> None:
        self.starting = asyncio.Lock()
        self.streams = SimpleNamespace(settled=self._nothing)

    async def _nothing(self) -> None:
        pass

    async def follow(self) -> Any:
        return SimpleNamespace(oom_kills=None)

    def record_exit(self, _status: int, _at: float) -> Exit:
        return Exit(3, time.time())


async def test_the_end_of_a_pod_is_told_of_although_its_guest_cannot_be_ended() -> None:
    told: list[events.Event] = []

    async def fail(_container: Container) -> None:
        raise OSError("the network namespace does not answer")

    process = cast("Process", _Process())
    request = ContainerRequest("a", "/bundle", (), Stdio(), oci.Spec(oci_version="1.0.2"))
    exits = Exits(told.append, lambda: 7, fail)
    with pytest.raises(OSError, match="does not answer"):  # which the sandbox logs
        await exits.follow(Container(request, process), process)
    assert [type(event) for event in told] == [events.ProcessExited]
