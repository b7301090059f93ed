"""Decompression by magic number: what kernels and kernel modules come packed in."""

import bz2
import gzip
import lzma
from collections.abc import Callable

from kata.image.errors import ImageError, run

Decompressor = Callable[[bytes], bytes]


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data)


# Python 3.11 has neither format; both commands stop at the end of the stream that they are given.
def _zstd(data: bytes) -> bytes:
    return run(["zstd", "-d", "-c", "-q"], stdin=data, hint="install the package zstd")


def _lz4(data: bytes) -> bytes:
    return run(["lz4", "-d", "-c", "-q"], stdin=data, hint="install the package lz4")


# Magic numbers: RFC 1952 section 2.3.1, the .xz and .lzma file formats, RFC 8878 section 3.1.1,
# LZ4 frame format (the second is the "legacy" frame, which Linux uses for its own image).
_BY_MAGIC: tuple[tuple[bytes, Decompressor], ...] = (
    (b"\x1f\x8b\x08", gzip.decompress),
    (b"\xfd7zXZ\x00", _xz),
    (b"\x5d\x00\x00", _xz),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x04\x22\x4d\x18", _lz4),
    (b"\x02\x21\x4c\x18", _lz4),
)


def is_gzip(data: bytes) -> bool:
    """Tell whether the bytes begin a gzip member, the only format that ends with its own size."""
    return data.startswith(_BY_MAGIC[0][0])


def is_compressed(data: bytes) -> bool:
    """Tell whether the bytes begin with the magic number of a known compression."""
    return data.startswith(tuple(magic for magic, _ in _BY_MAGIC))


def decompress(data: bytes, what: str) -> bytes:
    """Decompress gzip, xz, lzma, bzip2, zstd or lz4 data, told apart by their magic numbers.

    `what` names the data in errors. Raises `ImageError` for an unknown format or damaged data.
    """
    for magic, decompressor in _BY_MAGIC:
        if data.startswith(magic):
            try:
                return decompressor(data)
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise ImageError(
                    f"{what} is damaged: {error}", "remove the cache directory and build again"
                ) from error
    raise ImageError(
        f"{what} is packed in an unknown format (it begins with {data[:6].hex()})",
        "known are gzip, xz, lzma, bzip2, zstd and lz4",
    )
