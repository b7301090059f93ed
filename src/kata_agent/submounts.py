"""Mounts that the kernel makes where a share crosses from one file system of the host to another.

virtiofs makes such a mount when it is entered, in the mount namespace of whoever enters. A container
that enters its root file system first would take the mount with it when it ends; Linux 6.1 then
finds inodes in use by replies that are still on their way, and stops at a BUG. So the agent enters
first, holds the mounts for as long as the container is there, and lets the replies come in before
it unmounts.
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
    """The mounts that were made by entering some directories; nothing in this holds a descriptor."""

    def __init__(self) -> None:
        self._points: list[str] = []

    def __repr__(self) -> str:
        return f"<submounts, {', '.join(self._points) or 'none'}>"

    def enter(self, paths: Iterable[str]) -> None:
        """Enter those of ``paths`` that are directories; one that is missing is left to others."""
        for path in paths:
            with contextlib.suppress(OSError):
                before = _mount_of(path, os.O_PATH)  # which enters nothing
                if before != _mount_of(path, os.O_RDONLY | os.O_DIRECTORY):
                    self._points.append(path)

    def release(self) -> None:
        """Unmount what was made, the newest first. Harmless when repeated. Raises ``OSError``."""
        while self._points:
            point = self._points.pop()
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
