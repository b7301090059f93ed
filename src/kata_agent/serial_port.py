"""The virtio-serial transport: one byte stream that carries one connection after the other.

The kernel shows that the host has left as end of file, yet only while it is away: when another host
comes before the agent looks, the new connection's bytes follow the old one's without a seam. So the
seam is looked for in the frames: a ttrpc client numbers its streams upwards from 1, and a request
on stream 1 begins a connection. A guest may be woken in another VM at any point of this.
"""

from __future__ import annotations

import asyncio
import os
import select

from kata_agent.port_transport import PortReader, PortWriter
from ttrpc.frames import HEADER, TYPE_REQUEST
from ttrpc.server import Server

NAME = "agent.channel.0"
_PORTS = "/sys/class/virtio-ports"
_POLL_SECONDS = 0.01
_READ_SIZE = 256 << 10  # bytes
_FIRST_STREAM = 1


def find(name: str = NAME, directory: str = _PORTS) -> str | None:
    """Return the device, such as /dev/vport1p1, of the port ``name``, if it is there."""
    try:
        ports = os.listdir(directory)
    except FileNotFoundError:
        return None
    for port in ports:
        try:
            with open(f"{directory}/{port}/name", encoding="utf-8") as file:
                if file.read().strip() == name and os.path.exists(f"/dev/{port}"):
                    return f"/dev/{port}"
        except FileNotFoundError:  # a port without a name
            continue
    return None


async def wait(timeout: float) -> str | None:
    """Wait up to ``timeout`` seconds for the port; its driver hears of it after it was loaded."""
    for _ in range(round(timeout / _POLL_SECONDS)):
        device = find()
        if device is not None:
            return device
        await asyncio.sleep(_POLL_SECONDS)
    return None


async def serve(server: Server, device: str) -> None:
    """Serve one connection after the other on a port, for ever.

    The device stays open throughout, or the kernel would throw away what the host sends between
    two connections. Raises ``OSError`` when it cannot be opened.
    """
    fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            await _wait_host(fd)
            await _serve_visit(server, fd)
    finally:
        os.close(fd)


class Splitter:
    """Cuts the bytes of one visit of the host into connections; knows headers only."""

    def __init__(self) -> None:
        self._header = b""  # the part of a header that has come
        self._payload_left = 0  # bytes of the current frame's payload that have not
        self._begun = False

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Return ``data`` in pieces, each with whether it begins a connection.

        An incomplete header is held back until the rest of it comes.
        """
        data = self._header + data
        pieces: list[tuple[bool, bytes]] = []
        begins, start = False, 0
        position = min(self._payload_left, len(data))
        self._payload_left -= position
        while len(data) - position >= HEADER.size:
            length, stream, kind, _ = HEADER.unpack_from(data, position)
            if not self._begun or (stream == _FIRST_STREAM and kind == TYPE_REQUEST):
                if position > start:
                    pieces.append((begins, data[start:position]))
                begins, start, self._begun = True, position, True
            end = position + HEADER.size + length
            position = min(end, len(data))
            self._payload_left = end - position
        if position > start:
            pieces.append((begins, data[start:position]))
        self._header = data[position:]
        return pieces


class _Visit(asyncio.Protocol):
    """One visit of the host, from its opening of the port to its leaving."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._transport: asyncio.BaseTransport | None = None
        self._reader: asyncio.StreamReader | None = None
        self.connections: asyncio.Queue[asyncio.StreamReader | None] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, which readers pause when they are full."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give the bytes to the connections that they belong to."""
        for begins, piece in self._splitter.feed(data):
            if begins:
                self._begin()
            if self._reader is not None:
                self._reader.feed_data(piece)

    def connection_lost(self, _: Exception | None) -> None:
        """End the last connection and the visit."""
        self.end_connection()
        self.connections.put_nowait(None)

    def is_current(self, reader: asyncio.StreamReader) -> bool:
        """Tell whether ``reader`` is still the one that gets the host's bytes."""
        return self._reader is reader

    def end_connection(self) -> None:
        """Let the current connection's reader see its end; further bytes of it are dropped."""
        if self._reader is not None:
            self._reader.feed_eof()
            self._reader = None
            # A reader that was full has paused the port, and nobody empties it any more.
            if isinstance(self._transport, asyncio.ReadTransport):
                self._transport.resume_reading()

    def _begin(self) -> None:
        self.end_connection()
        self._reader = asyncio.StreamReader(limit=_READ_SIZE)
        if self._transport is not None:
            self._reader.set_transport(self._transport)
        self.connections.put_nowait(self._reader)


async def _wait_host(fd: int) -> None:
    """Wait until the host has its end open.

    An absent host makes the port permanently readable (end of file), so there is no event to wait
    for; a look every 10 ms costs less than the first answer of a restored guest may be late.
    """
    while _host_is_absent(fd):  # noqa: ASYNC110 - no event exists, see above
        await asyncio.sleep(_POLL_SECONDS)


def _host_is_absent(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


async def _serve_visit(server: Server, fd: int) -> None:
    loop = asyncio.get_running_loop()
    visit = _Visit()
    reading = PortReader(fd, visit)
    try:
        while (reader := await visit.connections.get()) is not None:
            # A protocol of the writing side carries drain and wait_closed; it reads nothing.
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            writer = asyncio.StreamWriter(PortWriter(fd, protocol), protocol, reader, loop)
            try:
                await server.serve_connection(reader, writer)
            finally:
                writer.close()  # harmless after serving: that closes it too
                if visit.is_current(reader):
                    visit.end_connection()
    finally:
        reading.close()
