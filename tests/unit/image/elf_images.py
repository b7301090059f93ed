"""Small ELF files, put together by hand, for tests that read them."""

import struct


def elf(notes: bytes = b"", sections: dict[str, bytes] | None = None) -> bytes:
    """Return a 64-bit ELF file with one note segment and the named sections."""
    named = {"": b"", **(sections or {}), ".shstrtab": b""}
    strings = b"".join(name.encode() + b"\0" for name in named)
    named[".shstrtab"] = strings
    body, offsets = notes, {}
    for name, data in named.items():
        offsets[name] = 64 + 56 + len(body)
        body += data
    sections_at = 64 + 56 + len(body)
    headers, at = b"", 0
    for name, data in named.items():
        headers += struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, offsets[name], len(data), 0, 0, 1, 0)
        at += len(name) + 1
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, sections_at, 0, 64, 56, 1, 64, len(named), len(named) - 1
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    return head + segment + body + headers


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """Return one note, name and data padded to 4 bytes."""
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(data), kind)
    return head + name.ljust((len(name) + 3) & ~3, b"\0") + data.ljust((len(data) + 3) & ~3, b"\0")


def kernel_module(**tags: str | list[str]) -> bytes:
    """Return a kernel module that consists of its `.modinfo` section."""
    lines = [
        f"{key}={value}"
        for key, values in tags.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return elf(sections={".modinfo": b"".join(line.encode() + b"\0" for line in lines)})
