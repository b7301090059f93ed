"""What a sandbox's machine is given as containers come, change and go; the machine is its room alone."""

from pathlib import Path
from typing import Any, cast

import pytest

from kata.agent_client.agent import Agent
from kata.config import Configuration, load
from kata.host import capacity
from kata.hypervisor.port import Growth, HypervisorError, VirtualMachine
from kata.hypervisor.qemu.command import Memory
from kata.hypervisor.qemu.room import Room
from kata.resources.demand import Demand
from kata.resources.size import Size
from kata.sandbox.errors import StateError
from kata.sandbox.sizing import Sizing
from kata_api import oci
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit

_MIB = 1 << 20


class _Machine:
    """A machine without a guest."""

    def __init__(self, sizing: Sizing) -> None:
        settings = sizing.first.hypervisor
        memory = Memory(settings.default_memory, shared=False, slots=2, most_mib=8192)
        self.room = Room(int(settings.default_vcpus), 4, "max", memory)

    @property
    def vcpus(self) -> int:
        return self.room.vcpus

    @property
    def memory_mib(self) -> int:
        return self.room.memory_mib

    async def grow(self, growth: Growth) -> None:
        for each in self.room.additions(growth):
            self.room.take(each)


class _Agent:
    def __init__(self) -> None:
        self.online: list[int] = []
        self.fails = False

    async def online_processors(self, count: int) -> None:
        if self.fails:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "0 of 1 new processors appeared")
        self.online.append(count)


class _Pod:
    def __init__(self, sizing: Sizing) -> None:
        self.sizing = sizing
        self.machine = _Machine(sizing)
        self.agent = _Agent()
        self._guest = cast("VirtualMachine", self.machine), cast("Agent", self.agent)

    @property
    def size(self) -> tuple[int, int]:
        return self.machine.vcpus, self.machine.memory_mib

    async def admit(self, name: str, mib: int = 0, quota: int = 0) -> None:
        await self.sizing.admit(*self._guest, name, _limits(mib, quota))

    async def change(self, name: str, mib: int = 0, quota: int = 0) -> None:
        await self.sizing.change(*self._guest, name, _limits(mib, quota))


def _limits(mib: int, quota: int) -> oci.LinuxResources:
    return oci.LinuxResources(
        memory=oci.Memory(limit=mib * _MIB or None), cpu=oci.CPU(quota=quota or None)
    )


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(capacity, "processors", lambda: 4)
    monkeypatch.setattr(capacity, "memory_mib", lambda: 8192)

    def made(*, static: bool, pod: Demand | None = None, more: str = "") -> _Pod:
        path = tmp_path / "configuration.toml"
        path.write_text(
            '[hypervisor.qemu]\nkernel = "/k"\ninitrd = "/i"\ndefault_memory = 512\n'
            f"{more}\n[runtime]\nstatic_sandbox_resource_mgmt = {str(static).lower()}\n"
        )
        configuration: Configuration = load(str(path), environ={})
        return _Pod(Sizing(configuration, pod or Demand()))

    return made


async def test_a_static_machine_has_its_size_at_its_start(make: Any) -> None:
    pod = make(static=True, pod=Demand(1_500_000, 1024 * _MIB))
    assert pod.size == (3, 1536)
    assert pod.sizing.beyond == Growth(2, 1024)
    await pod.admit("a", 512, 100_000)
    await pod.admit("b", 512, 50_000)
    assert pod.size == (3, 1536)
    await pod.change("b", 600, 50_000)  # beyond what the pod was to have
    assert pod.size == (3, 1664)
    await pod.change("a", 100, 50_000)
    assert pod.size == (3, 1664)  # it never shrinks
    assert pod.agent.online == []


