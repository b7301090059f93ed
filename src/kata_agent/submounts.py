"""Mounts that the kernel makes where a share crosses from one file system of the host to another.

virtiofs makes such a mount when it is entered, in the mount namespace of whoever enters. A container
that enters its root file system first would take the mount with it when it ends; Linux 6.1 then
finds inodes in use by replies that are still on their way, and stops at a BUG. So the agent enters
first, holds the mounts for as long as a container is there, and lets the replies come in before
it unmounts. What several containers have is one mount for all of them: a second one would have
inodes of its own, and a socket in it no listener.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable

from kata_agent import syscalls as sc

_ROUND_TRIPS = 2
"""Questions to the host before a mount goes: the answer to the first comes after that of any read
before it, upon which the kernel may send the end of a file; the second's comes after that one's."""


class Submounts:
    """The mounts that were made by entering directories, each with the containers that have it.

    Nothing in this holds a descriptor.
    """

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}

    def __repr__(self) -> str:
        return f"<submounts, {', '.join(self._users) or 'none'}>"

    def enter(self, owner: str, paths: Iterable[str]) -> None:
        """Enter those of ``paths`` that are directories; one that is missing is left to others."""
        for path in paths:
            if path in self._users:
                self._users[path].add(owner)
                continue
            with contextlib.suppress(OSError):
                before = _mount_of(path, os.O_PATH)  # which enters nothing
                if before != _mount_of(path, os.O_RDONLY | os.O_DIRECTORY):
                    self._users[path] = {owner}

    def release(self, owner: str) -> None:
        """Unmount what was made and only ``owner`` has, the newest first.

        Harmless when repeated. Raises ``OSError``.
        """
        for point in [p for p, users in self._users.items() if owner in users][::-1]:
            self._users[point].discard(owner)
            if not self._users[point]:
                del self._users[point]
                _unmount(point)


def _unmount(point: str) -> None:
    with contextlib.suppress(OSError):  # the host has taken the directory away
        for _ in range(_ROUND_TRIPS):
            os.statvfs(point)
    try:
        sc.umount(point, sc.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            raise


def _mount_of(path: str, flags: int) -> str:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            return next(line for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
