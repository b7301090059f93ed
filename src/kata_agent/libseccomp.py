"""The few calls of libseccomp that turn a profile into a program for the kernel.

The library is the distribution's and is loaded when the first profile comes: a container without
one pays nothing. Its names and values are those of seccomp.h, version 2.5.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

_ATTRIBUTE_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_OPTIMIZE_TREE = 2  # a binary search over the numbers instead of one comparison after another
X32 = 0x4000003E  # SCMP_ARCH_X32: to the kernel it is x86_64
_UNKNOWN = -1  # __NR_SCMP_ERROR; other negative numbers stand for calls of other architectures


class SeccompError(Exception):
    """What the library refused, in a sentence."""


class Condition(NamedTuple):
    """A comparison of one argument; ``mask`` counts for a masked one only."""

    argument: int
    operator: int
    value: int
    second: int


class _ArgumentComparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the library. Raises `SeccompError`."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise SeccompError(
            "there is no libseccomp in the guest; build the guest image anew, or set "
            "disable_guest_seccomp = true"
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.argtypes = [number]
    library.seccomp_release.argtypes = [pointer]
    library.seccomp_attr_set.argtypes = [pointer, ctypes.c_int, number]
    library.seccomp_arch_resolve_name.restype = number
    library.seccomp_arch_add.argtypes = [pointer, number]
    library.seccomp_syscall_resolve_name_arch.argtypes = [number, ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [pointer, number, ctypes.c_int, number, pointer]
    library.seccomp_export_bpf.argtypes = [pointer, ctypes.c_int]
    return library


def number(name: str, token: int | None = None) -> int | None:
    """Return the number of a system call on an architecture, or on this one's; None if unknown."""
    library, raw = _library(), name.encode()
    found = (
        library.seccomp_syscall_resolve_name(raw)
        if token is None
        else library.seccomp_syscall_resolve_name_arch(token, raw)
    )
    return None if found == _UNKNOWN else int(found)


class Builder:
    """A filter under construction: a context manager, at whose end its memory is given back.

    ``default`` is the action, a SECCOMP_RET_* value, of every call without a rule.
    """

    def __init__(self, default: int) -> None:
        self._library = _library()
        self._context = self._library.seccomp_init(default)
        if not self._context:
            raise SeccompError(f"libseccomp refuses the default action {default:#x}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.seccomp_release(self._context)

    def add_architecture(self, name: str) -> int:
        """Filter the calls of one more architecture such as "x86_64"; twice is once.

        Returns the kernel's AUDIT_ARCH_* number, or `X32`. Raises `SeccompError`.
        """
        token = self._library.seccomp_arch_resolve_name(name.encode())
        result = self._library.seccomp_arch_add(self._context, token) if token else -errno.EINVAL
        if result != -errno.EEXIST:
            _check(result, f"filter the calls of {name} on this machine")
        return int(token)

    def optimize(self) -> None:
        """Have the program search in a tree: long profiles then cost the container little."""
        self._library.seccomp_attr_set(self._context, _ATTRIBUTE_OPTIMIZE, _OPTIMIZE_TREE)

    def add_rule(self, action: int, call: int, conditions: Sequence[Condition]) -> None:
        """Give ``call`` an action where all the conditions hold. Raises `SeccompError`."""
        array = (_ArgumentComparison * len(conditions))(
            *(_ArgumentComparison(*condition) for condition in conditions)
        )
        result = self._library.seccomp_rule_add_array(
            self._context, action, call, len(conditions), ctypes.addressof(array)
        )
        _check(result, "add the rule")

    def export(self) -> bytes:
        """Return the program: ``struct sock_filter``, 8 bytes each. Raises `SeccompError`."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(self._library.seccomp_export_bpf(self._context, fd), "make the program")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise SeccompError(f"libseccomp cannot {what}: {os.strerror(-result)}")
