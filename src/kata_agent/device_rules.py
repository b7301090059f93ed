"""Which devices a container may open: the rules of a specification as a BPF program of its cgroup.

A list of rules means what it meant to the device cgroup of version 1, and means to runc: a rule of
type "a" allows or denies all and forgets those before it; any other makes or takes back an
exception. After the specification's rules come those that every container needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kata_api.agent.oci_pb2 import LinuxDeviceCgroup
from ttrpc import RpcError, StatusCode

ANY = -1

# BPF_DEVCG_* of linux/bpf.h
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}

# type, major, minor, access. What runc adds to every specification: any node may be made, and may be
# opened if it is null, zero, full, random, urandom, tty, a pseudo terminal or their multiplexer
# (OCI "Default Devices"; Linux admin-guide/devices.txt).
_ALWAYS_ALLOWED = (
    ("c", ANY, ANY, "m"),
    ("b", ANY, ANY, "m"),
    *(("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    ("c", 5, 0, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, ANY, "rwm"),
)


class Devices(NamedTuple):
    """One device, or all whose number `ANY` leaves open: the type is "b" or "c"."""

    kind: str
    major: int
    minor: int

    def __str__(self) -> str:
        numbers = ("*" if number == ANY else str(number) for number in self[1:])
        return f"{self.kind} {':'.join(numbers)}"


class DeviceRules:
    """What a list of rules comes to: a verdict, and accesses (BPF_DEVCG_ACC_*) excepted from it."""

    def __init__(self) -> None:
        self.allowed = False
        self.exceptions: dict[Devices, int] = {}

    def apply(self, kind: str, major: int, minor: int, access: str, *, allow: bool) -> None:
        """Apply the next rule. Raises ``ValueError`` for one that has no meaning.

        That is also one to take back a part of a wider exception: the cgroup of version 1 ignored
        it, which would open a device that was meant to be closed.
        """
        if not access or set(access) - set(_ACCESS):
            raise ValueError(f"access {access!r} is not out of the letters r, w and m")
        if kind in ("a", ""):
            self.allowed = allow
            self.exceptions.clear()
            return
        if kind not in _TYPES:
            raise ValueError(f"type {kind!r} is none of a, b, c")
        devices = Devices(kind, max(major, ANY), max(minor, ANY))
        bits = sum(_ACCESS[letter] for letter in set(access))
        present = self.exceptions.get(devices, 0)
        if allow != self.allowed:
            self.exceptions[devices] = present | bits
            return
        for wider in (
            Devices(kind, ANY, devices.minor),
            Devices(kind, devices.major, ANY),
            Devices(kind, ANY, ANY),
        ):
            if wider != devices and self.exceptions.get(wider, 0) & bits:
                raise ValueError(f"it cannot take {devices} out of the rule for {wider}")
        if present & ~bits:
            self.exceptions[devices] = present & ~bits
        else:
            self.exceptions.pop(devices, None)


def compile_rules(rules: Iterable[LinuxDeviceCgroup]) -> bytes | None:
    """Return the program for a specification's rules, or None where every access is allowed.

    Raises ``RpcError`` INVALID_ARGUMENT, which names the rule.
    """
    result = DeviceRules()
    for index, rule in enumerate(rules):
        try:
            result.apply(rule.Type, rule.Major, rule.Minor, rule.Access, allow=rule.Allow)
        except ValueError as error:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, f"linux.resources.devices[{index}]: {error}"
            ) from error
    for kind, major, minor, access in _ALWAYS_ALLOWED:
        try:
            result.apply(kind, major, minor, access, allow=True)
        except ValueError as error:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"linux.resources.devices denies what every container needs: {error}",
            ) from error
    if result.allowed and not result.exceptions:
        return None
    return assemble(result.exceptions, allowed=result.allowed)


# Instructions as linux/bpf_common.h and linux/bpf.h encode them.
_LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_AND, _SHIFT_RIGHT, _MOVE, _MOVE_REGISTER = 0x54, 0x74, 0xB4, 0xBC  # of BPF_ALU: 32 bits
_JUMP_EQUAL, _JUMP_UNEQUAL = 0x16, 0x56  # of BPF_JMP32
_EXIT = 0x95
# Registers: the result, the context, and what is read out of it.
_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)


def assemble(exceptions: Mapping[Devices, int], *, allowed: bool) -> bytes:
    """Return a BPF_PROG_TYPE_CGROUP_DEVICE program: ``struct bpf_insn``, 8 bytes each.

    An exception to denial must cover all that an access wants; to one from allowance, a part of it
    is enough.
    """
    code = [
        _instruction(_LOAD_WORD, _WANTED, _CONTEXT, offset=0),  # access << 16 | type
        _instruction(_MOVE_REGISTER, _TYPE, _WANTED),
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, offset=8),
    ]
    for devices, access in sorted(exceptions.items()):  # rules in any order are one program
        # (operation, register, operand): where it holds, the rule is not about this access.
        tests = [(_JUMP_UNEQUAL, _TYPE, _TYPES[devices.kind])]
        if devices.major != ANY:
            tests.append((_JUMP_UNEQUAL, _MAJOR, devices.major))
        if devices.minor != ANY:
            tests.append((_JUMP_UNEQUAL, _MINOR, devices.minor))
        verdict = [
            _instruction(_MOVE_REGISTER, _RESULT, _WANTED),
            _instruction(_AND, _RESULT, value=access if allowed else ~access & 0xFFFFFFFF),
            _instruction(_JUMP_EQUAL if allowed else _JUMP_UNEQUAL, _RESULT, offset=2, value=0),
            _instruction(_MOVE, _RESULT, value=int(not allowed)),
            _instruction(_EXIT),
        ]
        for index, (operation, register, value) in enumerate(tests):
            skipped = len(tests) - index - 1 + len(verdict)
            code.append(_instruction(operation, register, offset=skipped, value=value))
        code += verdict
    code += [_instruction(_MOVE, _RESULT, value=int(allowed)), _instruction(_EXIT)]
    return b"".join(code)


def _instruction(
    code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0
) -> bytes:
    return struct.pack("=BBhI", code, source << 4 | target, offset, value)
