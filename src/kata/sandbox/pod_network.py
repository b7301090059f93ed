"""The network of a sandbox: attached to its pod's namespace, or none at all.

A container without a pod's network pays nothing for it, not even the imports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kata.agent_client.agent import Agent
from kata.config import Configuration
from kata.hypervisor.port import HypervisorError, NetworkInterface, VirtualMachine
from kata.network.errors import NetworkError
from kata.sandbox.errors import StartError
from ttrpc import RpcError

if TYPE_CHECKING:
    from kata.network.attachment import Attachment

_log = logging.getLogger(__name__)


class PodNetwork:
    """What the guest of a sandbox has of the namespace `netns`; without one, "", nothing."""

    def __init__(self, netns: str, configuration: Configuration) -> None:
        self.netns = netns
        self._configuration = configuration
        self._attachment: Attachment | None = None
        self._owes = False  # interfaces that the guest could not be given
        # One that comes while another is at it must not close the descriptors that this one hands over.
        self._turn = asyncio.Lock()

    def connect(self) -> None:
        """Connect the namespace's links; raises `NetworkError`, and none is connected then."""
        from kata.network.attachment import Attachment

        settings = self._configuration.hypervisor
        self._attachment = Attachment(
            self.netns,
            self._configuration.runtime.internetworking_model,
            queues=settings.network_queues,
            vhost=not settings.disable_vhost_net,
        )
        self._attachment.attach()

    @property
    def interfaces(self) -> list[NetworkInterface]:
        """What the machine is to have."""
        return self._attachment.interfaces if self._attachment else []

    def renew(self) -> None:
        """Have the interfaces fit for another machine, after one that has ended; raises `OSError`."""
        if self._attachment:
            self._attachment.renew()

    def handed_over(self) -> None:
        """Close our descriptors: the machine has its own."""
        if self._attachment:
            self._attachment.handed_over()

    async def configure(self, agent: Agent) -> None:
        """Have the guest's network be the pod's; raises `RpcError`."""
        if self._attachment and self._attachment.interfaces:
            await self._attachment.configure(agent)

    async def forward_ports(self, agent: Agent) -> Callable[[], Awaitable[None]] | None:
        """Carry connections to the namespace's loopback into the guest; return what ends that.

        None without a namespace, or, with a warning, where the kernel does not have it: a pod is of
        use without it.
        """
        if not self.netns:
            return None
        from kata.network.port_forward import PortForward

        try:
            forward = await PortForward.start(self.netns, agent)
        except (OSError, ValueError) as error:
            _log.warning("the pod has no port-forward: %s", error)
            return None
        return forward.stop

    async def update(self, machine: VirtualMachine, agent: Agent, *, expected: bool = True) -> None:
        """Give the guest what has come to the namespace, as hooks of Docker's make it late.

        Where nothing is `expected`, only what has failed before is tried again, if any, and may fail
        again.  Raises `StartError`, and the log says why.
        """
        if self._attachment is None or not (expected or self._owes):
            return
        try:
            async with self._turn:
                await self._attachment.plug_new(machine, agent)
        except (NetworkError, HypervisorError, RpcError) as error:
            reason = f"cannot give the guest the pod's new interfaces: {error}"
            if not self._owes:
                _log.warning("%s; the next container is an occasion to try again", reason)
            self._owes = True
            if expected:
                raise StartError(reason) from error
        else:
            self._owes = False

    def disconnect(self) -> None:
        """Give the links back to the host."""
        if self._attachment:
            self._attachment.detach()
