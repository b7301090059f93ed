"""Kernels in all the packings that distributions use, made here, and what must be refused."""

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable

import pytest
from elf_images import elf, note

from kata.image.errors import ImageError
from kata.image.kernel import has_pvh_entry, uncompressed_kernel

pytestmark = pytest.mark.unit

VMLINUX = elf(note(b"GNU", 3, b"build id") + note(b"Xen", 18, struct.pack("<Q", 0x1000000)))


def bzimage(payload: bytes, *, sectors: int = 3, protocol: int = 0x020F) -> bytes:
    setup = bytearray(512 * (sectors + 1))
    setup[0x1F1] = sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    stub = b"\x90" * 100
    struct.pack_into("<II", setup, 0x248, len(stub), len(payload))
    return bytes(setup) + stub + payload + b"\xcc" * 64


def sized(data: bytes) -> bytes:
    """Append the uncompressed size, as Linux's build does for all formats but gzip."""
    return data + struct.pack("<I", len(VMLINUX))


def by_command(*argv: str) -> Callable[[], bytes]:
    def pack() -> bytes:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"the command {argv[0]} is not installed")
        return sized(subprocess.run(argv, input=VMLINUX, capture_output=True, check=True).stdout)

    return pack


PACKINGS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(VMLINUX),
    "xz": lambda: sized(lzma.compress(VMLINUX, check=lzma.CHECK_CRC32)),
    "lzma": lambda: sized(lzma.compress(VMLINUX, format=lzma.FORMAT_ALONE)),
    "bzip2": lambda: sized(bz2.compress(VMLINUX)),
    "zstd": by_command("zstd", "-c", "-q"),
    "lz4": by_command("lz4", "-l", "-c", "-q"),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("sectors", [0, 3, 27])
def test_the_payload_comes_out_of_a_bzimage(packing: str, sectors: int) -> None:
    # 0 stands for 4 setup sectors, says boot.rst.
    image = bzimage(PACKINGS[packing](), sectors=sectors or 4)
    if sectors == 0:
        image = image[:0x1F1] + b"\0" + image[0x1F2:]
    assert uncompressed_kernel(image) == VMLINUX


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_arm64_image_is_taken_plain_or_gzipped(pack: Callable[[bytes], bytes]) -> None:
    image = b"MZ".ljust(0x38, b"\0") + b"ARM\x64" + b"code"
    assert uncompressed_kernel(pack(image)) == image


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        (b"", False),
        (note(b"Xen", 18, b"12345678"), True),
        (note(b"Xen", 17, b"12345678"), False),
        (note(b"GNU", 18, b"12345678"), False),
        (note(b"Linux", 257, b"x") + note(b"Xen", 18, b"12345678"), True),
    ],
)
def test_pvh_is_known_by_its_note(notes: bytes, *, expected: bool) -> None:
    assert has_pvh_entry(elf(notes)) is expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "neither an x86 bzImage nor"),
        (b"\x7fELF" + bytes(1024), "neither an x86 bzImage nor"),
        (gzip.compress(b"no kernel at all".ljust(100)), "neither an x86 bzImage nor"),
        (bzimage(gzip.compress(VMLINUX), protocol=0x0207), "older than Linux 2.6.26"),
        (bzimage(b"unknown packing"), "unknown format"),
        (bzimage(gzip.compress(elf())), "no PVH entry"),
        (bzimage(gzip.compress(VMLINUX)[:-20]), "damaged"),
        (bzimage(gzip.compress(b"not an ELF file")), "no 64-bit little-endian ELF"),
    ],
)
def test_what_is_no_usable_kernel_is_refused_with_the_reason(image: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        uncompressed_kernel(image)
