"""A file of the host that feeds a process's standard input."""

import fcntl
import os
import stat
from contextlib import suppress

from kata.agent_client.readiness import readable
from kata.agent_client.uri import StdioError, StreamUri

CHUNK = 256 << 10
"""Bytes read at once, and so written to the agent at once."""

_PIPE_SIZE = 1 << 20
"""Bytes of an input pipe: the kernel's default limit for an unprivileged pipe."""


class Source:
    """The reading end of stdin: a named pipe, or any other file by its path."""

    def __init__(self, uri: str) -> None:
        """Open a path or fifo://; raises `StdioError`, and nothing is open then."""
        path = StreamUri.parse(uri, "fifo").path
        self._reader = self._holder = -1
        try:
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISFIFO(os.fstat(self._reader).st_mode):
                # Holds the pipe open until CloseIO, whoever else comes and goes.
                self._holder = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with suppress(OSError):  # beyond the user's quota
                    fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError as error:
            self.close()
            raise StdioError(f"cannot open {uri} for input: {error.strerror}") from error

    async def read(self) -> bytes:
        """Return what is there, waiting for the first byte; b"" when all writers have closed."""
        while True:
            try:
                return os.read(self._reader, CHUNK)
            except BlockingIOError:
                await readable(self._reader)

    def let_go(self) -> None:
        """Stop holding the pipe open; the end comes when the client has closed it too."""
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1

    def close(self) -> None:
        """Close both descriptors; may be called again."""
        self.let_go()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
