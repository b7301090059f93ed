"""Connections found in the frames of a port's byte stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_agent.serial_port import Splitter
from ttrpc.frames import TYPE_DATA, TYPE_REQUEST, TYPE_RESPONSE, Frame

pytestmark = pytest.mark.unit


def frame(stream: int, payload: bytes = b"", kind: int = TYPE_REQUEST) -> bytes:
    return Frame(stream, kind, 0, payload).encode()


def joined(pieces: list[tuple[bool, bytes]]) -> list[bytes]:
    """The bytes of each connection."""
    connections: list[bytes] = []
    for begins, piece in pieces:
        if begins:
            connections.append(b"")
        connections[-1] += piece
    return connections


def test_one_connection() -> None:
    data = frame(1, b"a") + frame(3, b"bb")
    assert Splitter().feed(data) == [(True, data)]


def test_first_frame_begins_whatever_it_is() -> None:
    assert Splitter().feed(frame(7, b"x")) == [(True, frame(7, b"x"))]


def test_second_connection_without_a_seam() -> None:
    old, new = frame(1, b"a") + frame(3), frame(1, b"c")
    assert Splitter().feed(old + new) == [(True, old), (True, new)]


def test_only_a_request_begins() -> None:
    data = frame(1) + frame(1, b"d", TYPE_DATA) + frame(1, b"r", TYPE_RESPONSE)
    assert len(Splitter().feed(data)) == 1


def test_header_is_held_back_until_it_is_whole() -> None:
    splitter = Splitter()
    data = frame(1, b"payload")
    assert splitter.feed(data[:9]) == []
    assert splitter.feed(data[9:11]) == [(True, data[:11])]
    assert splitter.feed(data[11:]) == [(False, data[11:])]


@given(
    st.lists(
        st.lists(st.binary(max_size=40), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_any_slicing_gives_the_same_connections(
    payloads: list[list[bytes]], draw: st.DataObject
) -> None:
    connections = [
        b"".join(frame(1 + 2 * number, payload) for number, payload in enumerate(connection))
        for connection in payloads
    ]
    stream = b"".join(connections)
    splitter, pieces, position = Splitter(), [], 0
    while position < len(stream):
        size = draw.draw(st.integers(1, 30))
        pieces += splitter.feed(stream[position : position + size])
        position += size
    assert joined(pieces) == connections
