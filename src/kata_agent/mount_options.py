"""The words of fstab-like mount options and the bits they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kata_agent import syscalls as sc

# word -> (bits, whether the word clears them)
_FLAGS: dict[str, tuple[int, bool]] = {
    "acl": (sc.MS_POSIXACL, False),
    "async": (sc.MS_SYNCHRONOUS, True),
    "atime": (sc.MS_NOATIME, True),
    "bind": (sc.MS_BIND, False),
    "defaults": (0, False),
    "dev": (sc.MS_NODEV, True),
    "diratime": (sc.MS_NODIRATIME, True),
    "dirsync": (sc.MS_DIRSYNC, False),
    "exec": (sc.MS_NOEXEC, True),
    "iversion": (sc.MS_I_VERSION, False),
    "lazytime": (sc.MS_LAZYTIME, False),
    "loud": (sc.MS_SILENT, True),
    "mand": (sc.MS_MANDLOCK, False),
    "noacl": (sc.MS_POSIXACL, True),
    "noatime": (sc.MS_NOATIME, False),
    "nodev": (sc.MS_NODEV, False),
    "nodiratime": (sc.MS_NODIRATIME, False),
    "noexec": (sc.MS_NOEXEC, False),
    "noiversion": (sc.MS_I_VERSION, True),
    "nolazytime": (sc.MS_LAZYTIME, True),
    "nomand": (sc.MS_MANDLOCK, True),
    "norelatime": (sc.MS_RELATIME, True),
    "nostrictatime": (sc.MS_STRICTATIME, True),
    "nosuid": (sc.MS_NOSUID, False),
    "nosymfollow": (sc.MS_NOSYMFOLLOW, False),
    "rbind": (sc.MS_BIND | sc.MS_REC, False),
    "relatime": (sc.MS_RELATIME, False),
    "remount": (sc.MS_REMOUNT, False),
    "ro": (sc.MS_RDONLY, False),
    "rw": (sc.MS_RDONLY, True),
    "silent": (sc.MS_SILENT, False),
    "strictatime": (sc.MS_STRICTATIME, False),
    "suid": (sc.MS_NOSUID, True),
    "symfollow": (sc.MS_NOSYMFOLLOW, True),
    "sync": (sc.MS_SYNCHRONOUS, False),
}

PROPAGATION: dict[str, int] = {
    "private": sc.MS_PRIVATE,
    "rprivate": sc.MS_PRIVATE | sc.MS_REC,
    "shared": sc.MS_SHARED,
    "rshared": sc.MS_SHARED | sc.MS_REC,
    "slave": sc.MS_SLAVE,
    "rslave": sc.MS_SLAVE | sc.MS_REC,
    "unbindable": sc.MS_UNBINDABLE,
    "runbindable": sc.MS_UNBINDABLE | sc.MS_REC,
}

# word -> (attribute of mount_setattr(2), whether the word clears it)
RECURSIVE: dict[str, tuple[int, bool]] = {
    "ratime": (sc.MOUNT_ATTR_NOATIME, True),
    "rdev": (sc.MOUNT_ATTR_NODEV, True),
    "rdiratime": (sc.MOUNT_ATTR_NODIRATIME, True),
    "rexec": (sc.MOUNT_ATTR_NOEXEC, True),
    "rnoatime": (sc.MOUNT_ATTR_NOATIME, False),
    "rnodev": (sc.MOUNT_ATTR_NODEV, False),
    "rnodiratime": (sc.MOUNT_ATTR_NODIRATIME, False),
    "rnoexec": (sc.MOUNT_ATTR_NOEXEC, False),
    "rnorelatime": (sc.MOUNT_ATTR_RELATIME, True),
    "rnostrictatime": (sc.MOUNT_ATTR_STRICTATIME, True),
    "rnosuid": (sc.MOUNT_ATTR_NOSUID, False),
    "rnosymfollow": (sc.MOUNT_ATTR_NOSYMFOLLOW, False),
    "rrelatime": (sc.MOUNT_ATTR_RELATIME, False),
    "rro": (sc.MOUNT_ATTR_RDONLY, False),
    "rrw": (sc.MOUNT_ATTR_RDONLY, True),
    "rstrictatime": (sc.MOUNT_ATTR_STRICTATIME, False),
    "rsuid": (sc.MOUNT_ATTR_NOSUID, True),
    "rsymfollow": (sc.MOUNT_ATTR_NOSYMFOLLOW, True),
}
# One of these is in force at a time; the kernel wants all of them cleared when one is set.
_ATIME = (sc.MOUNT_ATTR_RELATIME, sc.MOUNT_ATTR_NOATIME, sc.MOUNT_ATTR_STRICTATIME)

COPY_UP = "tmpcopyup"  # a tmpfs that begins with what the mount point holds
WORDS = (*_FLAGS, *PROPAGATION, *RECURSIVE, COPY_UP)

# What a bind mount can only get by being remounted after it was made (mount(2), "bind mount").
REMOUNTED = (
    sc.MS_RDONLY
    | sc.MS_NOSUID
    | sc.MS_NODEV
    | sc.MS_NOEXEC
    | sc.MS_NOATIME
    | sc.MS_NODIRATIME
    | sc.MS_RELATIME
    | sc.MS_STRICTATIME
    | sc.MS_NOSYMFOLLOW
)


class MountOptions(NamedTuple):
    """Options as mount(2) takes them: flag bits, propagation changes in order, and data.

    ``set_below`` and ``clear_below`` are MOUNT_ATTR_* for the mount and all below it.
    """

    flags: int
    propagation: tuple[int, ...]
    data: str
    set_below: int = 0
    clear_below: int = 0
    copy_up: bool = False

    @property
    def bind(self) -> bool:
        """Tell whether this is a bind mount."""
        return bool(self.flags & sc.MS_BIND)


def parse(words: Iterable[str]) -> MountOptions:
    """Split option words into flags, propagation and file system data; the last word wins.

    A word that is no generic option goes to the file system, which refuses what it does not know.
    """
    flags = attributes = cleared = 0
    propagation: list[int] = []
    data: list[str] = []
    copy_up = False
    for word in words:
        if word in PROPAGATION:
            propagation.append(PROPAGATION[word])
        elif word in _FLAGS:
            bits, clears = _FLAGS[word]
            flags = flags & ~bits if clears else flags | bits
        elif word in RECURSIVE:
            bit, clears = RECURSIVE[word]
            also = sc.MOUNT_ATTR__ATIME if bit in _ATIME else bit
            attributes = attributes & ~also | (0 if clears else bit)
            cleared |= also
        elif word == COPY_UP:
            copy_up = True
        elif word:
            data.append(word)
    return MountOptions(flags, tuple(propagation), ",".join(data), attributes, cleared, copy_up)


def attach(source: str, target: str, fstype: str, options: MountOptions) -> None:
    """Mount ``source`` at the existing ``target``; a bind mount still lacks `adjust`.

    Raises ``OSError``; nothing is mounted then.
    """
    if options.bind:
        sc.mount(source, target, None, options.flags & (sc.MS_BIND | sc.MS_REC))
    else:
        sc.mount(source, target, fstype, options.flags, options.data)


def adjust(target: str, options: MountOptions) -> None:
    """Give the mount whose root is ``target`` what mount(2) only takes in later calls.

    These are the flags of a bind mount, the changes of propagation, and what holds for all below.
    Raises ``OSError``.
    """
    wanted = options.flags & REMOUNTED
    if options.bind and wanted:
        sc.mount(None, target, None, sc.MS_BIND | sc.MS_REMOUNT | wanted)
    for change in options.propagation:
        sc.mount(None, target, None, change)
    if options.set_below or options.clear_below:
        sc.set_mount_attributes(target, options.set_below, options.clear_below)
