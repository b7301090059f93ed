"""How big a sandbox's virtual machine has to be: at its start, and while containers come and change.

It grows and never shrinks: a guest gives processors and memory back only if it can, and what would
come of it, a limit that holds, its control groups give anyway.
"""

import asyncio
import logging
from collections.abc import Callable

from kata.agent_client.agent import Agent
from kata.config import Configuration
from kata.hypervisor.port import Growth, HypervisorError, VirtualMachine
from kata.resources import size
from kata.resources.demand import Demand
from kata.resources.size import Size
from kata.sandbox.errors import StateError
from kata_api import oci
from ttrpc import ConnectionClosedError, RpcError

_MIB = 1 << 20

_log = logging.getLogger(__name__)


class Sizing:
    """The demands of a sandbox's containers, and what its machine is given for them.

    `first` is the configuration with the size of the machine at its start, `beyond` by how much that
    is more than the configuration's own.
    """

    def __init__(self, configuration: Configuration, pod: Demand) -> None:
        settings = configuration.hypervisor
        host = Size.of_host()
        self._settings = settings
        self._host = host
        self._most = size.largest(settings, host)
        self._is_static = configuration.runtime.static_sandbox_resource_mgmt
        self._demands: dict[str, Demand] = {}
        self._unused = 0
        """Processors that were plugged in and that the guest has not brought into use."""
        self._turn = asyncio.Lock()
        self._grown: Callable[[Size], None] | None = None
        self._told: Size | None = None
        base = size.smallest(settings, host)
        start = base
        if self._is_static:
            asked = size.wanted(settings, pod, host)
            start = asked.bounded(self._most)
            self._warn_bounded("the pod", asked)
        self.beyond = Growth(start.vcpus - base.vcpus, start.memory_mib - base.memory_mib)
        self.first = configuration
        if start != base:
            self.first = configuration._replace(
                hypervisor=settings.replace(
                    default_vcpus=float(start.vcpus), default_memory=start.memory_mib
                )
            )

    def __repr__(self) -> str:
        kind = "static" if self._is_static else "dynamic"
        return f"<Sizing {kind}, {len(self._demands)} containers, {self.beyond}>"

    def follow(self, grown: Callable[[Size], None]) -> None:
        """Have `grown` told of the machine's size once it is up, and each time that it has grown."""
        self._grown = grown

    def tell(self, machine: VirtualMachine) -> None:
        """Tell of the machine's size, if that is another than was told."""
        size = Size(machine.vcpus, machine.memory_mib)
        if size == self._told:
            return
        if self._told:
            _log.info(
                "the virtual machine has grown to %d vCPUs and %d MiB", size.vcpus, size.memory_mib
            )
        self._told = size
        if self._grown:
            self._grown(size)

    async def admit(
        self,
        machine: VirtualMachine,
        agent: Agent,
        container_id: str,
        resources: oci.LinuxResources | None,
    ) -> None:
        """Count a new container, and have the machine grow for it unless its size is static.

        Raises `StateError` when the machine should grow and cannot; the container is to be forgotten
        then.  What is above the maxima is not given, with a warning.
        """
        async with self._turn:
            self._demands[container_id] = Demand.of_container(resources)
            if self._is_static:
                self._warn_small(machine, container_id)
                return
            asked = self._wanted()
            self._warn_bounded(f"with container {container_id} the pod", asked)
            await self._reach(machine, agent, asked.bounded(self._most))

    def count(self, container_id: str, resources: oci.LinuxResources) -> None:
        """Count a container with these limits, which the guest has kept against a change."""
        self._demands[container_id] = Demand.of_container(resources)

    def forget(self, container_id: str) -> None:
        """Count a container no more."""
        self._demands.pop(container_id, None)

    async def change(
        self,
        machine: VirtualMachine,
        agent: Agent,
        container_id: str,
        resources: oci.LinuxResources,
    ) -> None:
        """Have the machine grow, if it must, before the limits of a container become `resources`.

        Processors beyond the maximum are not given, with a warning: a quota is no promise. Raises
        `StateError` when the machine cannot grow; the container's limits count as before then.
        """
        async with self._turn:
            former = self._demands.get(container_id, Demand())
            before = self._wanted()
            self._demands[container_id] = Demand.of_container(resources)
            asked = self._wanted()
            # What was given no more than the maxima allow at the start may well stay there.
            least = Size(
                min(asked.vcpus, self._most.vcpus) if asked.vcpus > before.vcpus else 0,
                asked.memory_mib if asked.memory_mib > before.memory_mib else 0,
            )
            if asked.vcpus > before.vcpus:
                self._warn_processors(f"with container {container_id} the pod", asked)
            try:
                await self._reach(machine, agent, least)
            except BaseException:
                self._demands[container_id] = former
                raise

    def _wanted(self) -> Size:
        total = sum(self._demands.values(), Demand())
        return size.wanted(self._settings, total, self._host)

    async def _reach(self, machine: VirtualMachine, agent: Agent, target: Size) -> None:
        growth = Growth(
            max(0, target.vcpus - machine.vcpus), max(0, target.memory_mib - machine.memory_mib)
        )
        before = machine.vcpus
        try:
            try:
                if growth.vcpus or growth.memory_mib:
                    await machine.grow(growth)
            finally:  # its processors have come even where its memory has not
                self._unused += machine.vcpus - before
            if self._unused:
                await agent.online_processors(self._unused)
                self._unused = 0
        except ConnectionClosedError:
            raise  # the guest is gone, which says more
        except (HypervisorError, RpcError) as error:
            raise StateError(f"the virtual machine cannot grow: {error}") from error
        finally:
            self.tell(machine)

    def _warn_bounded(self, who: str, asked: Size) -> None:
        if asked.memory_mib > self._most.memory_mib:
            _log.warning(
                "%s asks for a virtual machine of %d MiB and gets %d: default_maxmemory in "
                "[hypervisor.qemu], or else the host, has no more",
                who,
                asked.memory_mib,
                self._most.memory_mib,
            )
        self._warn_processors(who, asked)

    def _warn_processors(self, who: str, asked: Size) -> None:
        if asked.vcpus > self._most.vcpus:
            _log.warning(
                "%s asks for %d vCPUs and gets %d: default_maxvcpus in [hypervisor.qemu], or else "
                "the host, has no more",
                who,
                asked.vcpus,
                self._most.vcpus,
            )

    def _warn_small(self, machine: VirtualMachine, container_id: str) -> None:
        limit = self._demands[container_id].memory // _MIB
        if limit > machine.memory_mib:
            _log.warning(
                "container %s may use %d MiB, but its virtual machine has %d: nothing told of that "
                "when the pod was started; with static_sandbox_resource_mgmt = false in [runtime] it "
                "would grow",
                container_id,
                limit,
                machine.memory_mib,
            )
