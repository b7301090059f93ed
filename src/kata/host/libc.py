"""System calls that Python 3.11 does not wrap, straight from libc.

Every function raises `OSError` with the kernel's errno and leaves nothing behind on failure.
Constants are those of the Linux UAPI headers (`linux/mount.h`, `linux/sched.h`, `linux/prctl.h`).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Collection

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
CAP_MKNOD = 27
CAP_SETFCAP = 31

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8

IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_ONLYDIR = 0x01000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4

# Numbers of system calls: the same on every architecture for all that are younger than Linux 5.1.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SCHED_CORE = 62
_PR_SCHED_CORE_CREATE = 1
_PR_SCHED_CORE_SCOPE_THREAD_GROUP = 1
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_SET_NO_NEW_PRIVS = 38

_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_SETS = "=6I"
"""Effective, permitted and inheritable bits below 32, then the same of those above."""
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount `source` on `target`."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """Unmount `target`."""
    _check(_libc.umount2(target.encode(), flags), target)


def open_tree(source: str, *, recursive: bool) -> int:
    """Return a descriptor of a copy of the mount at `source`, which is not attached anywhere."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    tree: int = _libc.syscall(_SYS_OPEN_TREE, -1, source.encode(), flags)
    _check(tree, source)
    return tree


def mount_setattr(
    tree: int, set_: int, propagation: int = 0, *, clear: int = 0, recursive: bool
) -> None:
    """Add and `clear` `MOUNT_ATTR_*` bits of a mount; set its propagation unless that is 0."""
    attributes = struct.pack("=QQQQ", set_, clear, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR, tree, b"", flags, attributes, ctypes.c_size_t(len(attributes))
        )
    )


def move_mount(tree: int, target: str) -> None:
    """Attach the mount behind a descriptor at `target`."""
    result = _libc.syscall(
        _SYS_MOVE_MOUNT, tree, b"", -1, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, target)


def openat2(path: str, flags: int, resolve: int, *, dir_fd: int) -> int:
    """Open `path` below `dir_fd` with `RESOLVE_*` rules; return the descriptor, close-on-exec."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    descriptor: int = _libc.syscall(
        _SYS_OPENAT2, dir_fd, os.fsencode(path), how, ctypes.c_size_t(len(how))
    )
    _check(descriptor, path)
    return descriptor


def inotify_init() -> int:
    """Return the descriptor of a new inotify instance: it does not block, and closes on exec."""
    descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    _check(descriptor)
    return descriptor


def inotify_add_watch(descriptor: int, path: str, mask: int) -> None:
    """Watch `path` for the events `IN_*` of `mask`."""
    _check(_libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)), path)


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces, given as `CLONE_NEW*` bits."""
    _check(_libc.unshare(flags))


def setns(descriptor: int, flags: int = 0) -> None:
    """Move the calling process into the namespace that `descriptor` refers to."""
    _check(_libc.setns(descriptor, flags))


def set_parent_death_signal(signal: int) -> None:
    """Have the kernel send `signal` to the calling process when its parent thread ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def keep_capabilities(kept: Collection[int]) -> None:
    """Give up every capability but those `kept`, for the calling thread and what it executes."""
    for capability in range(_LAST_CAPABILITY + 1):
        if capability in kept:
            continue
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            if ctypes.get_errno() == errno.EINVAL:
                break  # past the last one of this kernel
            _check(-1)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(struct.calcsize(_CAPABILITY_SETS))
    _check(_libc.capget(header, held))
    _, permitted_low, _, _, permitted_high, _ = struct.unpack(_CAPABILITY_SETS, held.raw)
    bits = sum(1 << capability for capability in kept)
    low, high = bits & 0xFFFFFFFF & permitted_low, bits >> 32 & permitted_high
    _check(_libc.capset(header, struct.pack(_CAPABILITY_SETS, low, low, 0, high, high, 0)))


def keep_capabilities_across_users() -> None:
    """Let capabilities survive a change of user, in this thread and what it executes."""
    _check(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0))


def set_no_new_privileges() -> None:
    """Never gain a privilege by executing a program again."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def claim_cores() -> None:
    """Let this process and those that it makes share no processor core with others at one time.

    Raises `OSError`, EINVAL where the kernel has no core scheduling.
    """
    scope = _PR_SCHED_CORE_SCOPE_THREAD_GROUP
    _check(_libc.prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, scope, 0))


def set_process_name(name: str) -> None:
    """Set the name that `ps` shows for the calling thread; the kernel keeps 15 bytes."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0))
