"""Streaming calls in all three shapes, over a socket pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from toy_service import COUNT, DOUBLE, ECHO, METHODS, SERVICE, SUM, Toy, number

from ttrpc import ConnectionClosedError, Method, RpcError, StatusCode
from ttrpc.client import Client
from ttrpc.connection import Connection, Role
from ttrpc.events import Data, EndOfData, Opening, Request, Response
from ttrpc.frames import Frame
from ttrpc.inbox import CAPACITY, Inbox
from ttrpc.server import Server, bind
from ttrpc.testing import connected_client, open_stream_pair, take_events

pytestmark = pytest.mark.wire


@pytest.fixture
async def toy() -> Toy:
    return Toy()


@pytest.fixture
async def server(toy: Toy) -> AsyncIterator[Server]:
    server = Server(bind(METHODS, toy))
    yield server
    await server.close()
    assert server.statistics().active_calls == 0


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected_client(server) as client:
        yield client
        await client.call(ECHO, ECHO.request(value=b"x"))  # whatever happened, it still works


# -- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
async def test_server_streams(client: Client, count: int) -> None:
    async with client.stream(COUNT, number(count)) as stream:
        assert [message.value async for message in stream] == list(range(count))


@pytest.mark.parametrize("values", [[], [5], list(range(500))], ids=["none", "one", "many"])
async def test_client_streams(client: Client, values: list[int]) -> None:
    async with client.stream(SUM) as stream:
        for value in values:
            await stream.send(number(value))
        assert (await stream.result()).value == sum(values)


async def test_empty_messages_are_messages(client: Client) -> None:
    async with client.stream(DOUBLE) as stream:
        await stream.send(number(0))  # encodes to no bytes at all
        assert (await anext(stream)).value == 0
        await stream.end()
        assert [message async for message in stream] == []


async def test_opening_request_may_carry_the_first_message(client: Client) -> None:
    async with client.stream(SUM, number(40)) as stream:
        await stream.send(number(2))
        assert (await stream.result()).value == 42


async def test_both_stream(client: Client) -> None:
    async with client.stream(DOUBLE) as stream:
        for value in range(20):
            await stream.send(number(value))
            assert (await anext(stream)).value == 2 * value
        assert repr(stream) == f"<ttrpc stream 1 /{SERVICE}/Double, OPEN>"
        await stream.end()
        assert repr(stream) in (
            f"<ttrpc stream 1 /{SERVICE}/Double, HALF_CLOSED>",
            f"<ttrpc stream 1 /{SERVICE}/Double, CLOSED>",
        )
        assert [message async for message in stream] == []


async def test_streams_and_calls_share_a_connection(client: Client) -> None:
    async def count(size: int) -> int:
        async with client.stream(COUNT, number(size)) as stream:
            return len([message async for message in stream])

    sizes = list(range(0, 60, 3))
    assert await asyncio.gather(*map(count, sizes)) == sizes


# -- failures ----------------------------------------------------------------------------------


async def test_messages_before_a_failure_arrive(client: Client) -> None:
    async with client.stream(COUNT, number(-1)) as stream:
        assert (await anext(stream)).value == 0
        with pytest.raises(RpcError, match="OUT_OF_RANGE: below nothing"):
            await anext(stream)


async def test_handler_ends_while_the_client_sends(client: Client) -> None:
    async with client.stream(SUM) as stream:
        await stream.send(number(-1))
        with pytest.raises(RpcError, match="OUT_OF_RANGE: negative"):
            await anext(stream)
        with pytest.raises(RpcError, match="OUT_OF_RANGE: negative"):
            await stream.send(number(1))
        with pytest.raises(RpcError, match="OUT_OF_RANGE: negative"):
            await stream.result()


async def test_sending_where_the_client_does_not_stream(client: Client) -> None:
    async with client.stream(COUNT, number(3)) as stream:
        with pytest.raises(RpcError) as caught:
            await stream.send(number(1))
        assert caught.value.code is StatusCode.FAILED_PRECONDITION
        assert len([message async for message in stream]) == 3


async def test_unknown_method(client: Client) -> None:
    absent = Method(SERVICE, "Nothing", Int64Value, Int64Value, server_streams=True)
    async with client.stream(absent, number(1)) as stream:
        with pytest.raises(RpcError) as caught:
            await anext(stream)
    assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_message_over_the_limit(client: Client) -> None:
    blobs = Method(SERVICE, "Double", ECHO.request, ECHO.response, client_streams=True)
    async with client.stream(blobs) as stream:
        with pytest.raises(RpcError) as caught:
            await stream.send(ECHO.request(value=bytes(4 << 20)))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_deadline_bounds_the_block(client: Client, toy: Toy) -> None:
    async def hold() -> None:
        async with client.stream(SUM, timeout=5) as stream:  # the handler has to come that far
            await stream.send(number(1000))
            await toy.holding.acquire()  # the handler holds
            await stream.result()

    with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
        await hold()
    await asyncio.wait_for(toy.finished.wait(), 20)
    assert toy.seen == ["cancelled"]


async def test_timeout_of_the_callers_own_is_left_alone(client: Client) -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with client.stream(SUM, timeout=30):
            raise TimeoutError("mine")


async def test_leaving_the_block_forgets_the_stream(client: Client, toy: Toy) -> None:
    async with client.stream(SUM) as stream:
        await stream.send(number(1000))  # the handler holds
        await toy.holding.acquire()
    assert repr(client) == "<ttrpc client, open, 0 calls outstanding>"
    with pytest.raises(RpcError, match="left"):
        await anext(stream)
    with pytest.raises(RpcError, match="left"):
        await stream.send(number(1))


async def test_peer_vanishing_in_a_stream(server: Server, toy: Toy) -> None:
    async with connected_client(server) as client, client.stream(SUM) as stream:
        await stream.send(number(1000))
        await toy.holding.acquire()
        waiting = asyncio.create_task(anext(stream))
        await server.close()
        with pytest.raises(ConnectionClosedError, match="ttrpc: closed"):
            await waiting
        with pytest.raises(ConnectionClosedError, match="ttrpc: closed"):
            await stream.send(number(1))


async def test_client_vanishing_fails_what_the_handler_reads(toy: Toy) -> None:
    """A call that outlives its client must not mistake the end of the connection for its own."""
    server = Server(bind(METHODS, toy), cancel_on_disconnect=False)
    async with connected_client(server) as client, client.stream(SUM) as stream:
        await stream.send(number(1000))
        await toy.holding.acquire()
        await client.close()
    assert server.statistics().active_calls == 1
    toy.release.set()
    async with asyncio.timeout(5):
        while server.statistics().active_calls:  # noqa: ASYNC110 - the handler's own end is later
            await asyncio.sleep(0)
    assert server.statistics().failed_calls == 1
    await server.close()


async def test_client_vanishing_ends_the_generator(server: Server, toy: Toy) -> None:
    async with (
        connected_client(server) as client,
        client.stream(COUNT, number(10**9)) as stream,
    ):
        assert (await anext(stream)).value == 0
        await client.close()
    await asyncio.wait_for(toy.finished.wait(), 5)
    assert toy.seen == ["count ended"]


# -- flow --------------------------------------------------------------------------------------


async def test_a_client_that_takes_nothing_fails_its_stream_only(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttrpc.inbox.STALL_SECONDS", 0.05)
    async with client.stream(COUNT, number(CAPACITY * 3)) as stream:
        await client.call(ECHO, ECHO.request(value=b"behind it on the wire"), timeout=5)
        found = [(await anext(stream)).value for _ in range(CAPACITY)]
        assert found == list(range(CAPACITY))
        with pytest.raises(RpcError, match="untaken") as caught:
            await anext(stream)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_a_handler_that_takes_nothing_fails_its_stream_only(
    client: Client, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttrpc.inbox.STALL_SECONDS", 0.05)
    async with client.stream(SUM, number(1000)) as stream:
        await toy.holding.acquire()
        for value in range(CAPACITY + 1):
            await stream.send(number(value))
        with pytest.raises(RpcError, match="untaken"):
            await anext(stream)
    assert toy.seen == ["cancelled"]


async def test_an_inbox_keeps_order_and_lets_the_consumer_drain() -> None:
    inbox = Inbox()
    producer = asyncio.create_task(produce(inbox, 3 * CAPACITY))
    found = []
    while (payload := await inbox.get()) is not None:
        found.append(int(payload))
    await producer
    assert found == list(range(3 * CAPACITY))


async def produce(inbox: Inbox, count: int) -> None:
    for value in range(count):
        await inbox.put(b"%d" % value)
    inbox.end()
    inbox.end(RpcError(StatusCode.ABORTED, "too late to matter"))


# -- what other implementations send -----------------------------------------------------------


async def test_server_may_end_a_stream_with_a_response() -> None:
    """Servers differ: some end a good stream with a response, some with a closing data frame."""
    for last in (Response(1), EndOfData(1)):
        streams, (reader, writer) = await open_stream_pair()
        async with Client(*streams) as client, client.stream(COUNT, number(1)) as stream:
            peer = Connection(Role.SERVER)
            peer.receive_data(await reader.read(1000))
            (opened,) = take_events(peer)
            assert isinstance(opened, Request)
            assert opened.opening is Opening.CLOSED
            writer.write(peer.send(Data(1, b"\x08\x07")) + peer.send(last))
            assert [message.value async for message in stream] == [7]
        writer.close()
        await writer.wait_closed()


async def test_client_may_open_its_stream_closed(server: Server) -> None:
    """Its request then carries the only message."""
    (reader, writer), served = await open_stream_pair()
    serving = asyncio.create_task(server.serve_connection(*served))
    peer = Connection(Role.CLIENT)
    payload = number(5).SerializeToString()
    writer.write(peer.send(Request(1, SERVICE, "Sum", payload, opening=Opening.CLOSED)))
    async with asyncio.timeout(5):
        peer.receive_data(await reader.read(1000))
    assert take_events(peer) == [Response(1, payload)]
    writer.close()
    await writer.wait_closed()
    await serving


async def test_a_response_missing_from_a_client_stream() -> None:
    streams, (_, writer) = await open_stream_pair()
    async with Client(*streams) as client, client.stream(SUM) as stream:
        writer.write(Frame(1, 3, 5, b"").encode())
        with pytest.raises(RpcError, match="without a response") as caught:
            await stream.result()
        assert caught.value.code is StatusCode.INTERNAL
    writer.close()
    await writer.wait_closed()
