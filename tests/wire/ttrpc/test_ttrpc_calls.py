"""Unary calls between the real client and the real server, over a socket pair."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue
from toy_service import (
    ABSENT,
    COUNT,
    ECHO,
    FAIL,
    HOLD,
    METADATA,
    METHODS,
    SERVICE,
    SIZED,
    WRONG,
    Toy,
    number,
)

from ttrpc import ConnectionClosedError, Method, RpcError, StatusCode
from ttrpc.client import Client
from ttrpc.connection import Connection, Role
from ttrpc.events import Request, Response
from ttrpc.frames import Frame
from ttrpc.server import Server, bind
from ttrpc.streams import StreamState
from ttrpc.testing import connected_client, open_stream_pair, take_events

pytestmark = pytest.mark.wire


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncIterator[None]:
    """Prove that a test ends with the tasks and descriptors it began with."""
    tasks = asyncio.all_tasks()
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    await asyncio.sleep(0)  # transports close their sockets in the loop's next round
    gc.collect()
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.fixture
async def toy() -> Toy:
    return Toy()


@pytest.fixture
async def server(toy: Toy) -> AsyncIterator[Server]:
    server = Server(bind(METHODS, toy))
    yield server
    await server.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected_client(server) as client:
        yield client


async def raw_answer(server: Server, request: Request) -> Response:
    """Return what a peer without deadlines or checks of its own is answered."""
    (reader, writer), served = await open_stream_pair()
    serving = asyncio.create_task(server.serve_connection(*served))
    connection = Connection(Role.CLIENT)
    writer.write(connection.send(request))
    while not (events := take_events(connection)):
        connection.receive_data(await reader.read(1000))
    writer.close()
    await writer.wait_closed()
    await serving
    (answer,) = events
    assert isinstance(answer, Response)
    return answer


# -- answers -----------------------------------------------------------------------------------


async def test_echo(client: Client) -> None:
    assert (await client.call(ECHO, BytesValue(value=b"hi"))).value == b"hi"


@pytest.mark.parametrize("size", [0, 1, 255 << 10, (4 << 20) - 200])
async def test_payload_sizes(client: Client, size: int) -> None:
    payload = os.urandom(size)
    assert (await client.call(ECHO, BytesValue(value=payload))).value == payload


async def test_many_calls_at_once(client: Client, server: Server) -> None:
    payloads = [bytes([index % 256]) * (index * 7) for index in range(300)]
    calls = [client.call(ECHO, BytesValue(value=payload)) for payload in payloads]
    assert [answer.value for answer in await asyncio.gather(*calls)] == payloads
    assert server.statistics().calls == 300


async def test_a_held_call_delays_no_other(client: Client, toy: Toy) -> None:
    held = asyncio.create_task(client.call(HOLD, number(7)))
    await toy.holding.acquire()
    assert (await client.call(ECHO, BytesValue(value=b"x"))).value == b"x"
    assert not held.done()
    toy.release.set()
    assert (await held).value == 7


async def test_metadata_reaches_the_handler(client: Client) -> None:
    answer = await client.call(
        METADATA, StringValue(value="k"), timeout=2.5, metadata={"k": ["a", "b"], "other": ["c"]}
    )
    assert answer.value == f"{SERVICE} Metadata a b 2.5"


async def test_no_timeout_is_none(client: Client) -> None:
    answer = await client.call(METADATA, StringValue(value="k"), metadata=None)
    assert answer.value == f"{SERVICE} Metadata None"


# -- failures ----------------------------------------------------------------------------------


async def test_handler_status(client: Client, server: Server) -> None:
    with pytest.raises(RpcError, match="NOT_FOUND: no such thing") as caught:
        await client.call(FAIL, StringValue(value="rpc"))
    assert caught.value.code is StatusCode.NOT_FOUND
    assert caught.value.message == "no such thing"
    assert server.statistics().failed_calls == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [("?", "ValueError: what is that?"), ("timeout", "TimeoutError: the disk was slow")],
)
async def test_unknown_exception_is_internal_and_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture, word: str, message: str
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(RpcError) as caught:
        await client.call(FAIL, StringValue(value=word), timeout=5)
    assert (caught.value.code, caught.value.message) == (StatusCode.INTERNAL, message)
    (record,) = caplog.records
    assert record.exc_info is not None


async def test_wrong_type_from_a_handler(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL), pytest.raises(RpcError, match="Int64Value") as caught:
        await client.call(WRONG, number(1))
    assert caught.value.code is StatusCode.INTERNAL


@pytest.mark.parametrize(
    "method",
    [
        ABSENT,
        Method(SERVICE, "Nothing", Int64Value, Int64Value),
        Method("no.Such", "Echo", Int64Value, Int64Value),
    ],
    ids=["no function", "no method", "no service"],
)
async def test_unimplemented(client: Client, method: Method[Int64Value, Int64Value]) -> None:
    with pytest.raises(RpcError, match=method.path) as caught:
        await client.call(method, number(1))
    assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_unary_call_of_a_streaming_method(client: Client) -> None:
    with pytest.raises(RpcError, match="streams") as caught:
        await client.call(COUNT, number(1))
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_unreadable_request_message(server: Server) -> None:
    answer = await raw_answer(server, Request(1, SERVICE, "Hold", b"\xff"))
    assert answer.code is StatusCode.INVALID_ARGUMENT
    assert "unreadable Int64Value" in answer.message


async def test_request_over_the_limit_is_not_sent(client: Client, server: Server) -> None:
    with pytest.raises(RpcError, match="split it") as caught:
        await client.call(ECHO, BytesValue(value=bytes(4 << 20)))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert (await client.call(ECHO, BytesValue(value=b"x"))).value == b"x"
    assert server.statistics().calls == 1


async def test_response_over_the_limit(client: Client) -> None:
    with pytest.raises(RpcError, match="limit") as caught:
        await client.call(SIZED, number(4 << 20))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert len((await client.call(SIZED, number(1 << 20))).value) == 1 << 20


async def test_status_over_the_limit(client: Client) -> None:
    with pytest.raises(RpcError, match="limit") as caught:
        await client.call(FAIL, StringValue(value="huge"))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_request_over_the_servers_limit_fails_that_call_only() -> None:
    server = Server(bind(METHODS, Toy()), max_message_size=2048)
    async with connected_client(server) as client:
        with pytest.raises(RpcError) as caught:
            await client.call(ECHO, BytesValue(value=bytes(3000)))
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert (await client.call(ECHO, BytesValue(value=b"x"))).value == b"x"
    assert server.statistics().failed_calls == 1


# -- deadlines and cancellation ----------------------------------------------------------------


async def test_deadline_is_kept_by_the_server(toy: Toy, server: Server) -> None:
    """A peer that only sends timeout_nano, and waits, gets the server's verdict."""
    answer = await raw_answer(server, Request(1, SERVICE, "Hold", timeout_nano=20_000_000))
    assert answer.code is StatusCode.DEADLINE_EXCEEDED
    assert toy.seen == ["cancelled"]


