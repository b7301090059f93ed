"""Files that hold the memory of a machine at rest: sparse, with pages of zeros left out."""

import hashlib
import os
from collections.abc import Iterator

_PAGE = 4096
_BLOCK = 1 << 20
"""Bytes read at once."""

_ZEROS = bytes(_PAGE)

_FREED = b"\xcc" * _PAGE
"""What Linux leaves in pages that it has booted from (POISON_FREE_INITMEM in linux/poison.h).

The kernel fills room for compiled BPF programs with it as well.  Were that where the initrd was, it would be
zeros in clones: none of a program, but no trap any more for whoever jumps there.
"""

_NOWHERE = range(0)


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length, in bytes, of what a sparse file holds."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end - start


def runs(descriptor: int, freed: range = _NOWHERE) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of every run of pages that hold something, at most 1 MiB each.

    Pages of zeros hold nothing, and in the part `freed` neither do those that the kernel filled.
    """
    for start, length in extents(descriptor):
        for offset in range(start, start + length, _BLOCK):
            data = os.pread(descriptor, min(_BLOCK, start + length - offset), offset)
            if data.count(0) != len(data):
                yield from _without_empty(offset, data, freed)


def _without_empty(offset: int, data: bytes, freed: range) -> Iterator[tuple[int, bytes]]:
    begin = -1
    for position in range(0, len(data), _PAGE):
        page = data[position : position + _PAGE]
        if page == _ZEROS or (page == _FREED and offset + position in freed):
            if begin >= 0:
                yield offset + begin, data[begin:position]
            begin = -1
        elif begin < 0:
            begin = position
    if begin >= 0:
        yield offset + begin, data[begin:]


def store(memory: int, path: str, freed: range = _NOWHERE) -> tuple[str, int]:
    """Write what the file open at `memory` holds to a new file; return its digest and its bytes.

    `freed` is where the guest's kernel has given memory back that it had booted from.
    Raises `OSError`; an incomplete file is left then.
    """
    digest, kept = hashlib.sha256(), 0
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(target, os.fstat(memory).st_size)
        for offset, data in runs(memory, freed):
            _write(target, data, offset)
            _feed(digest, offset, data)
            kept += len(data)
    finally:
        os.close(target)
    return digest.hexdigest(), kept


def digest(path: str) -> str:
    """Return the SHA-256 over every page that is not all zeros, each after its offset."""
    total = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset, data in runs(descriptor):
            _feed(total, offset, data)
    finally:
        os.close(descriptor)
    return total.hexdigest()


def new_memory(like: str) -> int:
    """Return the descriptor of an empty anonymous file, as large as the one at `like`."""
    size = os.stat(like).st_size
    descriptor = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def copy(path: str, target: int) -> None:
    """Copy what the sparse file at `path` holds to the empty one open at `target`.

    Raises `OSError`.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, length in extents(source):
            os.lseek(target, start, os.SEEK_SET)
            sent = 0
            while sent < length:
                moved = os.sendfile(target, source, start + sent, length - sent)
                if not moved:
                    raise OSError(f"{path} ended while it was read")
                sent += moved
    finally:
        os.close(source)


def _feed(total: "hashlib._Hash", offset: int, data: bytes) -> None:
    # Page by page: where one run ends and the next begins depends on how the file was written.
    for position in range(0, len(data), _PAGE):
        total.update((offset + position).to_bytes(8, "little"))
        total.update(data[position : position + _PAGE])


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written
