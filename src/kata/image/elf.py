"""ELF files as far as the builder reads them: segments, notes, needed libraries, named sections.

Layouts are those of the System V ABI, chapters 4 and 5, 64-bit little-endian: amd64 and arm64.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kata.image.errors import ImageError

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_NEEDED, _DT_STRTAB = 1, 5
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")


class Segment(NamedTuple):
    """One program header: offsets and sizes in bytes."""

    kind: int
    offset: int
    address: int
    size: int


class Note(NamedTuple):
    """One entry of a note segment: who defined it, what it is, and its bytes."""

    owner: bytes
    kind: int
    data: bytes


class ElfFile:
    """A 64-bit little-endian ELF file held in memory.

    Raises `ImageError` when made from anything else; `what` names the file in that error.
    """

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) < _HEADER.size or data[:6] != b"\x7fELF\x02\x01":
            raise ImageError(f"{what} is no 64-bit little-endian ELF file")
        self._data = data
        self._what = what
        header = _HEADER.unpack_from(data)
        _, _, _, _, _, segments_at, sections_at, _, _, _, segments, _, sections, names = header
        self._sections = (sections_at, sections, names)
        try:
            self.segments = tuple(
                Segment(kind, offset, address, size)
                for kind, _, offset, address, _, size, _, _ in (
                    _SEGMENT.unpack_from(data, segments_at + index * _SEGMENT.size)
                    for index in range(segments)
                )
            )
        except struct.error as error:
            raise ImageError(f"{what} is cut short: its program headers are missing") from error

    def notes(self) -> Iterator[Note]:
        """Yield every entry of the note segments; names and data are padded to 4 bytes."""
        for segment in self.segments:
            if segment.kind != _PT_NOTE:
                continue
            at, end = segment.offset, segment.offset + segment.size
            while at + _NOTE.size <= end:
                name_size, data_size, kind = _NOTE.unpack_from(self._data, at)
                name_at = at + _NOTE.size
                data_at = name_at + _padded(name_size)
                at = data_at + _padded(data_size)
                name = self._data[name_at : name_at + name_size].rstrip(b"\0")
                yield Note(name, kind, self._data[data_at : data_at + data_size])

    def interpreter(self) -> str | None:
        """Return the path of the dynamic loader, or None for a static file or a library."""
        for segment in self.segments:
            if segment.kind == _PT_INTERP:
                raw = self._data[segment.offset : segment.offset + segment.size]
                return raw.rstrip(b"\0").decode()
        return None

    def needed(self) -> tuple[str, ...]:
        """Return the names of the shared libraries that the file asks the loader for."""
        entries = [
            entry
            for segment in self.segments
            if segment.kind == _PT_DYNAMIC
            for entry in struct.iter_unpack(
                "<QQ", self._data[segment.offset : segment.offset + segment.size]
            )
        ]
        strings = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
        at = self._offset_of(strings) if entries else 0
        return tuple(self._string(at + value) for tag, value in entries if tag == _DT_NEEDED)

    def section(self, name: str) -> bytes:
        """Return the bytes of the first section of that name, empty if there is none."""
        at, count, names_index = self._sections
        sections = [
            _SECTION.unpack_from(self._data, at + index * _SECTION.size) for index in range(count)
        ]
        names_at = sections[names_index][4] if sections else 0
        for name_at, _, _, _, offset, size, _, _, _, _ in sections:
            if self._string(names_at + name_at) == name:
                return self._data[offset : offset + size]
        return b""

    def _offset_of(self, address: int) -> int:
        for segment in self.segments:
            inside = address - segment.address
            if segment.kind == _PT_LOAD and 0 <= inside < segment.size:
                return segment.offset + inside
        raise ImageError(f"{self._what} is damaged: no segment holds address {address:#x}")

    def _string(self, at: int) -> str:
        end = self._data.find(b"\0", at)
        return self._data[at : end if end >= 0 else None].decode()


def _padded(size: int) -> int:
    return (size + 3) & ~3
