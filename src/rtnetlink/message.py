"""Messages and attributes of netlink(7): bytes to values and back, without a socket.

Owns framing only: lengths, alignment, byte order, acknowledgements. What the numbers mean is said
by the module of each object. Integers are the host's, addresses the network's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from struct import Struct, error
from typing import Final, NamedTuple

from rtnetlink.errors import MessageError

HEADER: Final = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE: Final = Struct("=HH")  # struct nlattr: length, type
_ERRNO: Final = Struct("=i")

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4

NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100  # of an acknowledgement: without the request's payload
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_REPLACE: Final = 0x100
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_LONGEST_ATTRIBUTE: Final = 0xFFFF
_ATTRIBUTE_TEXT: Final = 1  # NLMSGERR_ATTR_MSG


class Message(NamedTuple):
    """One message: its type, its flags, what it answers, and the bytes after its header."""

    type: int
    flags: int
    sequence: int
    payload: bytes


class Acknowledgement(NamedTuple):
    """The kernel's verdict on a request: an errno, 0 for done, and its own words or none."""

    errno: int
    text: str


def encode(message: Message) -> bytes:
    """Return the bytes of a message, for a socket that the kernel numbers itself."""
    length = HEADER.size + len(message.payload)
    return HEADER.pack(length, message.type, message.flags, message.sequence, 0) + message.payload


def decode(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of a datagram. Raises `MessageError` at the first that is none."""
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < HEADER.size:
            raise MessageError(f"{len(datagram) - offset} bytes left are no netlink header")
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if not HEADER.size <= length <= len(datagram) - offset:
            raise MessageError(
                f"a netlink message claims {length} of {len(datagram) - offset} bytes"
            )
        yield Message(kind, flags, sequence, datagram[offset + HEADER.size : offset + length])
        offset += _aligned(length)


def acknowledgement(message: Message) -> Acknowledgement:
    """Read an NLMSG_ERROR or the end of a dump. Raises `MessageError`."""
    payload = message.payload
    if len(payload) < _ERRNO.size:
        if message.type == NLMSG_DONE:
            return Acknowledgement(0, "")
        raise MessageError("an acknowledgement without its number")
    number = -_ERRNO.unpack_from(payload)[0]
    if number < 0:  # the end of a dump may count what it dumped
        number = 0
    text = ""
    if message.flags & NLM_F_ACK_TLVS:
        offset = _ERRNO.size
        if message.type == NLMSG_ERROR:
            if len(payload) < offset + HEADER.size:
                raise MessageError("an acknowledgement without the request's header")
            request = HEADER.unpack_from(payload, offset)[0]
            offset += HEADER.size if message.flags & NLM_F_CAPPED else _aligned(request)
        text = string(attributes(payload[offset:]).get(_ATTRIBUTE_TEXT, b""))
    return Acknowledgement(number, text)


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded. Raises `ValueError` for a value that no attribute can hold."""
    length = _ATTRIBUTE.size + len(value)
    if length > _LONGEST_ATTRIBUTE:
        raise ValueError(f"{len(value)} bytes are too many for a netlink attribute")
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """Return an attribute that is made of attributes."""
    return attribute(kind | _NESTED, b"".join(members))


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the values by type; of two the last counts. Raises `MessageError`."""
    found = {}
    offset = 0
    while offset < len(data):
        if len(data) - offset < _ATTRIBUTE.size:
            raise MessageError(f"{len(data) - offset} bytes left are no netlink attribute")
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise MessageError(f"a netlink attribute claims {length} of {len(data) - offset} bytes")
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def pack(layout: Struct, *values: int) -> bytes:
    """Return a fixed structure. Raises `ValueError` for a number that does not fit."""
    try:
        return layout.pack(*values)
    except error as reason:
        raise ValueError(f"{values} do not fit a netlink message: {reason}") from reason


def unpack(layout: Struct, payload: bytes) -> tuple[tuple[int, ...], dict[int, bytes]]:
    """Return a payload's fixed structure and the attributes after it. Raises `MessageError`."""
    if len(payload) < layout.size:
        raise MessageError(f"{len(payload)} bytes where {layout.size} were promised")
    return layout.unpack_from(payload), attributes(payload[_aligned(layout.size) :])


def integer(value: bytes | None) -> int:
    """Return the unsigned number in an attribute of 1, 2, 4 or 8 bytes, 0 for one that is not there.

    Raises `MessageError`.
    """
    if value is None:
        return 0
    if len(value) not in (1, 2, 4, 8):
        raise MessageError(f"a number of {len(value)} bytes")
    return int.from_bytes(value, sys.byteorder)


def number(kind: int, value: int, size: int = 4) -> bytes:
    """Return an attribute that is an unsigned number. Raises `ValueError` if it does not fit."""
    try:
        return attribute(kind, value.to_bytes(size, sys.byteorder))
    except OverflowError as reason:
        raise ValueError(f"{value} is no unsigned number of {size} bytes") from reason


def string(value: bytes | None) -> str:
    """Return the text of an attribute, up to its end mark; bytes that are no UTF-8 survive."""
    return os.fsdecode((value or b"").partition(b"\0")[0])


def text(kind: int, value: str) -> bytes:
    """Return an attribute that is a text. Raises `ValueError` for one with an end mark inside."""
    if "\0" in value:
        raise ValueError(f"{value!r} has a zero byte in it")
    return attribute(kind, os.fsencode(value) + b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
