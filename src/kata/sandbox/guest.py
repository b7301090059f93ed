"""A guest that takes containers, and when it is lost."""

import asyncio
from dataclasses import dataclass

from kata.agent_client.agent import Agent, GuestStorage
from kata.config import Configuration
from kata.hypervisor.port import VirtualMachine
from kata.hypervisor.watch import SAME_CAUSE, LostError, last_words
from kata.sandbox.errors import StartError
from kata.sandbox.pod_network import PodNetwork
from kata.storage.share import GUEST_ROOT, TAG, Share
from kata.storage.virtiofsd import Virtiofsd


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that takes containers, and all on the host that it depends on."""

    machine: VirtualMachine
    agent: Agent
    share: Share
    file_server: Virtiofsd | None
    network: PodNetwork

    def shared_storage(self, configuration: Configuration) -> GuestStorage:
        """Return what the agent mounts to have the share."""
        if self.file_server:
            return GuestStorage("virtio-fs", TAG, "virtiofs", GUEST_ROOT, ("nodev",))
        msize = configuration.hypervisor.msize_9p
        options = ("trans=virtio", "version=9p2000.L", "cache=mmap", f"msize={msize}")
        return GuestStorage("9p", TAG, "9p", GUEST_ROOT, options)

    async def wait(self) -> str:
        """Wait until the guest is lost, through whichever part of it, and say in words why."""
        processes = asyncio.ensure_future(first_end(self.machine, self.file_server))
        connection = asyncio.ensure_future(self.agent.wait_closed())
        try:
            await asyncio.wait({processes, connection}, return_when=asyncio.FIRST_COMPLETED)
            # A process that ends closes the connection, too, and says more.
            await asyncio.wait({processes}, timeout=SAME_CAUSE)
            if processes.done():
                return processes.result()
            return f"its agent cannot be talked to any more: {connection.result()}"
        finally:
            processes.cancel()
            connection.cancel()


def lost(machine: VirtualMachine, error: LostError) -> StartError:
    """Return the error of a start during which the guest ended, with its last words."""
    return StartError(f"the guest ended while it started: {error}{last_words(machine)}")


async def first_end(machine: VirtualMachine, file_server: Virtiofsd | None) -> str:
    """Wait until either process of a guest has ended, and say in words which, and how."""
    waits = [asyncio.ensure_future(machine.wait())]
    if file_server:
        waits.append(asyncio.ensure_future(file_server.wait()))
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[0] not in done:
            await asyncio.wait(waits[:1], timeout=SAME_CAUSE)
        return next(each.result() for each in waits if each.done())
    finally:
        for each in waits:
            each.cancel()
