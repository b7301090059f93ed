"""Frames: the ten-byte header, and the buffer that cuts a byte stream into frames.

Owns framing only: it knows lengths, not what a frame means. Header (all big-endian): payload
length u32, stream id u32, message type u8, flags u8.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

HEADER: Final = Struct(">IIBB")

MAX_MESSAGE_SIZE: Final = 4 << 20  # bytes of payload; the limit of every known implementation

TYPE_REQUEST: Final = 1
TYPE_RESPONSE: Final = 2
TYPE_DATA: Final = 3

# Plain integers: enum.IntFlag makes every test of a bit twenty times dearer.
FLAG_REMOTE_CLOSED: Final = 0x01  # the sender sends no more data on this stream
FLAG_REMOTE_OPEN: Final = 0x02  # the sender sends more data
FLAG_NO_DATA: Final = 0x04  # the frame carries no message


class Frame(NamedTuple):
    """One frame: where it belongs, what it is, and its bytes."""

    stream_id: int
    type: int
    flags: int
    payload: bytes

    def encode(self) -> bytes:
        """Return header and payload; the caller has checked the payload against its limit."""
        header = HEADER.pack(len(self.payload), self.stream_id, self.type, self.flags)
        return header + self.payload


class OversizeFrame(NamedTuple):
    """The header of a frame whose payload is over the limit; the payload is thrown away."""

    stream_id: int
    type: int
    flags: int
    length: int


class FrameBuffer:
    """Bytes received and not yet cut into frames.

    Holds at most one payload of the limit's size plus what one `feed` adds. Taking a frame off the
    front of a `bytearray` moves no bytes, so cost is linear in what is fed however it is sliced.
    """

    __slots__ = ("_bytes", "_max_message_size", "_to_discard")

    def __init__(self, max_message_size: int = MAX_MESSAGE_SIZE) -> None:
        self._bytes = bytearray()
        self._max_message_size = max_message_size
        self._to_discard = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append received bytes."""
        if self._to_discard:
            discarded = min(self._to_discard, len(data))
            self._to_discard -= discarded
            data = memoryview(data)[discarded:]
        self._bytes += data

    @property
    def mid_frame(self) -> bool:
        """Whether the stream may not end here."""
        return bool(self._bytes) or self._to_discard > 0

    def next_frame(self) -> Frame | OversizeFrame | None:
        """Return the next frame, or None when more bytes are needed.

        An oversize frame is returned as soon as its header is there; its payload is dropped as it
        arrives.
        """
        buffer = self._bytes
        if len(buffer) < HEADER.size:
            return None
        length, stream_id, type_, flags = HEADER.unpack_from(buffer)
        end = HEADER.size + length
        if length > self._max_message_size:
            present = min(end, len(buffer))
            del buffer[:present]
            self._to_discard = end - present
            return OversizeFrame(stream_id, type_, flags, length)
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[HEADER.size : end])
        del buffer[:end]
        return Frame(stream_id, type_, flags, payload)
