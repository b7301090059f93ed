"""A client whose server answers anything at all: only protocol errors, in bounded memory."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_service import COUNT, ECHO, METHODS, Toy, number

from ttrpc import LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from ttrpc.client import Client
from ttrpc.connection import Connection, Role
from ttrpc.events import Opening, Request
from ttrpc.frames import HEADER, MAX_MESSAGE_SIZE, Frame
from ttrpc.server import Server, bind
from ttrpc.testing import open_stream_pair

pytestmark = pytest.mark.wire

_MANY_STREAMS = 32


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


_ids = st.one_of(st.integers(0, 2 * _MANY_STREAMS), st.integers(0, 2**32 - 1))
_types = st.one_of(st.sampled_from([1, 2, 3]), st.integers(0, 255))
_status = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda code, text, details: (
            b"\x08" + _varint(code & 2**64 - 1) + _field(2, text) + b"\x1a\x00" * details
        ),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=20),
        st.integers(0, 100),
    ),
)
_payloads = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda status, body: _field(1, status) + _field(2, body), _status, st.binary()),
)
_whole = st.builds(
    lambda *parts: Frame(*parts).encode(), _ids, _types, st.integers(0, 255), _payloads
)
_bare_headers = st.builds(HEADER.pack, st.integers(0, 2**32 - 1), _ids, _types, st.integers(0, 255))
_hostile = st.lists(st.one_of(_whole, _bare_headers, st.binary(max_size=30)), max_size=20)


@settings(deadline=None, max_examples=400)
@given(pieces=_hostile, step=st.integers(1, 50), data=st.data())
def test_whatever_comes_is_an_event_or_a_fault_of_the_peer(
    pieces: list[bytes], step: int, data: st.DataObject
) -> None:
    connection = Connection(Role.CLIENT, max_message_size=2048)
    for number_ in range(_MANY_STREAMS):
        opening = data.draw(st.sampled_from(Opening)) if number_ < 4 else Opening.UNARY
        connection.send(Request(2 * number_ + 1, "s", "M", opening=opening))
    stream = b"".join(pieces)
    try:
        for start in range(0, len(stream), step):
            connection.receive_data(stream[start : start + step])
            while connection.next_event() is not None:
                pass
            assert len(connection._buffer._bytes) <= 2048 + HEADER.size + step
            assert len(connection._streams) <= _MANY_STREAMS
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError, match=r"server|client"):
            connection.next_event()
    try:
        following = connection.next_stream_id
        connection.send(Request(following, "s", "M"))
    except LocalProtocolError:
        pytest.fail("what a peer sends must not use up our ids")


@settings(deadline=None, max_examples=60)
@given(pieces=_hostile, close=st.booleans())
def test_every_call_ends_and_the_client_closes(pieces: list[bytes], close: bool) -> None:
    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(_fail)
        streams, (_, peer) = await open_stream_pair()
        async with Client(*streams) as client:
            calls = [
                asyncio.create_task(client.call(ECHO, BytesValue(value=b"x")))
                for _ in range(_MANY_STREAMS)
            ]
            streamed = asyncio.create_task(_count(client))
            await asyncio.sleep(0)
            peer.write(b"".join(pieces))
            if close:
                peer.close()
            await asyncio.sleep(0.002)
            await client.close()
            for outcome in await asyncio.gather(*calls, streamed, return_exceptions=True):
                assert not isinstance(outcome, BaseException) or isinstance(outcome, RpcError)
            assert repr(client).endswith(" 0 calls outstanding>")
        peer.close()

    asyncio.run(play())


async def _count(client: Client) -> None:
    async with client.stream(COUNT, number(3)) as stream:
        async for _ in stream:
            pass


def _fail(_loop: object, context: dict[str, object]) -> None:
    raise AssertionError(context)


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "answers to a call that is over": lambda: iter([Frame(1, 2, 0, b"").encode() * 5000] * 100),
    "unknown types": lambda: iter([Frame(1, 77, 0, b"x" * 90).encode() * 1000] * 100),
    "oversize": lambda: iter([HEADER.pack(9 << 20, 1, 2, 0), *[bytes(1 << 20)] * 9] * 3),
    "one large frame in drops": lambda: iter(
        [HEADER.pack(MAX_MESSAGE_SIZE, 3, 2, 0), *[b"z" * 4096] * 1000]
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_is_borne_in_bounded_memory(flood: Callable[[], Iterator[bytes]]) -> None:
    streams, (reader, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        call = asyncio.create_task(client.call(ECHO, BytesValue()))
        await reader.read(1000)
        peer.write(Frame(1, 2, 0, b"").encode())
        assert await call == BytesValue()
        held = asyncio.create_task(client.call(ECHO, BytesValue()))
        await reader.read(1000)
        tracemalloc.start()
        for piece in flood():
            peer.write(piece)
            await peer.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * MAX_MESSAGE_SIZE
        assert not held.done()
        held.cancel()
    peer.close()


@pytest.mark.parametrize(
    ("payload", "code", "says"),
    [
        (_field(1, b"\x08\x02" + b"\x1a\x00" * (1 << 20)), 8, "exceeds the limit of 65536"),
        (_field(1, b"\x08\x02" + _field(2, b"\xff")), 13, "unreadable response envelope"),
        (_field(1, b"\x08" + _varint(2**40 + 5)), 5, ""),
        (_field(1, b"\x08" + _varint(77)), 2, ""),
        (b"\x12\xff\xff\xff\xff\x0f", 13, "unreadable response envelope"),
        (_field(2, b"\x0a\x7f"), 13, "the answer to /toy.Toy/Echo does not decode"),
    ],
    ids=["details", "no text", "code of 64 bits", "unknown code", "no length", "no message"],
)
async def test_a_bad_answer_fails_its_call(payload: bytes, code: int, says: str) -> None:
    streams, (reader, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        call = asyncio.create_task(client.call(ECHO, BytesValue()))
        await reader.read(1000)
        peer.write(Frame(1, 2, 0, payload).encode())
        with pytest.raises(RpcError) as caught:
            await asyncio.wait_for(call, 5)
        assert caught.value.code == StatusCode(code)
        assert says in caught.value.message
    peer.close()


@pytest.mark.parametrize("stream_id", [0, 2, 3, 0xFFFFFFFF])
async def test_an_answer_that_nobody_asked_for_ends_the_connection(stream_id: int) -> None:
    streams, (_, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        call = asyncio.create_task(client.call(ECHO, BytesValue()))
        await asyncio.sleep(0)
        peer.write(Frame(stream_id, 2, 0, b"").encode())
        assert await client.wait_closed() == (
            f"the server answered on stream {stream_id}, which nobody opened"
        )
        with pytest.raises(RpcError, match="nobody opened"):
            await call
    peer.close()


async def test_a_large_answer_can_be_bounded() -> None:
    server = Server(bind(METHODS, Toy()))
    streams, served = await open_stream_pair()
    serving = asyncio.create_task(server.serve_connection(*served))
    async with Client(*streams) as client:
        with pytest.raises(RpcError, match="has 105 bytes, over the limit of 100"):
            await client.call(ECHO, BytesValue(value=bytes(103)), max_answer=100)
        assert await client.call(ECHO, BytesValue(value=b"x"), max_answer=100)
    await serving
    await server.close()


async def test_callers_that_give_up_leave_nothing_behind() -> None:
    """A peer that does not read: what it has not taken does not grow with every new attempt."""
    streams, (_, peer) = await open_stream_pair()
    async with Client(*streams) as client:
        message = BytesValue(value=bytes(256 << 10))
        seen = []
        for _ in range(12):
            with pytest.raises(RpcError):
                await client.call(ECHO, message, timeout=0.05)
            seen.append(streams[1].transport.get_write_buffer_size())
        assert max(seen) < 2 * (256 << 10)
        assert seen[-1] == seen[4]
        streams[1].transport.abort()
    peer.close()


async def test_random_bytes_with_a_seed() -> None:
    """Longer streams than hypothesis makes, of frames that are nearly right."""
    for seed in range(40):
        chance = random.Random(seed)
        connection = Connection(Role.CLIENT)
        opened = [connection.next_stream_id]
        connection.send(Request(1, "s", "M"))
        for _ in range(300):
            if chance.random() < 0.3:
                opened.append(connection.next_stream_id)
                opening = chance.choice([*Opening])
                connection.send(Request(opened[-1], "s", "M", opening=opening))
            payload = chance.randbytes(chance.choice([0, 3, 30, 3000]))
            header = HEADER.pack(
                len(payload),
                chance.choice(opened[:-1] or [1]),
                chance.choice([2, 2, 3, 3, 9]),
                chance.randrange(256),
            )
            connection.receive_data(header + payload)
            while connection.next_event() is not None:
                pass
