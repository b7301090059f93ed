"""The guest's end of port-forward, asked directly."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from forwarded_pod import ForwardedPod
from lab.pod_namespace import Namespace

from kata.host import netns
from kata_agent import forward as guest
from kata_api import forward
from kata_api.agent import forward_pb2 as pb
from ttrpc import RpcError, StatusCode, relay

pytestmark = pytest.mark.linux


async def answer(forwarded: ForwardedPod, *pieces: pb.Piece, end: bool = False) -> RpcError:
    async with forwarded.client.stream(forward.CONNECT) as stream:
        for piece in pieces:
            await stream.send(piece)
        if end:
            await stream.end()
        with pytest.raises(RpcError) as refusal:
            async for _ in stream:
                pass
    return refusal.value


@pytest.mark.parametrize("port", [0, 65536, 2**32 - 1])
async def test_port_that_there_is_not(forwarded: ForwardedPod, port: int) -> None:
    assert (await answer(forwarded, pb.Piece(port=port))).code is StatusCode.INVALID_ARGUMENT


async def test_stream_that_ends_before_it_names_a_port(forwarded: ForwardedPod) -> None:
    assert (await answer(forwarded, end=True)).code is StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A workload that takes connections and whatever they bring, and says nothing."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1 << 16):
                pass
        except OSError:
            pass  # the tests reset it
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([pb.Piece(data=bytes(relay.WINDOW + 1))], "were granted"),
        ([pb.Piece(end=True), pb.Piece(data=b"x")], "after its end"),
        ([pb.Piece(granted=2), pb.Piece(granted=1)], "after one of 2"),
    ],
)
async def test_caller_that_breaks_the_rules_is_told(
    forwarded: ForwardedPod, port: int, pieces: list[pb.Piece], fault: str
) -> None:
    error = await answer(forwarded, pb.Piece(port=port), *pieces)
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert fault in error.message
    await forwarded.is_idle()


async def test_caller_that_ends_the_stream_resets_the_connection(
    forwarded: ForwardedPod, port: int
) -> None:
    assert (await answer(forwarded, pb.Piece(port=port), end=True)).code is StatusCode.ABORTED
    await forwarded.is_idle()


async def test_caller_that_vanishes_resets_the_connection(forwarded: ForwardedPod) -> None:
    outcome: asyncio.Future[OSError | bytes] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outcome.set_result(await reader.read())
        except OSError as error:
            outcome.set_result(error)
        writer.close()

    server = await asyncio.start_server(watch, "127.0.0.1", 0)
    async with forwarded.client.stream(forward.CONNECT) as stream:
        await stream.send(pb.Piece(port=server.sockets[0].getsockname()[1]))
        assert (await anext(aiter(stream))).granted == relay.WINDOW
        await forwarded.client.close()
        async with asyncio.timeout(60):
            assert isinstance(await outcome, ConnectionResetError)
    server.close()
    await server.wait_closed()
    await forwarded.is_idle()


async def test_port_that_would_be_connected_with_itself(with_loopback: Namespace) -> None:
    """The kernel may give our end of the connection the port that we ask for."""
    port = 5000

    def dial() -> None:
        asyncio.run(guest._dial(port)).close()

    script = f"echo {port} {port} >/proc/sys/net/ipv4/ip_local_port_range"
    child = await asyncio.create_subprocess_exec(*with_loopback.command("sh", "-c", script))
    assert await child.wait() == 0

    def connects_with_itself() -> bool:
        with socket.socket() as sock:
            sock.connect(("127.0.0.1", port))
            is_itself: bool = sock.getsockname() == sock.getpeername()
            relay.reset(sock)  # or the port stays taken for a minute
            return is_itself

    def bind() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))

    assert await asyncio.to_thread(netns.inside, with_loopback.path, connects_with_itself)
    with pytest.raises(RpcError, match=r"127\.0\.0\.1: Connection refused") as refusal:
        await asyncio.to_thread(netns.inside, with_loopback.path, dial)
    assert refusal.value.code is StatusCode.UNAVAILABLE
    # And whoever is to listen there still can.
    await asyncio.to_thread(netns.inside, with_loopback.path, bind)
