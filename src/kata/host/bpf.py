"""Programs that the kernel runs where a socket is looked up for a connection: bpf(2).

Everything here is a descriptor, and gone when its last one is closed. Constants and structures are those
of `linux/bpf.h`. Functions raise `OSError` with the kernel's errno and leave nothing behind then.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

_SYS_BPF = {"x86_64": 321, "aarch64": 280}

_MAP_CREATE = 0
_MAP_UPDATE_ELEM = 2
_PROG_LOAD = 5
_LINK_CREATE = 28
_MAP_TYPE_SOCKMAP = 15
_PROG_TYPE_SK_LOOKUP = 30
_ATTACH_TYPE_SK_LOOKUP = 36

_KEY_SIZE = 4
_SOCKET_SIZE = 8
"""Bytes of a value: given as a descriptor, kept as a reference."""

_LICENSE = b"Apache-2.0"
"""The helpers that choose a socket ask for no other."""

_TRIES = 5
"""The verifier gives up with EAGAIN when a signal comes; what libbpf does."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYS_BPF[os.uname().machine]
    block = ctypes.create_string_buffer(attributes, len(attributes))
    for _ in range(_TRIES):
        result: int = _libc.syscall(number, command, block, ctypes.c_size_t(len(attributes)))
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), f"bpf: {os.strerror(ctypes.get_errno())}")


def make_socket_map(sockets: Sequence[int]) -> int:
    """Return a descriptor of a map that holds sockets, given as descriptors, at keys from 0."""
    made = _bpf(
        _MAP_CREATE,
        struct.pack("=5I", _MAP_TYPE_SOCKMAP, _KEY_SIZE, _SOCKET_SIZE, max(len(sockets), 1), 0),
    )
    try:
        for index, descriptor in enumerate(sockets):
            key, value = ctypes.c_uint32(index), ctypes.c_uint64(descriptor)
            addresses = ctypes.addressof(key), ctypes.addressof(value)
            _bpf(_MAP_UPDATE_ELEM, struct.pack("=IIQQQ", made, 0, *addresses, 0))
    except BaseException:
        os.close(made)
        raise
    return made


def load_lookup_program(instructions: bytes) -> int:
    """Return a descriptor of a program that chooses sockets: `struct bpf_insn`, 8 bytes each.

    Raises EACCES or EINVAL for one that the kernel's verifier refuses.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        # type, count, code, license; log level, size and buffer, kernel version, flags; name;
        # interface, kind of attachment
        "=IIQQIIQII16sII",
        *(_PROG_TYPE_SK_LOOKUP, len(instructions) // 8),
        *(ctypes.addressof(code), ctypes.addressof(license_)),
        *(0, 0, 0, 0, 0, b"", 0, _ATTACH_TYPE_SK_LOOKUP),
    )
    return _bpf(_PROG_LOAD, attributes)


def attach_lookup_program(program: int, namespace: int) -> int:
    """Have a program run for every connection to a network namespace; both are descriptors.

    Returns the descriptor of the attachment, which lasts as long as that is open.
    """
    return _bpf(_LINK_CREATE, struct.pack("=4I", program, namespace, _ATTACH_TYPE_SK_LOOKUP, 0))
