"""The serving side of connections, for asyncio.

Every request runs in a task of its own, so a call that blocks for a day delays no other. The server
owns those tasks; `close` ends them all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from ttrpc.binding import BoundMethod, Context, bind
from ttrpc.channel import READ_SIZE, Channel
from ttrpc.connection import Connection, Role
from ttrpc.frames import MAX_MESSAGE_SIZE
from ttrpc.session import Session, Tally

__all__ = ["BoundMethod", "Context", "Server", "Statistics", "bind"]


class Statistics(NamedTuple):
    """What a server did so far."""

    connections: int  # ever accepted
    open_connections: int
    calls: int  # ever started
    active_calls: int
    failed_calls: int  # answered with a status other than OK, refused ones included
    dropped_frames: int  # of unknown type, on connections that have ended


class Server:
    """Bound services, and the connections they are served on.

    `bound_services` are results of `bind`. `max_message_size` is in bytes. When a client vanishes
    its running calls are cancelled, unless `cancel_on_disconnect` is false: then they run to their
    end and their answers go nowhere, but for those of methods bound to end with their caller.

    Raises ValueError when two services share a path.
    """

    def __init__(
        self,
        *bound_services: Mapping[str, BoundMethod],
        max_message_size: int = MAX_MESSAGE_SIZE,
        cancel_on_disconnect: bool = True,
    ) -> None:
        self._methods: dict[str, BoundMethod] = {}
        for service in bound_services:
            if shared := self._methods.keys() & service.keys():
                raise ValueError(f"bound twice: {', '.join(sorted(shared))}; bind each method once")
            self._methods.update(service)
        self._max_message_size = max_message_size
        self._cancel_on_disconnect = cancel_on_disconnect
        self._closing = asyncio.Event()
        self._listeners: set[asyncio.Server] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._open_connections = 0
        self._tally = Tally()

    def __repr__(self) -> str:
        numbers = self.statistics()
        condition = "closed" if self._closing.is_set() else "open"
        return (
            f"<ttrpc server, {condition}, {numbers.open_connections} connections, "
            f"{numbers.active_calls} active calls>"
        )

    def statistics(self) -> Statistics:
        """Return the numbers as they are now."""
        tally = self._tally
        return Statistics(
            self._connections,
            self._open_connections,
            tally.calls,
            tally.active_calls,
            tally.failed_calls,
            tally.dropped_frames,
        )

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection until its peer is gone or the server closes; then it is closed."""
        task = self._serve_soon(reader, writer)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def serve_unix(self, sock: socket.socket) -> None:
        """Accept connections on a listening stream socket until `close`; then it is closed.

        Despite the name, any family whose sockets stream will do, vsock among them.
        """
        sock.setblocking(False)  # noqa: FBT003 - the standard library has no keyword for it
        listener = await asyncio.start_server(self._serve_soon, sock=sock, limit=READ_SIZE)
        self._listeners.add(listener)
        try:
            await self._closing.wait()
        finally:
            listener.close()
            self._listeners.discard(listener)

    async def close(self) -> None:
        """Stop accepting, cancel every call, and close every connection.

        Answers already given are still delivered. Not to be called by a handler: it would wait for
        itself. A handler that wants the end sets an event for whoever started the server.
        """
        self._closing.set()
        for listener in self._listeners:
            listener.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # -- inside --------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _serve_soon(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> asyncio.Task[None]:
        connection = Connection(Role.SERVER, self._max_message_size)
        return self._spawn(self._serve(Channel(reader, writer, connection)))

    async def _serve(self, channel: Channel) -> None:
        self._connections += 1
        self._open_connections += 1
        session = Session(channel, self._methods, self._tally, self._spawn)
        try:
            if not self._closing.is_set():
                await session.run()
        finally:
            await session.cancel(all_=self._cancel_on_disconnect)
            await channel.close()
            self._open_connections -= 1
