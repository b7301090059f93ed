"""Frames: bytes cut the same way however they arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrpc.frames import Frame, FrameBuffer, OversizeFrame

pytestmark = pytest.mark.wire

ROWS = [
    pytest.param(Frame(1, 1, 0, b""), "00000000 00000001 01 00", id="empty"),
    pytest.param(Frame(3, 2, 0, b"ab"), "00000002 00000003 02 00 6162", id="response"),
    pytest.param(Frame(0xFFFFFFFF, 3, 5, b""), "00000000 ffffffff 03 05", id="highest id"),
    pytest.param(Frame(2, 0xFF, 0xFF, b"z"), "00000001 00000002 ff ff 7a", id="unknown type"),
]


@pytest.mark.parametrize(("frame", "encoded"), ROWS)
def test_encoding(frame: Frame, encoded: str) -> None:
    assert frame.encode() == bytes.fromhex(encoded)


@pytest.mark.parametrize(("frame", "encoded"), ROWS)
def test_decoding_whole(frame: Frame, encoded: str) -> None:
    buffer = FrameBuffer()
    buffer.feed(bytes.fromhex(encoded))
    assert buffer.next_frame() == frame
    assert buffer.next_frame() is None
    assert not buffer.mid_frame


@pytest.mark.parametrize(("frame", "encoded"), ROWS)
def test_decoding_byte_by_byte(frame: Frame, encoded: str) -> None:
    buffer = FrameBuffer()
    data = bytes.fromhex(encoded)
    for index in range(len(data)):
        assert buffer.next_frame() is None
        assert buffer.mid_frame == (index > 0)
        buffer.feed(data[index : index + 1])
    assert buffer.next_frame() == frame


@pytest.mark.parametrize(("frame", "encoded"), ROWS)
def test_decoding_leaves_trailing_bytes(frame: Frame, encoded: str) -> None:
    buffer = FrameBuffer()
    buffer.feed(bytes.fromhex(encoded) + b"\x00\x00\x00\x01\x00")
    assert buffer.next_frame() == frame
    assert buffer.next_frame() is None
    buffer.feed(b"\x00\x00\x09\x03\x00!")
    assert buffer.next_frame() == Frame(9, 3, 0, b"!")


@pytest.mark.parametrize("step", [1, 7, 10, 13, 1000])
def test_oversize_payload_is_dropped_and_the_next_frame_stands(step: int) -> None:
    buffer = FrameBuffer(max_message_size=20)
    big = Frame(5, 1, 0, bytes(21)).encode()
    small = Frame(7, 1, 2, bytes(20))
    data = big + big + small.encode()
    found = []
    for start in range(0, len(data), step):
        buffer.feed(data[start : start + step])
        while (frame := buffer.next_frame()) is not None:
            found.append(frame)
    assert found == [OversizeFrame(5, 1, 0, 21), OversizeFrame(5, 1, 0, 21), small]
    assert not buffer.mid_frame


def test_oversize_payload_counts_as_mid_frame_until_it_is_gone() -> None:
    buffer = FrameBuffer(max_message_size=1)
    buffer.feed(Frame(1, 1, 0, b"12").encode()[:-1])
    assert isinstance(buffer.next_frame(), OversizeFrame)
    assert buffer.mid_frame
    buffer.feed(b"2")
    assert not buffer.mid_frame


u8 = st.integers(0, 0xFF)
frames = st.builds(Frame, st.integers(0, 0xFFFFFFFF), u8, u8, st.binary(max_size=40))


@given(sent=st.lists(frames, max_size=12), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_any_frames_survive_any_cuts(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(frame.encode() for frame in sent)
    buffer = FrameBuffer()
    found = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        buffer.feed(memoryview(data)[start:stop])
        while (frame := buffer.next_frame()) is not None:
            found.append(frame)
    assert found == sent
    assert not buffer.mid_frame
