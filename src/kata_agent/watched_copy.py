"""A copy in memory of a directory on a share, for programs that wait for changes of it by inotify.

The host's changes raise no events in the guest; those of the copy do. They come in an order in which
no reader sees half a change: new files and directories, then symbolic links, each replaced by a
rename, then what is gone. Kubernetes replaces the files of a ConfigMap or Secret by such a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat

from kata_agent import syscalls as sc

# Upstream's figures; they limit what has to be looked at all the time.
POLL_SECONDS = 2.0
MOST_ENTRIES = 16
MOST_BYTES = 1 << 20

_ROOM = "size=16m,mode=755"
_ATTEMPTS = 5  # to see a directory that does not change meanwhile
_TEMPORARY = "..copy_tmp"


class WatchedCopy:
    """A copy of ``source`` on a tmpfs at ``point``, from `make` to `close`."""

    def __init__(self, source: str, point: str) -> None:
        self._source = source
        self._point = point
        self._from = self._to = -1
        self._polling: asyncio.Task[None] | None = None

    def make(self, *, poll: bool) -> None:
        """Mount the tmpfs and fill it; with ``poll``, look for changes from then on.

        Raises ``OSError``; nothing is mounted then.
        """
        sc.mount("tmpfs", self._point, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, _ROOM)
        try:
            self._from = _open_read_only(self._source, self._point)
            self._to = os.open(self._point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.renew()
        except BaseException:
            self.close()
            sc.umount(self._point, sc.MNT_DETACH)
            raise
        if poll:
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    def renew(self) -> None:
        """Make the copy what the directory is now. Raises ``OSError``; it may be half renewed."""
        for attempt in range(_ATTEMPTS):
            try:
                _mirror(self._from, self._to)
            except FileNotFoundError:  # replaced while we looked
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def close(self) -> None:
        """Let go of both directories; the tmpfs stays mounted."""
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
        for fd in (self._from, self._to):
            if fd >= 0:
                os.close(fd)
        self._from = self._to = -1

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with contextlib.suppress(OSError):  # the next look may find it whole
                self.renew()


def is_small(source: str) -> bool:
    """Tell whether a directory is small enough to be looked at all the time; a file never is."""
    entries = size = 0
    if not os.path.isdir(source):
        return False
    for folder, names, files in os.walk(source):
        entries += len(names) + len(files)
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, name)).st_size
        if entries > MOST_ENTRIES or size > MOST_BYTES:
            return False
    return True


def _open_read_only(path: str, beside: str) -> int:
    """Open a directory by a read-only mount of our own, which is nowhere to be seen."""
    sc.mount(path, beside, None, sc.MS_BIND)
    try:
        sc.mount(None, beside, None, sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY)
        return os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        sc.umount(beside, sc.MNT_DETACH)


def _mirror(source: int, target: int) -> None:
    wanted = _fresh_entries(source)
    links = sorted(name for name, found in wanted.items() if stat.S_ISLNK(found.st_mode))
    for name, found in wanted.items():
        if stat.S_ISDIR(found.st_mode):
            _mirror_directory(source, target, name)
        elif stat.S_ISREG(found.st_mode):
            _copy_file(source, target, name, found)
    for name in links:  # "..data", which the others lead through, comes first
        _copy_link(source, target, name)
    gone = set(os.listdir(target)) - set(wanted)
    for name in sorted(gone, key=lambda name: _is_directory(target, name)):
        _remove(target, name)
    _own(target, os.fstat(source))


def _fresh_entries(directory: int) -> dict[str, os.stat_result]:
    """Return what is in a directory, not as the kernel remembers it but as it is.

    To make something under a name that must not be there, the kernel asks the host again, whatever
    it has cached (LOOKUP_EXCL); the mount is read-only, so that nothing is ever made.
    """
    entries = {}
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            os.mkdir(name, dir_fd=directory)
        entries[name] = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return entries


def _mirror_directory(source: int, target: int, name: str) -> None:
    if not _is_directory(target, name):
        _remove(target, name)
        os.mkdir(name, 0o700, dir_fd=target)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.open(name, flags, dir_fd=source)
    try:
        copy = os.open(name, flags, dir_fd=target)
        try:
            _mirror(below, copy)
        finally:
            os.close(copy)
    finally:
        os.close(below)


def _copy_file(source: int, target: int, name: str, found: os.stat_result) -> None:
    if (known := _look(target, name)) and _same(known, found):
        return
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.open(name, os.O_RDONLY | flags, dir_fd=source)
    try:
        _remove(target, _TEMPORARY)
        creation = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
        copy = os.open(_TEMPORARY, creation, 0o600, dir_fd=target)
        try:
            while data := os.read(below, 1 << 16):
                os.write(copy, data)
            _own(copy, found)
            os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(copy)
    finally:
        os.close(below)
    _put(target, name)


def _copy_link(source: int, target: int, name: str) -> None:
    leads_to = os.readlink(name, dir_fd=source)
    known = _look(target, name)
    if known and stat.S_ISLNK(known.st_mode) and os.readlink(name, dir_fd=target) == leads_to:
        return
    _remove(target, _TEMPORARY)
    os.symlink(leads_to, _TEMPORARY, dir_fd=target)
    _put(target, name)


def _put(target: int, name: str) -> None:
    if _is_directory(target, name):
        _remove(target, name)
    os.rename(_TEMPORARY, name, src_dir_fd=target, dst_dir_fd=target)


def _same(known: os.stat_result, found: os.stat_result) -> bool:
    return all(
        getattr(known, field) == getattr(found, field)
        for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns")
    )


def _own(fd: int, found: os.stat_result) -> None:
    known = os.fstat(fd)
    if (known.st_uid, known.st_gid) != (found.st_uid, found.st_gid):  # each change is an event
        os.chown(fd, found.st_uid, found.st_gid)
        known = os.fstat(fd)
    if known.st_mode != found.st_mode:
        os.chmod(fd, stat.S_IMODE(found.st_mode))


def _look(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(directory: int, name: str) -> bool:
    found = _look(directory, name)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _remove(directory: int, name: str) -> None:
    """Remove whatever has a name; nothing is followed out of the directory."""
    if not _is_directory(directory, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.open(name, flags, dir_fd=directory)
    try:
        for each in os.listdir(below):
            _remove(below, each)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=directory)
