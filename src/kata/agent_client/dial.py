"""Dialling the agent."""

import asyncio
import socket

from kata.agent_client.guest_client import GuestClient
from kata.host.channel import AgentChannel, SerialChannel, VsockAddress
from ttrpc.client import Client

_RETRY = 0.01
"""Seconds between attempts to reach a vsock port where nobody listens yet; upstream's figure."""


async def dial(channel: AgentChannel, attempt_timeout: float) -> Client:
    """Return a client on the agent's byte stream, waiting for the agent as long as it takes.

    One attempt to connect takes at most `attempt_timeout` seconds.

    The virtio-serial stream exists from the start: what is sent early is held by QEMU until the
    guest opens the port.  vsock refuses until the agent listens.  The caller sets the deadline.
    """
    if isinstance(channel, SerialChannel):
        channel.socket.settimeout(0)
        return await GuestClient.from_socket(channel.socket)
    return await GuestClient.from_socket(await _connect_vsock(channel, attempt_timeout))


async def _connect_vsock(address: VsockAddress, timeout: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    while True:
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        connection.settimeout(0)
        try:
            await asyncio.wait_for(
                loop.sock_connect(connection, (address.cid, address.port)), timeout
            )
        except (OSError, TimeoutError):
            connection.close()
            await asyncio.sleep(_RETRY)
        except BaseException:
            connection.close()
            raise
        else:
            return connection
