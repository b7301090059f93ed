"""The copy of a directory into the tmpfs that covers it: the mount option ``tmpcopyup``.

Works on descriptors, so that no link in an image leads it elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 20  # bytes


def copy_tree(source: int, target: int) -> None:
    """Copy what is in the directory open at ``source`` to the one at ``target``, which is empty.

    Owners, modes, times, links, device nodes and extended attributes are kept, those that both file
    systems have; hard links become files of their own. ``source`` may be an O_PATH descriptor. Raises ``OSError``; a part is then
    copied.
    """
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=source)
    try:
        with os.scandir(directory) as entries:
            for name in sorted(entry.name for entry in entries):
                _copy(name, directory, target)
    finally:
        os.close(directory)


def _copy(name: str, source: int, target: int) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        _own(name, found, target)
    elif stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
        _copy_opened(name, found, source, target)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        _own(name, found, target)
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)  # chown drops setuid bits


def _copy_opened(name: str, found: os.stat_result, source: int, target: int) -> None:
    whole = stat.S_ISDIR(found.st_mode)
    kind = os.O_NOFOLLOW | (os.O_DIRECTORY if whole else os.O_NONBLOCK)
    origin = os.open(name, os.O_RDONLY | kind, dir_fd=source)
    try:
        if whole:
            os.mkdir(name, 0o700, dir_fd=target)
            copy = os.open(name, os.O_RDONLY | kind, dir_fd=target)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            copy = os.open(name, flags, 0o600, dir_fd=target)
        try:
            if whole:
                copy_tree(origin, copy)
            else:
                while os.sendfile(copy, origin, None, _CHUNK):
                    pass
            os.fchown(copy, found.st_uid, found.st_gid)
            os.fchmod(copy, stat.S_IMODE(found.st_mode))
            _copy_attributes(origin, copy)
            os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(copy)
    finally:
        os.close(origin)


def _copy_attributes(origin: int, copy: int) -> None:
    """Copy extended attributes; a tmpfs takes those of users since Linux 6.6 only."""
    try:
        names = os.listxattr(origin)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return
    for name in names:
        try:
            os.setxattr(copy, name, os.getxattr(origin, name))
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise


def _own(name: str, found: os.stat_result, target: int) -> None:
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
