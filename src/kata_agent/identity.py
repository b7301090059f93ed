"""Who a process is: limits, user, groups, and capabilities, given up in the only order that works."""

from __future__ import annotations

import contextlib
import functools
import os
import resource

from kata_agent import syscalls as sc
from kata_agent.progress import Progress, StepError
from kata_api.agent.oci_pb2 import POSIXRlimit, Process

# In the order of linux/capability.h: the index is the number.
CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}
# In the order of asm-generic/resource.h; Python's module lacks LOCKS.
_LIMITS = (
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
)
LIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_LIMITS)}
_UNLIMITED = 2**64 - 1  # how the specification's uint64 spells RLIM_INFINITY


@functools.cache
def last_capability() -> int:
    """Return the number of the last capability of this kernel.

    The agent calls it before it forks: inside a container /proc need not be there.
    """
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def mask(names: list[str]) -> int:
    """Return the 64-bit mask of capability names; names this kernel's header lacks count nothing.

    A host newer than the guest may send such names for a privileged container, as runc accepts.
    """
    bits = 0
    for name in names:
        number = _NUMBERS.get(name)
        bits |= 0 if number is None else 1 << number
    return bits


def limit(rlimits: list[POSIXRlimit], progress: Progress) -> None:
    """Set resource limits, whose names are in `LIMITS`. Raises ``OSError`` or `StepError`."""
    for entry in rlimits:
        progress.at("set limit", entry.Type)
        soft, hard = (
            resource.RLIM_INFINITY if value == _UNLIMITED else value
            for value in (entry.Soft, entry.Hard)
        )
        try:
            resource.setrlimit(LIMITS[entry.Type], (soft, hard))
        except ValueError as error:  # how setrlimit reports EPERM and EINVAL
            raise StepError(f"set limit {entry.Type} to {soft}:{hard}: {error}") from error


def assume(process: Process, progress: Progress, *, spare: int = 0) -> None:
    """Become the user with the capabilities that ``process`` asks for, for good.

    ``spare`` are capabilities that stay permitted beside them until the next `set_capabilities`.
    Raises ``OSError``; the process is then in between two users and must end.
    """
    if process.NoNewPrivileges:
        progress.at("set no_new_privs")
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    wanted = process.Capabilities
    progress.at("drop bounding capabilities")
    _bound(mask(list(wanted.Bounding)))
    sc.prctl(sc.PR_SET_KEEPCAPS, 1)
    user = process.User
    progress.at("set groups", " ".join(map(str, user.AdditionalGids)))
    os.setgroups(sorted(set(user.AdditionalGids)))
    progress.at("set group", str(user.GID))
    # setgid(2) and setuid(2) set all three ids; setresuid(2) takes 2**32 - 1 for "leave it", which
    # would leave root.
    os.setgid(user.GID)
    progress.at("set user", str(user.UID))
    os.setuid(user.UID)
    sc.prctl(sc.PR_SET_KEEPCAPS, 0)
    progress.at("set capabilities")
    set_capabilities(process, spare=spare)
    known = (2 << last_capability()) - 1
    progress.at("raise ambient capabilities")
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in _members(mask(list(wanted.Ambient)) & known):
        # The kernel refuses those that are not permitted and inheritable; runc goes on without.
        with contextlib.suppress(PermissionError):
            sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_RAISE, number)


def set_capabilities(process: Process, *, spare: int = 0, effective: bool = False) -> None:
    """Set the three sets that capset(2) knows to what ``process`` asks for.

    ``spare`` is permitted besides, and ``effective`` with it. Raises ``OSError``.
    """
    wanted = process.Capabilities
    known = (2 << last_capability()) - 1
    sc.capset(
        mask(list(wanted.Effective)) & known | (spare if effective else 0),
        mask(list(wanted.Permitted)) & known | spare,
        mask(list(wanted.Inheritable)) & known,
    )


def _bound(keep: int) -> None:
    for number in range(last_capability() + 1):
        if not keep >> number & 1:
            sc.prctl(sc.PR_CAPBSET_DROP, number)


def _members(bits: int) -> list[int]:
    return [number for number in range(64) if bits >> number & 1]
