"""A decoder of the protobuf wire format that shares no code with protobuf: the second opinion.

It works from a table of field numbers and turns bytes into plain Python values. It is written from the
encoding's description (tags, base-128 varints, 64-bit and length-delimited values, packed scalars).
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

# Plain Python: str, bytes, bool, int, float, and lists and dicts of these.
Value = Any


@dataclass(frozen=True)
class Field:
    """What a number means: a name, a kind, and whether it repeats; messages have a table of their own."""

    name: str
    kind: str
    repeated: bool = False
    table: Callable[[], "Table"] | None = None


Table = dict[int, Field]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def records(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and raw value of each record."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            raw: int | bytes
            raw, at = varint(data, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(wire_type)
            if size is None:
                size, at = varint(data, at)
            raw, at = data[at : at + size], at + size
        yield number, wire_type, raw


def scalar(kind: str, raw: int | bytes) -> Value:
    if isinstance(raw, bytes):
        match kind:
            case "string":
                return raw.decode()
            case "bytes":
                return raw
            case "double":
                return struct.unpack("<d", raw)[0]
    elif kind == "bool":
        return bool(raw)
    elif kind in {"uint32", "uint64"}:
        return raw
    elif kind in {"int32", "int64", "enum"}:
        return raw - (1 << 64) if raw >> 63 else raw
    raise ValueError(f"{raw!r} on the wire is not a {kind}")


def packed(kind: str, raw: bytes) -> Iterator[Value]:
    at = 0
    while at < len(raw):
        if kind == "double":
            yield scalar(kind, raw[at : at + 8])
            at += 8
        else:
            value, at = varint(raw, at)
            yield scalar(kind, value)


def decode(data: bytes, table: Table) -> dict[str, Value]:
    """Return the message as a dict of the fields that are on the wire; maps are lists of entries."""
    message: dict[str, Value] = {}
    for number, wire_type, raw in records(data):
        field = table[number]
        if field.table is not None:
            assert isinstance(raw, bytes)
            values: list[Value] = [decode(raw, field.table())]
        elif field.repeated and wire_type == LENGTH and field.kind not in {"string", "bytes"}:
            assert isinstance(raw, bytes)
            values = list(packed(field.kind, raw))
        else:
            values = [scalar(field.kind, raw)]
        if field.repeated:
            present = message.setdefault(field.name, [])
            assert isinstance(present, list)
            present.extend(values)
        else:
            [message[field.name]] = values
    return message
