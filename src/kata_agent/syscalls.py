"""System calls that the standard library of Python 3.11 lacks, as thin typed functions.

Owns every use of ``ctypes`` in the agent but that of libseccomp. Each function raises ``OSError`` with the kernel's errno and,
where there is one, the path; none keeps state. Numbers are those of the kernel's UAPI headers.
"""

from __future__ import annotations

import ctypes
import errno
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

MNT_DETACH = 2

CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_PIDFD = 0x00001000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

CLOSE_RANGE_CLOEXEC = 4
IN_MODIFY = 2
RB_POWER_OFF = 0x4321FEDC

_NR_CLONE3 = 435
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_NR_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_NR_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_NR_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_NR_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NR_BPF = {"x86_64": 321, "aarch64": 280}
_NR_RT_SIGPROCMASK = {"x86_64": 14, "aarch64": 135}[os.uname().machine]

_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
# All to who possesses it; to its user view, read, search and link: search is what joining takes.
_KEYRING_RIGHTS = 0x3F1B0000

_SIG_SETMASK = 2
_SIG_ERR = 2 ** (8 * ctypes.sizeof(ctypes.c_void_p)) - 1

_SECCOMP_SET_MODE_FILTER = 1

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_IOPRIO_WHO_PROCESS = 1

_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8
_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI = 2
_LOAD_TRIES = 5  # what libbpf does

_CAPABILITY_VERSION_3 = 0x20080522

# PyDLL keeps the GIL over the call, which a clone needs: the child must come back holding it.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.signal.restype = ctypes.c_void_p


class _CloneArgs(ctypes.Structure):
    """``struct clone_args`` of linux/sched.h, size 88 (CLONE_ARGS_SIZE_VER2)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _SockFprog(ctypes.Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class _BpfProgLoad(ctypes.Structure):
    """The start of ``union bpf_attr`` for BPF_PROG_LOAD; the rest is zero."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
    ]


def _check(result: int, path: str | None = None) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """Mount a file system: ``flags`` are MS_* bits, ``data`` the file system's own option string."""
    result = _libc.mount(
        _text(source), _text(target), _text(fstype), ctypes.c_ulong(flags), _text(data or None)
    )
    _check(result, target)


def set_mount_attributes(target: str, attributes: int, cleared: int) -> None:
    """Set and clear MOUNT_ATTR_* of the mount at ``target`` and of all below it, or of none."""
    attr = (ctypes.c_uint64 * 4)(attributes, cleared, 0, 0)
    arguments = (_AT_FDCWD, _text(target), _AT_RECURSIVE, ctypes.byref(attr))
    _check(_libc.syscall(_NR_MOUNT_SETATTR, *arguments, ctypes.sizeof(attr)), target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount what is mounted at ``target``."""
    _check(_libc.umount2(_text(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Swap the root of this mount namespace; the old one lands at ``put_old``."""
    _check(_libc.pivot_root(_text(new_root), _text(put_old)), new_root)


def unshare(flags: int) -> None:
    """Leave the namespaces given as CLONE_NEW* bits for new ones."""
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    """Join the namespaces ``flags`` of the process or namespace that ``fd`` refers to."""
    _check(_libc.setns(fd, flags))


def clone(flags: int, cgroup_fd: int) -> tuple[int, int]:
    """Fork this single-threaded process with clone3(2) into a cgroup (negative: this one's).

    Returns (pid, pidfd) in the parent and (0, -1) in the child. Unlike ``os.fork`` it runs no fork
    hooks; the child must end in ``execve`` or ``os._exit`` and never return to the caller's caller.
    One call replaces fork, unshare, a second fork, and the migration to the cgroup, which costs an
    RCU grace period when done by a write to cgroup.procs.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=17,  # SIGCHLD
        cgroup=max(cgroup_fd, 0),
    )
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    pid = _check(_libc.syscall(_NR_CLONE3, ctypes.byref(arguments), size))
    return (pid, pidfd.value) if pid else (0, -1)


def open_in_root(root_fd: int, path: str, flags: int, resolve: int = 0) -> int:
    """Open ``path`` as a process rooted at ``root_fd`` would: openat2(2), RESOLVE_IN_ROOT.

    Symbolic links and ``..`` never lead outside the root; ``resolve`` adds further RESOLVE_* rules.
    The descriptor is close-on-exec.
    """
    rules = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, rules)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _check(
        _libc.syscall(_NR_OPENAT2, root_fd, os.fsencode(path), ctypes.byref(how), size), path
    )


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close, or mark close-on-exec, the descriptors from ``first`` to ``last``, both included."""
    _check(
        _libc.syscall(
            _NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags)
        )
    )


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> None:
    """Operate on this process; unused arguments are zero, as the kernel demands."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(arg2), ctypes.c_ulong(arg3), zero, zero))


def personality(persona: int) -> None:
    """Set this process's execution domain and its flags."""
    _check(_libc.personality(ctypes.c_ulong(persona)))


