"""A connection joined to an asyncio byte stream: the only place where the two meet.

Owns reading, writing and closing; client and server see events only.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ttrpc.connection import Connection
from ttrpc.events import Event
from ttrpc.status import ConnectionClosedError

READ_SIZE: Final = 256 << 10  # bytes; what asyncio's socket transport reads at once at most
_CLOSE_GRACE: Final = 1.0  # seconds for a peer to take what is already written


class Channel:
    """Events over an asyncio stream."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection
    ) -> None:
        self.connection = connection
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def send(self, event: Event) -> None:
        """Write one event, once the peer has taken most of those before it.

        The frame is whole on the wire or absent: a cancelled caller has left nothing in the
        transport's buffer. One sender at a time waits for the transport, so a peer that does not
        read costs one frame above the high-water mark, however many callers give up on it.

        Raises LocalProtocolError as `Connection.send`, ConnectionClosedError when the peer is gone.
        """
        data = self.connection.send(event)
        try:
            # Taking turns is first come, first served: stream ids stay in order.
            async with self._turn:
                if self._writer.is_closing():
                    raise ConnectionClosedError
                await self._writer.drain()
                self._writer.write(data)
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error

    async def receive(self) -> Event:
        """Return the next event, waiting for it; ConnectionEnded at the end and ever after.

        Raises RemoteProtocolError as `Connection.next_event`.
        """
        while (event := self.connection.next_event()) is None:
            try:
                data = await self._reader.read(READ_SIZE)
            except OSError:  # a reset says no more than an end
                data = b""
            self.connection.receive_data(data)
        return event

    async def close(self) -> None:
        """Close the byte stream; what was written is flushed if the peer takes it within 1 s."""
        self._writer.close()
        # A task of its own: whoever is cancelled while waiting for the writer itself cancels the
        # wait of everybody else, for asyncio keeps one future for them all.
        closed = asyncio.ensure_future(self._writer.wait_closed())
        closed.add_done_callback(_retrieve)
        try:
            await asyncio.wait([closed], timeout=_CLOSE_GRACE)
        finally:
            if not closed.done():
                self._writer.transport.abort()
        await asyncio.wait([closed])


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Look at how closing ended: a peer that was faster is no failure, and no news either."""
    if not closed.cancelled():
        closed.exception()
