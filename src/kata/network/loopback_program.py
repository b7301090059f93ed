"""The program that steers a namespace's connections to its own loopback to sockets of ours.

Runs as BPF_PROG_TYPE_SK_LOOKUP (Linux 5.9) for the first packet of a connection, before the kernel looks
for a listening socket of that port. Offsets are those of `struct bpf_sk_lookup` in `linux/bpf.h`.
"""

import socket
import struct
import sys
from typing import Final, NamedTuple

INDEX: Final = {socket.AF_INET: 0, socket.AF_INET6: 1}
"""Where the map has the socket for connections of a family; none there: no one is steered."""

# struct bpf_sk_lookup
_FAMILY, _PROTOCOL, _LOCAL_IP4, _LOCAL_IP6 = 8, 12, 40, 44

# Instructions as linux/bpf_common.h and linux/bpf.h encode them.
_LOAD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_STORE = 0x63  # BPF_STX | BPF_MEM | BPF_W
_LOAD_MAP = 0x18  # BPF_LD | BPF_IMM | BPF_DW, of two instructions
_AND, _MOVE = 0x54, 0xB4  # of BPF_ALU: 32 bits
_ADD_64, _MOVE_REGISTER = 0x07, 0xBF  # of BPF_ALU64
_JUMP, _JUMP_EQUAL_64 = 0x05, 0x15  # of BPF_JMP
_JUMP_EQUAL, _JUMP_UNEQUAL = 0x16, 0x56  # of BPF_JMP32
_CALL, _EXIT = 0x85, 0x95

_OF_MAP = 1  # BPF_PSEUDO_MAP_FD
_MAP_LOOKUP, _RELEASE, _ASSIGN = 1, 86, 124  # BPF_FUNC_*
_PASS = 1  # SK_PASS: go on, with the socket that was assigned, or else with the kernel's search

# Registers: result, arguments, what survives calls, the frame. The context comes in R1.
_R0, _R1, _R2, _R3, _CONTEXT, _SAVED, _FRAME = 0, 1, 2, 3, 6, 7, 10


class _Step(NamedTuple):
    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    goal: str = ""  # the label that a jump leads to


def assemble(socket_map: int) -> bytes:
    """Return the program, for the map with that descriptor: `struct bpf_insn`, 8 bytes each."""
    steps: list[_Step | str] = [
        _Step(_MOVE_REGISTER, _CONTEXT, _R1),
        _Step(_LOAD, _R2, _CONTEXT, _PROTOCOL),
        _Step(_JUMP_UNEQUAL, _R2, value=socket.IPPROTO_TCP, goal="pass"),
        _Step(_LOAD, _R2, _CONTEXT, _FAMILY),
        _Step(_JUMP_EQUAL, _R2, value=socket.AF_INET6, goal="version 6"),
        _Step(_JUMP_UNEQUAL, _R2, value=socket.AF_INET, goal="pass"),
        # 127.0.0.0/8
        _Step(_LOAD, _R2, _CONTEXT, _LOCAL_IP4),
        _Step(_AND, _R2, value=_as_loaded("255.0.0.0", socket.AF_INET)[0]),
        _Step(_JUMP_UNEQUAL, _R2, value=_as_loaded("127.0.0.0", socket.AF_INET)[0], goal="pass"),
        _Step(_MOVE, _SAVED, value=INDEX[socket.AF_INET]),
        _Step(_JUMP, goal="steer"),
        "version 6",
    ]
    for index, word in enumerate(_as_loaded("::1", socket.AF_INET6)):
        steps += [
            _Step(_LOAD, _R2, _CONTEXT, _LOCAL_IP6 + 4 * index),
            _Step(_JUMP_UNEQUAL, _R2, value=word, goal="pass"),
        ]
    steps += [
        _Step(_MOVE, _SAVED, value=INDEX[socket.AF_INET6]),
        "steer",
        # The key lies on the stack; what is found counts as a reference until it is released.
        _Step(_STORE, _FRAME, _SAVED, -4),
        _Step(_LOAD_MAP, _R1, _OF_MAP, value=socket_map),
        _Step(0),
        _Step(_MOVE_REGISTER, _R2, _FRAME),
        _Step(_ADD_64, _R2, value=-4),
        _Step(_CALL, value=_MAP_LOOKUP),
        _Step(_JUMP_EQUAL_64, _R0, goal="pass"),
        _Step(_MOVE_REGISTER, _SAVED, _R0),
        _Step(_MOVE_REGISTER, _R1, _CONTEXT),
        _Step(_MOVE_REGISTER, _R2, _SAVED),
        _Step(_MOVE, _R3),
        _Step(_CALL, value=_ASSIGN),
        _Step(_MOVE_REGISTER, _R1, _SAVED),
        _Step(_CALL, value=_RELEASE),
        "pass",
        _Step(_MOVE, _R0, value=_PASS),
        _Step(_EXIT),
    ]
    return _encode(steps)


def _as_loaded(address: str, family: int) -> tuple[int, ...]:
    """Return an address as the words that a load gives: bytes of the network in our order."""
    packed = socket.inet_pton(family, address)
    return tuple(
        int.from_bytes(packed[start : start + 4], sys.byteorder)
        for start in range(0, len(packed), 4)
    )


def _encode(steps: list[_Step | str]) -> bytes:
    """Return the instructions, with labels become distances from the instruction after a jump."""
    places: dict[str, int] = {}
    instructions: list[_Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(instructions)
        else:
            instructions.append(step)
    return b"".join(
        struct.pack(
            "=BBhI",
            step.code,
            step.source << 4 | step.target,
            places[step.goal] - index - 1 if step.goal else step.offset,
            step.value & 0xFFFFFFFF,
        )
        for index, step in enumerate(instructions)
    )
