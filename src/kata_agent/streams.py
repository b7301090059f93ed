"""Standard streams of processes: pulled and pushed by the host, never lost, never spinning."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct

from ttrpc import RpcError, StatusCode

# The most an unprivileged pipe may hold by default (/proc/sys/fs/pipe-max-size). Under emulation
# the number of switches between writer and reader is what output costs.
PIPE_SIZE = 1 << 20

_FIONREAD = 0x541B  # bytes that a read would give (asm-generic/ioctls.h)


def pipe() -> tuple[int, int]:
    """Open a pipe of 1 MiB, or of the default size where the user's quota is spent."""
    reader, writer = os.pipe()
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return reader, writer


class _Waiter:
    """A descriptor's readiness, for any number of tasks at once."""

    def __init__(self, fd: int, *, writing: bool) -> None:
        self._fd = fd
        self._writing = writing
        self._ready: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ready is None:
            self._ready = loop.create_future()
            add = loop.add_writer if self._writing else loop.add_reader
            add(self._fd, self.wake)
        # Shielded: one reader that gives up must not wake or cancel the others.
        await asyncio.shield(self._ready)

    def wake(self) -> None:
        if self._ready is not None:
            loop = self._ready.get_loop()
            _ = loop.remove_writer(self._fd) if self._writing else loop.remove_reader(self._fd)
            self._ready.set_result(None)
            self._ready = None


class Output:
    """The reading end of a process's output: a pipe or the master of a terminal."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._kept = b""
        self._delivered = 0
        self._waiter = _Waiter(fd, writing=False)
        self.end_seen = False  # whether someone was told that no more will come
        self.total: int | None = None  # bytes that an ended process wrote, those delivered included

    def __repr__(self) -> str:
        condition = "open" if self._fd >= 0 else "ended" if not self._kept else "drained"
        return f"<output, {condition}, {len(self._kept)} bytes kept>"

    async def read(self, limit: int) -> bytes:
        """Return what is there, at least 1 and at most ``limit`` bytes; wait while there is none.

        Raises ``RpcError`` OUT_OF_RANGE with the message "EOF" after the last byte.
        """
        limit = max(1, min(limit, PIPE_SIZE))
        while True:
            if self._kept:
                data, self._kept = self._kept[:limit], self._kept[limit:]
                self._delivered += len(data)
                return data
            if self._fd < 0:
                self.end_seen = True
                raise RpcError(StatusCode.OUT_OF_RANGE, "EOF")
            try:
                data = self._read(limit)
            except BlockingIOError:
                await self._waiter.wait()
                continue
            if data:
                self._delivered += len(data)
                return data
            self.close()

    def settle(self) -> None:
        """Take what an ended process left in the pipe, so that its descriptor can go; set `total`.

        Reading stops once `PIPE_SIZE` bytes are kept; while another process holds the writing end,
        or more is left, the descriptor stays. The total is exact where nobody else writes, and
        else counts some of that too. Of a terminal only a read that finds nothing tells that the
        kernel has passed on all: it hands bytes from end to end in the background.
        """
        while self._fd >= 0 and len(self._kept) < PIPE_SIZE:
            try:
                data = self._read(PIPE_SIZE)
            except BlockingIOError:
                break
            self._kept += data
            if not data:
                self.close()
        self.total = self._delivered + len(self._kept) + self._left()
        self._waiter.wake()

    def close(self) -> None:
        """Close the descriptor; what `settle` kept stays readable. Harmless when repeated."""
        if self._fd >= 0:
            self._waiter.wake()
            os.close(self._fd)
            self._fd = -1

    def _left(self) -> int:
        """Return how many bytes wait in the pipe."""
        if self._fd < 0:
            return 0
        (left,) = struct.unpack("i", fcntl.ioctl(self._fd, _FIONREAD, bytes(4)))
        return int(left)

    def _read(self, limit: int) -> bytes:
        try:
            return os.read(self._fd, limit)
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: a terminal that no process has open any more
                raise
            return b""


class Input:
    """The writing end of a process's standard input: a pipe or the master of a terminal."""

    def __init__(self, fd: int, *, terminal: bool) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._terminal = terminal
        self._waiter = _Waiter(fd, writing=True)
        self._turn = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, in turn with other writers; wait while the process does not read.

        Raises ``RpcError`` FAILED_PRECONDITION when it is closed, or nobody can read it any more.
        """
        view = memoryview(data)
        async with self._turn:
            while view:
                if self._fd < 0:
                    raise RpcError(StatusCode.FAILED_PRECONDITION, "standard input is closed")
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._waiter.wait()
                except OSError as error:
                    if error.errno not in (errno.EPIPE, errno.EIO):
                        raise
                    raise RpcError(
                        StatusCode.FAILED_PRECONDITION,
                        "the process has closed its standard input; stop writing to it",
                    ) from error

    async def end(self) -> None:
        """Let the process see the end of its input, after all that was written before.

        A terminal has no end but the character a user types; nothing happens then.
        """
        if not self._terminal:
            async with self._turn:
                self.close()

    def close(self) -> None:
        """Close the descriptor and fail whoever waits to write. Harmless when repeated."""
        if self._fd >= 0:
            self._waiter.wake()
            os.close(self._fd)
            self._fd = -1