async def test_a_static_machine_of_which_nothing_was_told_stays_and_says_so(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make(static=True)
    assert pod.sizing.first.hypervisor.default_memory == 512
    await pod.admit("a", 512)
    assert not caplog.records
    await pod.admit("b", 600)
    assert "container b may use 600 MiB, but its virtual machine has 512" in caplog.text
    assert "static_sandbox_resource_mgmt = false" in caplog.text
    assert pod.size == (1, 512)


async def test_a_dynamic_machine_grows_with_its_containers(make: Any) -> None:
    pod = make(static=False, pod=Demand(2_000_000, 2048 * _MIB))
    told: list[Size] = []
    pod.sizing.follow(told.append)
    pod.sizing.tell(pod.machine)
    assert pod.size == (1, 512)
    assert pod.sizing.first.hypervisor.default_memory == 512
    await pod.admit("pause")
    await pod.admit("init", 256, 50_000)
    assert pod.size == (2, 768)
    pod.sizing.forget("init")
    await pod.admit("a", 200, 50_000)  # takes its place
    assert pod.size == (2, 768)
    await pod.admit("b", 256, 60_000)
    assert pod.size == (3, 1024)
    assert pod.agent.online == [1, 1]
    assert told == [Size(1, 512), Size(2, 768), Size(3, 1024)]


async def test_what_the_host_has_not_is_not_given_at_the_start(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    big = Demand(9_000_000, 9000 * _MIB)
    pod = make(static=True, pod=big)
    assert pod.size == (4, 8192)
    assert (
        "the pod asks for a virtual machine of 9512 MiB and gets 8192: default_maxm" in caplog.text
    )
    assert "the pod asks for 10 vCPUs and gets 4: default_maxvcpus" in caplog.text
    await pod.admit("a", 9000, 900_000)
    await pod.change("a", 8900, 800_000)  # down, and still above
    with pytest.raises(
        StateError, match=r"cannot grow: .* can have 8192, not 9612: .*default_maxm"
    ):
        await pod.change("a", 9100, 800_000)
    await pod.change("a", 8900, 1_000_000)  # a quota is no promise
    assert "with container a the pod asks for 11 vCPUs and gets 4" in caplog.text
    assert pod.size == (4, 8192)
    pod = make(static=False)
    await pod.admit("a", 9000, 900_000)
    assert pod.size == (4, 8192)


async def test_a_change_that_fails_changes_nothing(make: Any) -> None:
    pod = make(static=False)
    for number in range(2):
        await pod.admit(f"c{number}", 128)
    assert pod.size == (1, 768)
    with pytest.raises(StateError, match="all 2 memory slots"):
        await pod.change("c0", 300)
    with pytest.raises(StateError, match="all 2 memory slots"):
        await pod.admit("c2", 128)
    pod.sizing.forget("c2")
    await pod.change("c0", 128)  # c0 counts 128 as before, so there is nothing to grow for


async def test_processors_that_were_not_brought_into_use_are_tried_again(make: Any) -> None:
    pod = make(static=False)
    pod.agent.fails = True
    with pytest.raises(StateError, match=r"cannot grow: .*0 of 1 new processors"):
        await pod.admit("a", 0, 50_000)
    assert pod.size == (2, 512)
    pod.agent.fails = False
    await pod.admit("a", 0, 50_000)
    assert pod.agent.online == [1]


async def test_a_machine_that_fails_says_why(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = make(static=False)

    async def fail(_growth: Growth) -> None:
        raise HypervisorError("the guest did not take 128 MiB of memory within 15 s")

    monkeypatch.setattr(pod.machine, "grow", fail)
    with pytest.raises(StateError, match=r"cannot grow: the guest did not take 128 MiB"):
        await pod.admit("a", 128)


async def test_processors_that_came_without_their_memory_are_brought_into_use_later(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make(static=False)

    async def come_alone(growth: Growth) -> None:
        for each in pod.machine.room.additions(Growth(growth.vcpus, 0)):
            pod.machine.room.take(each)
        raise HypervisorError("the guest's kernel refused 512 MiB of memory")

    with monkeypatch.context() as patch:
        patch.setattr(pod.machine, "grow", come_alone)
        with pytest.raises(StateError, match="refused 512 MiB"):
            await pod.admit("a", 512, 50_000)
    assert pod.agent.online == []
    await pod.admit("a", 128, 50_000)
    assert pod.size == (2, 640)
    assert pod.agent.online == [1]
