"""Two joined ends for tests: without any network, or over a socket pair.

Ships with the package, so that whoever writes handlers can test them through the real protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from ttrpc.channel import READ_SIZE
from ttrpc.client import Client
from ttrpc.connection import Connection, Role
from ttrpc.events import Event
from ttrpc.frames import MAX_MESSAGE_SIZE
from ttrpc.server import Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def take_events(connection: Connection) -> list[Event]:
    """Return the events that a connection has ready. Raises as `Connection.next_event`."""
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


class ConnectionPair:
    """A client's and a server's connection joined with no network between."""

    def __init__(self, max_message_size: int = MAX_MESSAGE_SIZE) -> None:
        self.client = Connection(Role.CLIENT, max_message_size)
        self.server = Connection(Role.SERVER, max_message_size)

    def from_client(self, event: Event) -> list[Event]:
        """Send an event to the server and return what the server heard."""
        self.server.receive_data(self.client.send(event))
        return take_events(self.server)

    def from_server(self, event: Event) -> list[Event]:
        """Send an event to the client and return what the client heard."""
        self.client.receive_data(self.server.send(event))
        return take_events(self.client)


async def open_stream_pair() -> tuple[Streams, Streams]:
    """Return two joined asyncio streams; the caller closes both writers."""
    left, right = socket.socketpair()
    return (
        await asyncio.open_connection(sock=left, limit=READ_SIZE),
        await asyncio.open_connection(sock=right, limit=READ_SIZE),
    )


@contextlib.asynccontextmanager
async def connected_client(server: Server) -> AsyncIterator[Client]:
    """Serve one connection for the length of an `async with` block, and yield its client."""
    client_streams, server_streams = await open_stream_pair()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve_connection(*server_streams))
        async with Client(*client_streams) as client:
            yield client
