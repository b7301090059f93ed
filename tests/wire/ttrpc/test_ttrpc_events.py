"""Events and their bytes: one table, run both ways and fed three ways.

The bytes are worked out by hand from the framing table and protobuf's encoding: `0a` is field 1
with a length, `20` field 4 as a varint, and so on.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from ttrpc import StatusCode, ttrpc_pb2
from ttrpc.connection import Connection, Role
from ttrpc.events import Data, EndOfData, Event, Opening, Refusal, Request, Response
from ttrpc.testing import ConnectionPair, take_events

pytestmark = pytest.mark.wire


class Row(NamedTuple):
    sender: Role
    before: tuple[Event, ...]  # by the client
    event: Event
    encoded: str


UNARY = Request(1, "s", "M")
OPEN = Request(1, "s", "M", opening=Opening.OPEN)
CLOSED = Request(1, "s", "M", opening=Opening.CLOSED)
C, S = Role.CLIENT, Role.SERVER

TABLE = {
    "request": Row(
        C,
        (),
        Request(1, "s", "M", b"\x01\x02", 300, (("k", "v"),)),
        "00000015 00000001 01 00"  # 21 bytes, stream 1, request, no flags
        "0a 01 73"  # service "s"
        "12 01 4d"  # method "M"
        "1a 02 0102"  # payload
        "20 ac02"  # timeout: 300 = 0b10_0101100
        "2a 06 0a 01 6b 12 01 76",  # metadata "k" = "v"
    ),
    "request, bare": Row(C, (), UNARY, "00000006 00000001 01 00 0a0173 12014d"),
    "request, second": Row(C, (UNARY,), Request(3, "", "M"), "00000003 00000003 01 00 12014d"),
    "request, ids may skip": Row(
        C, (UNARY,), Request(9, "s", ""), "00000003 00000009 01 00 0a0173"
    ),
    "request, repeated key": Row(
        C,
        (),
        Request(1, "", "", metadata=(("k", "a"), ("k", "b"))),
        "00000010 00000001 01 00 2a06 0a016b 120161 2a06 0a016b 120162",
    ),
    "request, negative timeout": Row(
        C, (), Request(1, "", "", b"", -1), "0000000b 00000001 01 00 20 ffffffffffffffffff01"
    ),
    "request, client streams": Row(C, (), OPEN, "00000006 00000001 01 02 0a0173 12014d"),
    "request, server streams": Row(C, (), CLOSED, "00000006 00000001 01 01 0a0173 12014d"),
    "client data": Row(C, (OPEN,), Data(1, b"abc"), "00000003 00000001 03 00 616263"),
    "client data, empty": Row(C, (OPEN,), Data(1, b""), "00000000 00000001 03 00"),
    "client end": Row(C, (OPEN,), EndOfData(1), "00000000 00000001 03 05"),
    "response": Row(S, (UNARY,), Response(1, b"\xff"), "00000003 00000001 02 00 1201ff"),
    "response, empty": Row(S, (UNARY,), Response(1), "00000000 00000001 02 00"),
    "response, error": Row(
        S,
        (UNARY,),
        Response(1, b"", StatusCode.NOT_FOUND, "no"),
        "00000008 00000001 02 00 0a06 0805 12026e6f",
    ),
    "response to an open stream": Row(S, (OPEN,), Response(1), "00000000 00000001 02 00"),
    "response to a closed stream": Row(S, (CLOSED,), Response(1), "00000000 00000001 02 00"),
    "response, second first": Row(
        S, (UNARY, UNARY._replace(stream_id=3)), Response(3), "00000000 00000003 02 00"
    ),
    "server data": Row(S, (CLOSED,), Data(1, b"abc"), "00000003 00000001 03 00 616263"),
    "server data while both send": Row(S, (OPEN,), Data(1, b"a"), "00000001 00000001 03 00 61"),
    "server data after client end": Row(
        S, (OPEN, EndOfData(1)), Data(1, b"a"), "00000001 00000001 03 00 61"
    ),
    "server end": Row(S, (CLOSED,), EndOfData(1), "00000000 00000001 03 05"),
}


@pytest.fixture(params=TABLE.values(), ids=list(TABLE))
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


def ends(row: Row) -> tuple[Connection, Connection]:
    """Return the row's sender and receiver, after what went before."""
    pair = ConnectionPair()
    for event in row.before:
        assert pair.from_client(event) == [event]
    return (pair.client, pair.server) if row.sender is C else (pair.server, pair.client)


