"""A pod's network namespace, and the real agent behind a socket pair as its guest.

The guest's loopback is the one of this process: whoever listens there plays the workload.
"""

import asyncio
import os
import socket
from dataclasses import dataclass

from lab.pod_namespace import Namespace

from kata.agent_client.guest_client import GuestClient
from kata.host import netns
from kata.network.port_forward import PortForward
from ttrpc.channel import READ_SIZE
from ttrpc.server import Server


@dataclass
class ForwardedPod:
    """A namespace whose loopback is carried, and both ends of the way to its guest."""

    namespace: Namespace
    forward: PortForward
    client: GuestClient
    server: Server

    async def dial(self, port: int, address: str = "127.0.0.1") -> socket.socket:
        """Connect as containerd does: a socket of the namespace, to its loopback."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = netns.inside(self.namespace.path, lambda: socket.socket(family))
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError:
            sock.close()
            raise
        return sock

    async def open(
        self, port: int, address: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(sock=await self.dial(port, address))

    async def ask(self, port: int, address: str = "127.0.0.1") -> bytes:
        """Connect and return what comes first; a reset may be as fast as the connection."""
        sock = await self.dial(port, address)
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1)
        finally:
            sock.close()

    async def is_idle(self) -> None:
        """Wait until neither end carries a connection any more."""
        async with asyncio.timeout(60):
            while self.forward.connections or self.server.statistics().active_calls:  # noqa: ASYNC110 - neither end has an event for its being idle
                await asyncio.sleep(0.01)


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the listing itself
    return found


async def connected_guest(server: Server) -> tuple[GuestClient, asyncio.Task[None]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs, limit=READ_SIZE)
    serving = asyncio.create_task(server.serve_connection(reader, writer))
    return await GuestClient.from_socket(ours), serving