def sched_setattr(attributes: bytes) -> None:
    """Set this thread's scheduling, given as ``struct sched_attr`` of linux/sched/types.h."""
    number = _NR_SCHED_SETATTR[os.uname().machine]
    _check(_libc.syscall(number, 0, attributes, 0))


def ioprio_set(priority: int) -> None:
    """Set this thread's I/O priority: class << 13 | level."""
    number = _NR_IOPRIO_SET[os.uname().machine]
    _check(_libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, priority))


def set_mempolicy(mode: int, nodes: int) -> None:
    """Set this thread's NUMA policy; bit n of ``nodes``, 64 at most, stands for node n."""
    mask = ctypes.c_uint64(nodes)
    number = _NR_SET_MEMPOLICY[os.uname().machine]
    _check(_libc.syscall(number, mode, ctypes.byref(mask) if nodes else None, 65 if nodes else 0))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets, given as 64-bit masks."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low = (1 << 32) - 1
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    _check(_libc.capset(header, data))


def finit_module(fd: int, parameters: str = "") -> None:
    """Load the uncompressed kernel module open at ``fd``."""
    number = _NR_FINIT_MODULE[os.uname().machine]
    _check(_libc.syscall(number, fd, parameters.encode(), 0))


def seccomp_filter(program: bytes, flags: int) -> None:
    """Filter this process's system calls with ``program``, an array of ``struct sock_filter``."""
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(instructions))
    number = _NR_SECCOMP[os.uname().machine]
    _check(_libc.syscall(number, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog)))


def load_device_program(program: bytes) -> int:
    """Return the descriptor of a program for cgroups, from an array of ``struct bpf_insn``.

    It decides on accesses to devices once it is attached.
    """
    number = _NR_BPF[os.uname().machine]
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")  # it calls no helper that asks for GPL
    load = _BpfProgLoad(
        _BPF_PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_),
    )
    size = ctypes.c_size_t(ctypes.sizeof(load))
    for _ in range(_LOAD_TRIES):  # the verifier gives up with EAGAIN when a signal comes
        fd = _libc.syscall(number, _BPF_PROG_LOAD, ctypes.byref(load), size)
        if fd != -1 or ctypes.get_errno() != errno.EAGAIN:
            break
    _check(fd)
    return int(fd)


def attach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """Have a loaded program decide on accesses to devices from a cgroup, for as long as that lives."""
    # Beside the programs of groups above and below, which must allow the access too.
    attach = (ctypes.c_uint32 * 4)(cgroup_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI)
    size = ctypes.c_size_t(ctypes.sizeof(attach))
    number = _NR_BPF[os.uname().machine]
    _check(_libc.syscall(number, _BPF_PROG_ATTACH, ctypes.byref(attach), size))


def set_signal_mask(mask: int) -> int:
    """Replace the set of blocked signals, bit n-1 standing for signal n; return the former one.

    What the standard library does with 64 signals costs a new process, whose memory is still the
    agent's until it is written to, a fifth of its way under emulation.
    """
    new, old = ctypes.c_uint64(mask), ctypes.c_uint64()
    arguments = (ctypes.byref(new), ctypes.byref(old), ctypes.sizeof(new))
    _check(_libc.syscall(_NR_RT_SIGPROCMASK, _SIG_SETMASK, *arguments))
    return old.value


def join_session_keyring(name: str, *, lasting: bool = False) -> None:
    """Have the process's keys in the session keyring ``name``, made when there is none.

    With ``lasting``, later processes of the same user may join it by its name. A kernel without
    keys has nothing to join.
    """
    ring = _libc.syscall(_NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name.encode())
    if ring == -1 and ctypes.get_errno() == errno.ENOSYS:
        return
    _check(ring)
    if lasting:
        _check(_libc.syscall(_NR_KEYCTL, _KEYCTL_SETPERM, ring, ctypes.c_uint32(_KEYRING_RIGHTS)))


def reset_signal(number: int) -> None:
    """Give a signal its default action again, behind the interpreter's back."""
    _check(-1 if _libc.signal(number, None) == _SIG_ERR else 0)


def inotify_init() -> int:
    """Open an inotify instance, non-blocking and close-on-exec."""
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch ``path`` for the events ``mask`` and return the watch descriptor."""
    return _check(_libc.inotify_add_watch(fd, _text(path), ctypes.c_uint32(mask)), path)


def power_off() -> None:
    """Turn the machine off at once: reboot(2). File systems are not synced."""
    _check(_libc.reboot(ctypes.c_int(RB_POWER_OFF)))