def check_state(sender: Connection, receiver: Connection) -> None:
    for stream_id in (1, 3, 9, 11):
        assert sender.stream_state(stream_id) is receiver.stream_state(stream_id)


def test_send(row: Row) -> None:
    sender, _ = ends(row)
    assert sender.send(row.event).hex() == row.encoded.replace(" ", "")


def test_receive_whole(row: Row) -> None:
    sender, receiver = ends(row)
    sender.send(row.event)
    receiver.receive_data(bytes.fromhex(row.encoded))
    found = take_events(receiver)
    assert found == [row.event]
    assert type(found[0]) is type(row.event)
    check_state(sender, receiver)


def test_receive_byte_by_byte(row: Row) -> None:
    _, receiver = ends(row)
    for byte in bytes.fromhex(row.encoded):
        assert receiver.next_event() is None
        receiver.receive_data(bytes([byte]))
    assert take_events(receiver) == [row.event]


def test_receive_with_trailing_bytes(row: Row) -> None:
    _, receiver = ends(row)
    receiver.receive_data(bytes.fromhex(row.encoded) + b"\x00\x00\x00\x00\x00")
    assert take_events(receiver) == [row.event]
    receiver.receive_data(b"\x00\x00\x01\x77\x00")  # completes a frame of unknown type
    assert take_events(receiver) == []
    assert receiver.dropped_frames == 1


def test_response_details_travel() -> None:
    details = ttrpc_pb2.Status().details
    details.add().Pack(StringValue(value="why"))
    answer = Response(1, b"", StatusCode.ABORTED, "no", tuple(details))
    pair = ConnectionPair()
    pair.from_client(UNARY)
    assert pair.from_server(answer) == [answer]


def test_refusal_travels_as_an_error_response() -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY)
    heard = pair.from_server(Refusal(1, StatusCode.RESOURCE_EXHAUSTED, "too big"))
    assert heard == [Response(1, b"", StatusCode.RESOURCE_EXHAUSTED, "too big")]


def test_unknown_code_reads_as_unknown() -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY)
    pair.client.receive_data(bytes.fromhex("00000004 00000001 02 00 0a02 0863"))  # code 99
    assert take_events(pair.client) == [Response(1, b"", StatusCode.UNKNOWN)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21])
def test_a_response_of_any_size_is_what_protobuf_makes_of_it(size: int) -> None:
    server = Connection(Role.SERVER)
    client = Connection(Role.CLIENT)
    server.receive_data(client.send(Request(1, "s", "m", b"")))
    assert isinstance(server.next_event(), Request)
    payload = bytes(size)
    frame = server.send(Response(1, payload))
    assert frame[10:] == ttrpc_pb2.Response(payload=payload).SerializeToString()


def test_status_zero_is_success() -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY)
    pair.client.receive_data(bytes.fromhex("00000005 00000001 02 00 0a00 120178"))
    assert take_events(pair.client) == [Response(1, b"x", StatusCode.OK)]


def test_lone_surrogate_in_a_message_is_replaced() -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY)
    answer = Response(1, b"", StatusCode.NOT_FOUND, "/tmp/\udcff")
    assert pair.from_server(answer) == [Response(1, b"", StatusCode.NOT_FOUND, "/tmp/?")]


requests = st.builds(
    Request,
    st.integers(0, (1 << 31) - 1).map(lambda number: 2 * number + 1),
    st.text(max_size=20),
    st.text(max_size=20),
    st.binary(max_size=50),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=4).map(tuple),
    st.sampled_from(Opening),
)
responses = st.builds(
    Response,
    st.just(1),
    st.binary(max_size=50),
    st.sampled_from([code for code in StatusCode if code is not StatusCode.OK]),
    st.text(max_size=20),
)


@given(requests)
def test_any_request_survives(request: Request) -> None:
    assert ConnectionPair().from_client(request) == [request]


@given(responses, st.sampled_from(Opening))
def test_any_response_survives(response: Response, opening: Opening) -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY._replace(opening=opening))
    assert pair.from_server(response) == [response]


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_any_data_survives_both_ways(payloads: list[bytes]) -> None:
    pair = ConnectionPair()
    pair.from_client(OPEN)
    for payload in payloads:
        assert pair.from_client(Data(1, payload)) == [Data(1, payload)]
        assert pair.from_server(Data(1, payload)) == [Data(1, payload)]
