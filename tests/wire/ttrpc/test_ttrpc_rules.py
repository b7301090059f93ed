"""The protocol's rules, one test each, on joined connections without a network."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrpc import LocalProtocolError, ProtocolError, RemoteProtocolError, StatusCode
from ttrpc.connection import Connection, Role
from ttrpc.events import (
    ConnectionEnded,
    Data,
    EndOfData,
    Event,
    Opening,
    Refusal,
    Request,
    Response,
)
from ttrpc.frames import Frame
from ttrpc.streams import REQUEST_TRIGGERS, TRANSITIONS, StreamState, Trigger
from ttrpc.testing import ConnectionPair, take_events

pytestmark = pytest.mark.wire

UNARY = Request(1, "s", "M")
OPEN = UNARY._replace(opening=Opening.OPEN)
CLOSED = UNARY._replace(opening=Opening.CLOSED)


def hear(connection: Connection, *frames: Frame) -> list[Event]:
    connection.receive_data(b"".join(frame.encode() for frame in frames))
    return take_events(connection)


def only_refusal(events: list[Event]) -> tuple[int, StatusCode]:
    (event,) = events
    assert isinstance(event, Refusal)
    assert event.message
    return event.stream_id, event.code


# -- ids ---------------------------------------------------------------------------------------


def test_client_ids_are_odd_and_rise() -> None:
    client = Connection(Role.CLIENT)
    ids = []
    for _ in range(3):
        ids.append(client.next_stream_id)
        client.send(Request(ids[-1], "s", "M"))
    assert ids == [1, 3, 5]


def test_client_runs_out_of_ids() -> None:
    client = Connection(Role.CLIENT)
    client.send(Request(0xFFFFFFFF, "s", "M"))
    with pytest.raises(LocalProtocolError, match="open a new connection"):
        _ = client.next_stream_id


@pytest.mark.parametrize("stream_id", [0, 2, 0x1_0000_0001])
def test_client_cannot_send_other_ids(stream_id: int) -> None:
    client = Connection(Role.CLIENT)
    with pytest.raises(LocalProtocolError):
        client.send(Request(stream_id, "s", "M"))
    assert client.next_stream_id == 1


@pytest.mark.parametrize("stream_id", [0, 2, 4, 8, 5, 3, 1])
def test_server_refuses_even_repeated_and_lower_ids(stream_id: int) -> None:
    server = Connection(Role.SERVER)
    hear(server, Frame(5, 1, 0, b""))
    server.send(Response(5))
    refused = hear(server, Frame(stream_id, 1, 0, b""))
    assert only_refusal(refused) == (stream_id, StatusCode.INVALID_ARGUMENT)
    assert isinstance(refused[0], Refusal)
    server.send(refused[0])
    assert hear(server, Frame(9, 1, 0, b"")) == [Request(9, "", "")]


# -- refusals ----------------------------------------------------------------------------------

BAD_CLIENT_FRAMES = {
    "data on a stream never opened": ((), Frame(1, 3, 0, b"x")),
    "end of a stream never opened": ((), Frame(1, 3, 5, b"")),
    "data on a unary stream": ((UNARY,), Frame(1, 3, 0, b"x")),
    "data after remote closed": ((CLOSED,), Frame(1, 3, 0, b"x")),
    "data after the end": ((OPEN, EndOfData(1)), Frame(1, 3, 0, b"x")),
    "end after the end": ((OPEN, EndOfData(1)), Frame(1, 3, 5, b"")),
    "end with a message": ((OPEN,), Frame(1, 3, 1, b"x")),
    "request closed and open": ((), Frame(1, 1, 3, b"")),
    "request that is no protobuf": ((), Frame(1, 1, 0, b"\xff")),
    "request with a service that is no text": ((), Frame(1, 1, 0, b"\x0a\x01\xff")),
}


@pytest.mark.parametrize(
    ("before", "frame"), BAD_CLIENT_FRAMES.values(), ids=BAD_CLIENT_FRAMES.keys()
)
def test_server_refuses_a_bad_frame_and_lives_on(before: tuple[Event, ...], frame: Frame) -> None:
    pair = ConnectionPair()
    for event in before:
        pair.from_client(event)
    refused = hear(pair.server, frame)
    assert only_refusal(refused) == (1, StatusCode.INVALID_ARGUMENT)
    with pytest.raises(LocalProtocolError):
        pair.server.send(Response(1))  # the stream is gone; the refusal is its answer
    pair.server.send(refused[0])
    assert pair.from_client(Request(3, "s", "M")) == [Request(3, "s", "M")]


BAD_SERVER_FRAMES = {
    "data on a unary stream": (UNARY, Frame(1, 3, 0, b"x")),
    "end of a unary stream": (UNARY, Frame(1, 3, 5, b"")),
    "response that is no protobuf": (UNARY, Frame(1, 2, 0, b"\xff")),
}


@pytest.mark.parametrize(
    ("request_event", "frame"), BAD_SERVER_FRAMES.values(), ids=BAD_SERVER_FRAMES.keys()
)
def test_client_fails_one_stream_of_a_bad_answer(request_event: Request, frame: Frame) -> None:
    pair = ConnectionPair()
    pair.from_client(request_event)
    pair.from_client(Request(3, "s", "M"))
    assert only_refusal(hear(pair.client, frame)) == (1, StatusCode.INTERNAL)
    assert hear(pair.client, frame) == []  # its stream is forgotten
    assert pair.from_server(Response(3)) == [Response(3)]


@pytest.mark.parametrize("before", [(), (OPEN,)], ids=["request", "data"])
def test_oversize_frame_fails_its_stream_only(before: tuple[Event, ...]) -> None:
    pair = ConnectionPair(max_message_size=1024)
    for event in before:
        pair.from_client(event)
    frame = Frame(1, 3 if before else 1, 0, bytes(1025))
    refused = hear(pair.server, frame)
    assert only_refusal(refused) == (1, StatusCode.RESOURCE_EXHAUSTED)
    pair.server.send(refused[0])
    assert hear(pair.server, Frame(3, 1, 0, b"")) == [Request(3, "", "")]


def test_oversize_response_fails_its_call_only() -> None:
    pair = ConnectionPair(max_message_size=1024)
    pair.from_client(UNARY)
    pair.from_client(Request(3, "s", "M"))
    heard = hear(pair.client, Frame(1, 2, 0, bytes(1025)))
    assert only_refusal(heard) == (1, StatusCode.RESOURCE_EXHAUSTED)
    assert pair.from_server(Response(3)) == [Response(3)]


def test_sender_refuses_oversize_and_keeps_its_state() -> None:
    pair = ConnectionPair(max_message_size=1024)
    with pytest.raises(LocalProtocolError) as caught:
        pair.client.send(Request(1, "s", "M", bytes(1024)))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert pair.client.next_stream_id == 1
    pair.from_client(UNARY)
    with pytest.raises(LocalProtocolError):
        pair.server.send(Response(1, bytes(1024)))
    assert pair.from_server(Response(1, bytes(1021))) == [Response(1, bytes(1021))]


# -- dropped frames ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("payload", [b"", bytes(2000)], ids=["small", "oversize"])
def test_unknown_types_are_ignored(role: Role, payload: bytes) -> None:
    connection = Connection(role, max_message_size=1024)
    assert hear(connection, Frame(1, 0, 0, payload), Frame(1, 4, 0, payload)) == []
    assert connection.dropped_frames == 2


def test_late_response_is_dropped() -> None:
    pair = ConnectionPair()
    pair.from_client(UNARY)
    pair.client.forget(1)
    assert pair.from_server(Response(1, b"late")) == []
    assert pair.client.dropped_frames == 1
    assert pair.from_client(Request(3, "s", "M")) == [Request(3, "s", "M")]


def test_frames_without_data_are_no_messages() -> None:
    pair = ConnectionPair()
    pair.from_client(OPEN)
    assert hear(pair.server, Frame(1, 3, 4, b"")) == []
    assert hear(pair.client, Frame(1, 3, 4, b"")) == []
    assert pair.client.stream_state(1) is StreamState.OPEN


def test_server_may_end_with_its_last_message() -> None:
    pair = ConnectionPair()
    pair.from_client(CLOSED)
    assert hear(pair.client, Frame(1, 3, 1, b"x")) == [Data(1, b"x"), EndOfData(1)]
    assert pair.client.stream_state(1) is StreamState.CLOSED


# -- the connection ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_end_between_frames(role: Role) -> None:
    connection = Connection(role)
    connection.receive_data(b"")
    assert connection.next_event() == ConnectionEnded()
    assert isinstance(connection.next_event(), ConnectionEnded)
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"x")


@pytest.mark.parametrize("data", [b"\x00", Frame(1, 1, 0, b"xy").encode()[:-1]])
def test_end_inside_a_frame(data: bytes) -> None:
    server = Connection(Role.SERVER)
    server.receive_data(data)
    assert server.next_event() is None
    server.receive_data(b"")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="inside a frame"):
            server.next_event()


@pytest.mark.parametrize(("role", "frame_type"), [(Role.CLIENT, 1), (Role.SERVER, 2)])
def test_both_ends_in_the_same_role(role: Role, frame_type: int) -> None:
    connection = Connection(role)
    connection.receive_data(Frame(1, frame_type, 0, b"").encode())
    with pytest.raises(RemoteProtocolError, match="same role"):
        connection.next_event()


@pytest.mark.parametrize(
    ("role", "event"),
    [
        (Role.CLIENT, Response(1)),
        (Role.CLIENT, Refusal(1, StatusCode.ABORTED, "")),
        (Role.CLIENT, ConnectionEnded()),
        (Role.SERVER, UNARY),
        (Role.SERVER, ConnectionEnded()),
    ],
)
def test_roles_send_their_own_events_only(role: Role, event: Event) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send"):
        Connection(role).send(event)


def test_a_limit_too_small_for_a_status_is_refused() -> None:
    with pytest.raises(ValueError, match="1024"):
        Connection(Role.SERVER, max_message_size=1023)


def test_protocol_errors_say_whose_fault_it_is() -> None:
    with pytest.raises(TypeError, match="whose fault"):
        ProtocolError("vague")


def test_repr_says_the_state_in_words() -> None:
    client = Connection(Role.CLIENT)
    client.send(UNARY)
    assert repr(client) == "<ttrpc client connection, open, 1 active streams, last id 1>"
    client.receive_data(b"")
    assert "ended" in repr(client)


# -- the table of states -----------------------------------------------------------------------

TO_STATE: dict[StreamState, tuple[Event, ...]] = {
    StreamState.IDLE: (),
    StreamState.AWAITING: (UNARY,),
    StreamState.OPEN: (OPEN,),
    StreamState.HALF_CLOSED: (OPEN, EndOfData(1)),
}
BY_TRIGGER: dict[Trigger, Event] = {
    REQUEST_TRIGGERS[Opening.UNARY]: UNARY,
    REQUEST_TRIGGERS[Opening.OPEN]: OPEN,
    REQUEST_TRIGGERS[Opening.CLOSED]: CLOSED,
    Trigger.CLIENT_DATA: Data(1, b"x"),
    Trigger.CLIENT_END: EndOfData(1),
    Trigger.SERVER_DATA: Data(1, b"x"),
    Trigger.SERVER_END: EndOfData(1),
    Trigger.RESPONSE: Response(1),
}


def test_the_table_names_every_state_and_uses_every_trigger() -> None:
    assert set(TRANSITIONS) == set(StreamState)
    assert {trigger for row in TRANSITIONS.values() for trigger in row} == set(Trigger)
    assert set(BY_TRIGGER) == set(Trigger)


@pytest.mark.parametrize("state", TO_STATE)
@pytest.mark.parametrize("trigger", Trigger)
def test_connections_follow_the_table(state: StreamState, trigger: Trigger) -> None:
    pair = ConnectionPair()
    for event in TO_STATE[state]:
        pair.from_client(event)
    server_side = trigger.name.startswith(("SERVER", "RESPONSE"))
    sender = pair.server if server_side else pair.client
    following = TRANSITIONS[state].get(trigger)
    if following is None:
        with pytest.raises(LocalProtocolError):
            sender.send(BY_TRIGGER[trigger])
        assert sender.stream_state(1) is state
        return
    hear_from = pair.from_server if server_side else pair.from_client
    assert hear_from(BY_TRIGGER[trigger]) == [BY_TRIGGER[trigger]]
    assert pair.client.stream_state(1) is following
    assert pair.server.stream_state(1) is following


# -- fuzz --------------------------------------------------------------------------------------

u8 = st.integers(0, 0xFF)
near_frames = st.builds(
    Frame,
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 7),
    st.one_of(st.binary(max_size=60), st.just(bytes(1025))),
).map(Frame.encode)
hostile = st.lists(st.one_of(st.binary(max_size=40), near_frames), max_size=12)


@given(role=st.sampled_from(Role), chunks=hostile, before=st.sampled_from([UNARY, OPEN, CLOSED]))
def test_arbitrary_bytes_end_in_protocol_errors_at_most(
    role: Role, chunks: list[bytes], before: Request
) -> None:
    pair = ConnectionPair(max_message_size=1024)
    pair.from_client(before)
    connection = pair.client if role is Role.CLIENT else pair.server
    with contextlib.suppress(RemoteProtocolError):
        for chunk in filter(None, chunks):
            connection.receive_data(chunk)
            for event in take_events(connection):
                if isinstance(event, Refusal) and role is Role.SERVER:
                    connection.send(event)
        connection.receive_data(b"")
        assert connection.next_event() == ConnectionEnded()
        return
    with pytest.raises(RemoteProtocolError):  # it stays broken
        connection.next_event()
