"""The program that holds a pod's namespaces open: it reaps what it inherits, and does nothing else.

It is the whole of the pause image. A pod that shares its process namespace has it as process 1, so
children that lose their parent become its own; with SIGCHLD ignored the kernel reaps them (signal(7)).
An ELF file of 200 bytes, so that no compiler and no registry is needed. Formats: elf(5), Intel SDM 2.
"""

import struct
from typing import Final

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_RT_SIGACTION: Final = 13
_PAUSE: Final = 34
_SIGCHLD: Final = 17
_SIG_IGN: Final = 1


def _code() -> bytes:
    call = b"\x0f\x05"
    before_action = (
        b"\x31\xd2"  # xor edx, edx: the old action is of no interest
        b"\x41\xba"
        + struct.pack("<I", 8)  # mov r10d: bytes of a signal mask
        + call
    )
    loop = b"\xb8" + struct.pack("<I", _PAUSE) + call
    loop += b"\xeb" + struct.pack("<b", -(len(loop) + 2))  # jmp to the loop's start
    distance = len(before_action) + len(loop)  # from behind `lea` to the action
    return (
        b"\xb8" + struct.pack("<I", _RT_SIGACTION)  # mov eax
        + b"\xbf" + struct.pack("<I", _SIGCHLD)  # mov edi
        + b"\x48\x8d\x35" + struct.pack("<i", distance)  # lea rsi, [rip + distance]
        + before_action
        + loop
        + struct.pack("<4Q", _SIG_IGN, 0, 0, 0)  # handler, flags, restorer, mask
    )  # fmt: skip


def program() -> bytes:
    """Return the program as an executable for linux/amd64."""
    code = _code()
    size = _HEADERS + len(code)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code
