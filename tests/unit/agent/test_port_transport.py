"""Both directions of a port, played by a pair of sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from kata_agent.port_transport import PortReader, PortWriter

pytestmark = pytest.mark.unit


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, as a port would be, and the host's."""
    port, host = socket.socketpair()
    port.setblocking(False)
    host.setblocking(False)
    with port, host:
        yield port, host


async def _receive(host: socket.socket, size: int) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < size:
        got += await loop.sock_recv(host, 65536)
    return bytes(got)


def _stream(port: socket.socket) -> tuple[PortReader, asyncio.StreamReader]:
    reader = asyncio.StreamReader(limit=10_000)
    return PortReader(port.fileno(), asyncio.StreamReaderProtocol(reader)), reader


def _writer(port: socket.socket) -> asyncio.StreamWriter:
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport = PortWriter(port.fileno(), protocol)
    return asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())


async def test_all_is_read_until_the_end_also_by_a_slow_reader(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    port, host = ends
    transport, reader = _stream(port)
    data = os.urandom(3 << 20)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(host, data))
    await asyncio.sleep(0.05)
    assert not sending.done()  # nobody reads: the transport is paused, the kernel's buffer full
    got = bytearray()
    while len(got) < len(data):
        got += await reader.read(50_000)
    await sending
    host.close()
    assert await reader.read() == b""
    assert got == data
    assert transport.is_closing()


async def test_nothing_is_read_after_closing(ends: tuple[socket.socket, socket.socket]) -> None:
    port, host = ends
    transport, reader = _stream(port)
    transport.close()
    host.send(b"late")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert port.recv(10) == b"late"


async def test_writes_keep_their_order_and_wait_for_the_host(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    port, host = ends
    writer = _writer(port)
    chunks = [os.urandom(size) for size in (1, 500_000, 0, 3, 1_000_000, 70_000)]

    async def send() -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.05)
    assert not sending.done()
    whole = b"".join(chunks)
    assert await _receive(host, len(whole)) == whole
    await asyncio.wait_for(sending, 5)
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), 5)


async def test_closing_writes_what_waits_and_aborting_does_not(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    port, host = ends
    writer = _writer(port)
    data = os.urandom(1 << 20)
    writer.write(data)
    writer.close()
    writer.write(b"too late")
    receiving = asyncio.create_task(_receive(host, len(data)))
    await asyncio.wait_for(writer.wait_closed(), 5)
    assert await receiving == data
    other = _writer(port)
    other.write(data)
    other.transport.abort()
    await asyncio.wait_for(other.wait_closed(), 5)
    assert len(host.recv(2 << 20)) < len(data)


async def test_a_host_that_is_gone_ends_the_writer(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    port, host = ends
    writer = _writer(port)
    host.close()
    writer.write(b"x")
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(writer.wait_closed(), 5)