async def test_deadline_is_kept_by_the_client() -> None:
    """A server that never answers does not hold the call beyond its deadline."""
    streams, (_, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        with pytest.raises(RpcError, match=r"within 0\.02 s") as caught:
            await client.call(ECHO, BytesValue(), timeout=0.02)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
        assert repr(client) == "<ttrpc client, open, 0 calls outstanding>"
        assert client._connection.stream_state(1) is StreamState.CLOSED  # nothing accumulates
    peer.close()
    await peer.wait_closed()


@pytest.mark.parametrize("timeout", [0, -1])
async def test_deadline_already_passed(client: Client, server: Server, timeout: float) -> None:
    with pytest.raises(RpcError) as caught:
        await client.call(ECHO, BytesValue(), timeout=timeout)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    assert server.statistics().calls == 0


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
async def test_deadline_beyond_the_field_is_no_deadline(client: Client, timeout: float) -> None:
    answer = await client.call(METADATA, StringValue(value="k"), timeout=timeout)
    assert answer.value.endswith("None")


async def test_cancelled_call_is_forgotten_and_its_answer_dropped(client: Client, toy: Toy) -> None:
    held = asyncio.create_task(client.call(HOLD, number(7)))
    await toy.holding.acquire()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert repr(client) == "<ttrpc client, open, 0 calls outstanding>"
    toy.release.set()
    await toy.finished.wait()
    assert (await client.call(ECHO, BytesValue(value=b"x"))).value == b"x"
    assert toy.seen == ["done"]


# -- ends --------------------------------------------------------------------------------------


async def test_outstanding_calls_fail_when_the_server_closes(
    client: Client, server: Server, toy: Toy
) -> None:
    held = [asyncio.create_task(client.call(HOLD, number(index))) for index in range(3)]
    for _ in held:
        await toy.holding.acquire()
    await server.close()
    for call in held:
        with pytest.raises(ConnectionClosedError, match="ttrpc: closed") as caught:
            await call
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert caught.value.message.startswith("ttrpc: closed")
    await client.wait_closed()
    with pytest.raises(ConnectionClosedError):
        await client.call(ECHO, BytesValue())
    assert "closed: the peer closed the connection" in repr(client)


async def test_outstanding_calls_fail_when_the_client_closes(client: Client, toy: Toy) -> None:
    held = asyncio.create_task(client.call(HOLD, number(1)))
    await toy.holding.acquire()
    await client.close()
    with pytest.raises(ConnectionClosedError, match="closed by this side"):
        await held
    await client.close()
    await client.wait_closed()


async def test_broken_peer_fails_outstanding_calls() -> None:
    streams, (_, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        call = asyncio.create_task(client.call(ECHO, BytesValue()))
        peer.write(Frame(1, 1, 0, b"").encode())
        with pytest.raises(ConnectionClosedError, match="same role"):
            await call
    peer.close()
    await peer.wait_closed()


@pytest.mark.parametrize(("cancel", "seen"), [(True, ["cancelled"]), (False, ["done"])])
async def test_client_vanishing(toy: Toy, cancel: bool, seen: list[str]) -> None:
    server = Server(bind(METHODS, toy), cancel_on_disconnect=cancel)
    async with connected_client(server) as client:
        held = asyncio.create_task(client.call(HOLD, number(1)))
        await toy.holding.acquire()
    with pytest.raises(ConnectionClosedError):
        await held
    assert server.statistics().open_connections == 0
    assert server.statistics().active_calls == (0 if cancel else 1)
    toy.release.set()
    await toy.finished.wait()
    assert toy.seen == seen
    await server.close()
    assert server.statistics().active_calls == 0


async def test_peer_that_never_reads_cannot_hold_up_the_end(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttrpc.channel._CLOSE_GRACE", 0.05)
    server = Server(bind(METHODS, toy))
    (_, writer), (served_reader, served_writer) = await open_stream_pair()
    serving = asyncio.create_task(server.serve_connection(served_reader, served_writer))
    request = Request(1, SERVICE, "Sized", number(3 << 20).SerializeToString())
    writer.write(Connection(Role.CLIENT).send(request))
    await toy.holding.acquire()
    await server.close()
    await serving
    assert served_writer.transport.get_write_buffer_size() == 0  # aborted, not leaked
    assert server.statistics().open_connections == 0
    writer.close()
    await writer.wait_closed()


async def test_cancelled_close_spoils_no_other(client: Client) -> None:
    first = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    first.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_garbage_closes_the_connection_with_one_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    (reader, writer), served = await open_stream_pair()
    with caplog.at_level(logging.WARNING):
        writer.write(Frame(1, 2, 0, b"").encode())
        await server.serve_connection(*served)
    assert await reader.read() == b""
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    writer.close()
    await writer.wait_closed()


async def test_slow_reader_holds_back_the_answers(server: Server, toy: Toy) -> None:
    """A peer that asks for much and reads nothing costs a bounded buffer, and gets it all later."""
    (reader, writer), (served_reader, served_writer) = await open_stream_pair()
    serving = asyncio.create_task(server.serve_connection(served_reader, served_writer))
    connection = Connection(Role.CLIENT)
    calls, size = 40, 1 << 20
    for index in range(calls):
        request = number(size).SerializeToString()
        writer.write(connection.send(Request(2 * index + 1, SERVICE, "Sized", request)))
    for _ in range(calls):
        await toy.holding.acquire()
    for _ in range(100):  # rounds enough for every handler to reach its write
        await asyncio.sleep(0)
    transport = served_writer.transport
    assert transport.get_write_buffer_size() < 2 * size
    assert server.statistics().active_calls > calls // 2
    found = 0
    while found < calls:
        connection.receive_data(await reader.read(1 << 20))
        found += len(take_events(connection))
    writer.close()
    await writer.wait_closed()
    await serving
    assert server.statistics().active_calls == 0


# -- sockets -----------------------------------------------------------------------------------


async def test_serve_unix(tmp_path: Path, server: Server) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    serving = asyncio.create_task(server.serve_unix(listener))
    async with (
        await Client.connect_unix(path, timeout=5) as first,
        await Client.connect_unix(path, timeout=5) as second,
    ):
        for client in (first, second):
            assert (await client.call(ECHO, BytesValue(value=b"x"))).value == b"x"
        numbers = server.statistics()
        assert (numbers.connections, numbers.open_connections, numbers.calls) == (2, 2, 2)
        assert repr(server) == "<ttrpc server, open, 2 connections, 0 active calls>"
        await server.close()
        await asyncio.gather(serving, first.wait_closed(), second.wait_closed())
    with pytest.raises(ConnectionRefusedError):
        await Client.connect_unix(path)
    assert listener.fileno() == -1
    assert os.path.exists(path)
    assert server.statistics().open_connections == 0


async def test_connect_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Client.connect_unix(str(tmp_path / "absent"), timeout=1)


async def test_closed_server_serves_nobody(server: Server) -> None:
    await server.close()
    async with connected_client(server) as client:
        await client.wait_closed()
    assert server.statistics().open_connections == 0


async def test_dropped_frames_are_counted(server: Server) -> None:
    (_, writer), served = await open_stream_pair()
    writer.write(Frame(1, 9, 0, b"from the future").encode())
    writer.write_eof()
    await server.serve_connection(*served)
    assert server.statistics().dropped_frames == 1
    writer.close()
    await writer.wait_closed()


async def test_statistics_are_frozen(server: Server) -> None:
    with pytest.raises(AttributeError):
        server.statistics().calls = 3  # type: ignore[misc]
