"""A container's system call filter: a profile of the specification, compiled once, loaded often.

The agent compiles; each process of the container only hands the ready program to the kernel. What
the specification ("config-linux.md", Seccomp) leaves open is done as runc does it: names that the
library does not know are skipped, and numbers above all that a restrictive profile names fail with
ENOSYS, so that programs fall back instead of giving up on a call that is newer than the profile.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from kata_agent import libseccomp
from kata_agent import syscalls as sc
from kata_agent.libseccomp import Condition, SeccompError
from kata_api.agent.oci_pb2 import LinuxSeccomp, LinuxSyscall
from ttrpc import RpcError, StatusCode

# SECCOMP_RET_* of linux/seccomp.h, which are libseccomp's values too.
ACTIONS: dict[str, int] = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_TRAP": 0x00030000,
}
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the low 16 bits are an errno or a message
# Actions by which a call still happens: an unknown one then tells ENOSYS by itself.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

# enum scmp_compare of seccomp.h
OPERATORS: dict[str, int] = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

ARCHITECTURES: dict[str, str] = {
    f"SCMP_ARCH_{name.upper()}": name
    for name in (
        *("aarch64", "arm", "mips", "mips64", "mips64n32", "mipsel", "mipsel64", "mipsel64n32"),
        *("parisc", "parisc64", "ppc", "ppc64", "ppc64le", "riscv64", "s390", "s390x"),
        *("x32", "x86", "x86_64"),
    )
}

# SECCOMP_FILTER_FLAG_* of linux/seccomp.h
FLAGS: dict[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}

_REASONS = {
    "SCMP_ACT_NOTIFY": "a listener is a process of the host, which the guest cannot notify",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": "it is about notifications, which need a listener",
}

_MOST_ARGUMENTS = 6
_LONG = 32  # entries; where runc begins to ask for a tree: libseccomp 2.5.4 errs in empty ones
_PROFILES_KEPT = 8  # a pod has one or two; a program has some 10 KB

# Classic BPF as linux/bpf_common.h encodes it, and where linux/seccomp.h puts what it reads.
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_AT_NUMBER, _AT_ARCHITECTURE = 0, 4
_AUDIT_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000

_T = TypeVar("_T")


class Filter(NamedTuple):
    """A program that the kernel takes, and with which SECCOMP_FILTER_FLAG_* bits."""

    program: bytes
    flags: int

    def load(self) -> None:
        """Confine this process, for good.

        It needs no_new_privs or an effective CAP_SYS_ADMIN. Raises ``OSError``.
        """
        sc.seccomp_filter(self.program, self.flags)


def compile_profile(profile: LinuxSeccomp) -> Filter:
    """Compile a profile; one that was compiled before is remembered.

    Raises ``RpcError`` INVALID_ARGUMENT, which names the entry.
    """
    return _compiled(profile.SerializeToString(deterministic=True))


@functools.lru_cache(_PROFILES_KEPT)
def _compiled(serialized: bytes) -> Filter:
    profile = LinuxSeccomp.FromString(serialized)
    flags = 0
    for index, word in enumerate(profile.Flags):
        flags |= _value(FLAGS, word, f"flags[{index}]")
    default = _action(profile.DefaultAction, _default_errno(profile), "default")
    try:
        with libseccomp.Builder(default) as builder:
            tokens = [
                builder.add_architecture(_value(ARCHITECTURES, name, f"architectures[{index}]"))
                for index, name in enumerate(profile.Architectures)
            ]
            if len(profile.Syscalls) > _LONG:
                builder.optimize()
            for index, rule in enumerate(profile.Syscalls):
                _add(builder, rule, default, f"syscalls[{index}]")
            program = builder.export()
    except SeccompError as error:
        raise _refusal(str(error)) from error
    program = b"".join(_newer_calls(profile, tokens)) + program
    # As runc: a filter that names no flags leaves the mitigation of speculative stores as it is.
    return Filter(program, flags if profile.Flags else FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])


def _default_errno(profile: LinuxSeccomp) -> int | None:
    return profile.DefaultErrnoRet if profile.HasField("DefaultErrnoRet") else None


def _add(builder: libseccomp.Builder, rule: LinuxSyscall, default: int, where: str) -> None:
    number = rule.errnoret if rule.HasField("errnoret") else None
    action = _action(rule.Action, number, where)
    conditions = [
        Condition(
            _index(argument.Index, f"{where}.args[{index}]"),
            _value(OPERATORS, argument.Op, f"{where}.args[{index}].op"),
            argument.Value,
            argument.ValueTwo,
        )
        for index, argument in enumerate(rule.Args)
    ]
    if not rule.Names or not all(rule.Names):
        raise _refusal(f"{where}.names has no name or an empty one")
    if action == default:  # libseccomp refuses what changes nothing
        return
    # Several conditions on one argument are alternatives; libseccomp takes only conjunctions.
    distinct = len({condition.argument for condition in conditions}) == len(conditions)
    rules = [conditions] if distinct else [[condition] for condition in conditions]
    for name in rule.Names:
        call = libseccomp.number(name)
        if call is None:
            continue
        for alternative in rules:
            try:
                builder.add_rule(action, call, alternative)
            except SeccompError as error:
                raise SeccompError(f"{where}, {name}: {error}") from error


def _action(name: str, number: int | None, where: str) -> int:
    field = "defaultAction" if where == "default" else f"{where}.action"
    value = _value(ACTIONS, name, field)
    if name not in _WITH_NUMBER:
        if number is not None:
            raise _refusal(f"{field} {name} takes no errno; only {' and '.join(_WITH_NUMBER)} do")
        return value
    number = errno.EPERM if number is None else number
    if number >= 1 << 16:
        raise _refusal(f"{field}: errno {number} does not fit 16 bits")
    return value | number


def _index(index: int, where: str) -> int:
    if index >= _MOST_ARGUMENTS:
        raise _refusal(f"{where}.index is {index}; system calls have arguments 0 to 5")
    return index


def _value(table: dict[str, _T], name: str, where: str) -> _T:
    if name in table:
        return table[name]
    if name in _REASONS:
        raise _refusal(f"{where}: {name} is not supported: {_REASONS[name]}")
    raise _refusal(f"{where}: {name!r} is none of {', '.join(table)}")


def _refusal(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, f"seccomp profile: {message}")


def _newer_calls(profile: LinuxSeccomp, tokens: list[int]) -> Iterator[bytes]:
    """Yield instructions that answer ENOSYS to calls above the highest that a profile names."""
    if profile.DefaultAction in _PERMISSIVE or _default_errno(profile) == errno.ENOSYS:
        return
    names = {name for rule in profile.Syscalls for name in rule.Names}
    for token in dict.fromkeys(tokens):
        last = max((libseccomp.number(name, token) or 0 for name in names), default=0)
        if last <= 0:
            continue
        # x32 is x86_64 with a bit set in the number; each part must leave the other's alone.
        shared = token in (libseccomp.X32, _AUDIT_ARCH_X86_64)
        audited = _AUDIT_ARCH_X86_64 if shared else token
        yield _instruction(_LOAD, _AT_ARCHITECTURE)
        yield _instruction(_JUMP_EQUAL, audited, otherwise=4 if shared else 3)
        yield _instruction(_LOAD, _AT_NUMBER)
        if shared:
            skips = {"otherwise": 2} if token == libseccomp.X32 else {"then": 2}
            yield _instruction(_JUMP_SET, _X32_BIT, **skips)
        yield _instruction(_JUMP_GREATER, last, otherwise=1)
        yield _instruction(_RETURN, ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS)


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encode ``struct sock_filter``; jumps count the instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
