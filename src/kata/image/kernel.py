"""The kernel as QEMU boots it fastest: the ELF inside a bzImage, or arm64's plain Image.

QEMU enters an x86 ELF through its PVH note (Xen's `docs/misc/pvh.pandoc`), so no boot loader and
no decompressor runs in the guest. Under emulation that saves seconds (DESIGN decision 5); the
price is that no decompressor is there to choose a random address, so the guest kernel runs
without KASLR.
"""

import struct

from kata.image.compression import decompress, is_compressed, is_gzip
from kata.image.elf import ElfFile
from kata.image.errors import ImageError

# Linux, Documentation/arch/x86/boot.rst: the setup header.
_SETUP_SECTS_AT = 0x1F1
_HEADER_MAGIC_AT, _HEADER_MAGIC = 0x202, b"HdrS"
_PROTOCOL_AT, _FIRST_PROTOCOL_WITH_PAYLOAD = 0x206, 0x0208
_PAYLOAD_AT = 0x248
_SECTOR_BYTES = 512
_SIZE_TRAILER_BYTES = 4
# Linux, Documentation/arch/arm64/booting.rst.
_ARM64_MAGIC_AT, _ARM64_MAGIC = 0x38, b"ARM\x64"
# Xen, public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY.
_PVH_OWNER, _PVH_KIND = b"Xen", 18


def uncompressed_kernel(packed: bytes) -> bytes:
    """Return the kernel that QEMU's `-kernel` boots without any work left to the guest.

    Takes a distribution's `/boot/vmlinuz-*`: an x86 bzImage, or an arm64 Image, plain or gzipped.
    Raises `ImageError` for anything else, and for an x86 kernel without a PVH entry point.
    """
    if packed[_HEADER_MAGIC_AT : _HEADER_MAGIC_AT + 4] == _HEADER_MAGIC:
        kernel = _bzimage_payload(packed)
        if not has_pvh_entry(kernel):
            raise ImageError(
                "the kernel has no PVH entry point, so QEMU cannot boot it uncompressed",
                "use a kernel built with CONFIG_PVH=y",
            )
        return kernel
    plain = decompress(packed, "the kernel") if is_compressed(packed) else packed
    if plain[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == _ARM64_MAGIC:
        return plain
    raise ImageError("the kernel is neither an x86 bzImage nor an arm64 Image")


def has_pvh_entry(kernel: bytes) -> bool:
    """Tell whether an x86 ELF kernel names a PVH entry point in its notes."""
    notes = ElfFile(kernel, "the kernel").notes()
    return any(note.owner == _PVH_OWNER and note.kind == _PVH_KIND for note in notes)


def _bzimage_payload(image: bytes) -> bytes:
    (protocol,) = struct.unpack_from("<H", image, _PROTOCOL_AT)
    if protocol < _FIRST_PROTOCOL_WITH_PAYLOAD:
        raise ImageError(f"the kernel's boot protocol {protocol:#06x} is older than Linux 2.6.26")
    setup_sectors = image[_SETUP_SECTS_AT] or 4
    offset, size = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = (setup_sectors + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + size]
    # Linux, scripts/Makefile.lib (size_append): formats that do not end with their own
    # uncompressed size get it appended, and decompressors would stumble over it.
    if not is_gzip(payload):
        payload = payload[:-_SIZE_TRAILER_BYTES]
    return decompress(payload, "the kernel's payload")
