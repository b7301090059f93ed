"""Files of the host that take a process's output: named pipes, regular files, a logger's pipes."""

import fcntl
import os
import select
import stat
from contextlib import suppress
from typing import Self

from kata.agent_client.readiness import writable
from kata.agent_client.uri import StdioError, StreamUri

_PIPE_SIZE = 1 << 20
"""Bytes of an output pipe: the kernel's default limit for an unprivileged pipe."""


class Sink:
    """The writing end; takes over `descriptor`.

    A named pipe is held open by a reading end of our own, so that a containerd that restarts finds
    it as it left it.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._holder = -1
        self.taken = 0  # bytes
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            with suppress(OSError):  # beyond the user's quota
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    @classmethod
    def open(cls, uri: StreamUri) -> Self:
        """Open a path, fifo:// or file:// for output; raises `StdioError`."""
        # Append: a regular file may be behind a path, for both streams at once.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC
        try:
            if uri.scheme != "file":
                return cls._open_held(uri.path, flags)
            os.makedirs(os.path.dirname(uri.path), mode=0o755, exist_ok=True)
            return cls(os.open(uri.path, flags | os.O_CREAT, 0o644))
        except OSError as error:
            raise StdioError(f"cannot open {uri.text} for output: {error.strerror}") from error

    @classmethod
    def _open_held(cls, path: str, flags: int) -> Self:
        holder = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISFIFO(os.fstat(holder).st_mode):
                return cls(os.open(path, flags))
            sink = cls(os.open(path, flags))
            sink._holder, holder = holder, -1
            return sink
        finally:
            if holder >= 0:
                os.close(holder)

    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting while the reader is behind; raises `OSError`."""
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except BlockingIOError:
                await writable(self._descriptor)
            else:
                self.taken += written
                view = view[written:]

    def has_reader(self) -> bool:
        """Tell whether someone else has the other end of a named pipe open."""
        if self._holder < 0:
            return True
        os.close(self._holder)  # what is in the pipe stays while the writing end is open
        self._holder = -1
        poll = select.poll()
        poll.register(self._descriptor, select.POLLERR)
        alone = any(events & select.POLLERR for _, events in poll.poll(0))
        # Not by its path, which the client may have removed.
        path = f"/proc/self/fd/{self._descriptor}"
        with suppress(OSError):  # no more descriptors; an exit waits for this answer
            self._holder = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return not alone

    def close(self) -> None:
        """Close the file; its reader sees the end.  Harmless when repeated."""
        for descriptor in (self._descriptor, self._holder):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._holder = -1
