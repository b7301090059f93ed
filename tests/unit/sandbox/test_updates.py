"""What waits for a machine to grow, and what has happened meanwhile: a change, a deletion, the end."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kata.agent_client.stdio import Stdio
from kata.config import Configuration
from kata.sandbox.container import Container, ContainerRequest
from kata.sandbox.errors import GuestGoneError
from kata.sandbox.guest import Guest
from kata.sandbox.journal import Journal
from kata.sandbox.ledger import Ledger
from kata.sandbox.pod import Pod
from kata.sandbox.pod_volumes import PodVolumes
from kata.sandbox.process import Process
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.sizing import Sizing
from kata_api import oci
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit


class _Agent:
    """An agent that takes a moment for a change."""

    def __init__(self) -> None:
        self.told: list[oci.LinuxResources] = []
        self.fails = False

    async def update_container(self, _container_id: str, told: oci.LinuxResources) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "there is no such container")
        self.told.append(told)


class _Sizing:
    """The containers that count, and a machine that takes a moment to grow."""

    def __init__(self) -> None:
        self.counted = {"a"}

    async def change(self, _machine: object, _agent: object, name: str, _after: object) -> None:
        await asyncio.sleep(0)
        self.counted.add(name)

    async def admit(self, machine: object, agent: object, name: str, after: object) -> None:
        await self.change(machine, agent, name, after)

    def count(self, name: str, _resources: object) -> None:
        self.counted.add(name)

    def forget(self, name: str) -> None:
        self.counted.discard(name)


class _Parts:
    def __init__(self) -> None:
        self.agent, self.sizing = _Agent(), _Sizing()
        self.sandbox = Sandbox(
            Pod("a", "", ""),
            Journal("a"),
            cast("Configuration", None),
            lambda _event: None,
            Ledger("a", 0),
            cast("Sizing", self.sizing),
        )
        self.sandbox._guest = cast("Guest", SimpleNamespace(machine=None, agent=self.agent))
        cpu = oci.CPU(quota=50_000, period=100_000, shares=512)
        spec = oci.Spec(oci_version="1.0.2", linux=oci.Linux(resources=oci.LinuxResources(cpu=cpu)))
        request = ContainerRequest("a", "/bundle", (), Stdio(), spec)
        init = cast("Process", SimpleNamespace(exit=None))
        self.container = self.sandbox.containers["a"] = Container(request, init)


def _cpu(**limits: Any) -> oci.LinuxResources:
    return oci.LinuxResources(cpu=oci.CPU(**limits))


async def test_two_changes_at_once_both_hold() -> None:
    parts = _Parts()
    await asyncio.gather(
        parts.sandbox.update("a", _cpu(quota=80_000)), parts.sandbox.update("a", _cpu(shares=1024))
    )
    both = oci.CPU(quota=80_000, period=100_000, shares=1024)
    assert parts.agent.told[-1].cpu == both
    assert parts.container.resources.cpu == both


async def test_a_container_that_is_deleted_meanwhile_does_not_count() -> None:
    parts = _Parts()
    parts.agent.fails = True
    changing = asyncio.ensure_future(parts.sandbox.update("a", _cpu(quota=80_000)))
    await asyncio.sleep(0)
    del parts.sandbox.containers["a"]
    parts.sizing.forget("a")
    with pytest.raises(RpcError):
        await changing
    assert not parts.sizing.counted


async def test_a_container_whose_pod_has_ended_meanwhile_has_nothing_on_the_share() -> None:
    """It is gone by then, and whatever were made there again would stay."""
    parts = _Parts()
    parts.sandbox._volumes = cast("PodVolumes", object())
    request = replace(parts.container.request, id="b")
    creating = asyncio.ensure_future(parts.sandbox.create(request))
    await asyncio.sleep(0)
    parts.sandbox._lost = "the sandbox was stopped"
    with pytest.raises(GuestGoneError):  # and no fault of the share, which is not there
        await creating
    assert parts.sizing.counted == {"a"}
