"""The two directions of a virtio-serial port as transports of asyncio.

The driver moves a page per read and eight per write. The standard library's transports go through
the event loop for each of these; under emulation that takes longer than the bytes do.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

_BATCH = 64  # pages read in a row, before other tasks have their turn
_PAGE = 4096
_HIGH_WATER = 64 << 10  # bytes not yet written at which writers wait; asyncio's figure


class PortReader(asyncio.ReadTransport):
    """Gives a protocol what comes on ``fd``, which it does not close, until its end."""

    def __init__(self, fd: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._protocol = protocol
        self._closed = False
        protocol.connection_made(self)
        self.resume_reading()

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._closed:
            self._loop.add_reader(self._fd, self._read)

    def is_closing(self) -> bool:
        """Tell whether reading has ended."""
        return self._closed

    def close(self) -> None:
        """Stop reading."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _read(self) -> None:
        pages: list[bytes] = []
        ended = False
        try:
            while len(pages) < _BATCH and not ended:
                pages.append(os.read(self._fd, _PAGE))
                ended = not pages[-1]
        except BlockingIOError:
            pass
        except OSError:  # the device has gone, which says no more than an end
            ended = True
        if data := b"".join(pages):
            self._protocol.data_received(data)
        if ended:
            self.close()


class PortWriter(asyncio.WriteTransport):
    """Writes to ``fd``, which it does not close."""

    def __init__(self, fd: int, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._protocol = protocol
        self._waiting: deque[memoryview] = deque()
        self._size = 0  # bytes waiting
        self._paused = self._closing = self._closed = False
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Write what the port takes now, and keep the rest."""
        if self._closing or not data:
            return
        self._waiting.append(memoryview(data))
        self._size += len(data)
        if len(self._waiting) == 1:
            self._flush()
        if self._waiting:
            self._loop.add_writer(self._fd, self._flush)
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Tell that only closing ends what is written."""
        return False

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._size

    def is_closing(self) -> bool:
        """Tell whether no more can be written."""
        return self._closing

    def close(self) -> None:
        """End once all is written."""
        self._closing = True
        if not self._waiting:
            self._end(None)

    def abort(self) -> None:
        """End now; what waits is lost."""
        self._closing = True
        self._waiting.clear()
        self._end(None)

    def _flush(self) -> None:
        try:
            while self._waiting:
                view = self._waiting[0]
                written = os.write(self._fd, view)
                self._size -= written
                if written < len(view):
                    self._waiting[0] = view[written:]
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            self._closing = True
            self._waiting.clear()
            self._end(error)
            return
        if self._paused and self._size <= _HIGH_WATER // 4:
            self._paused = False
            self._protocol.resume_writing()
        if not self._waiting:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._end(None)

    def _end(self, error: OSError | None) -> None:
        if not self._closed:
            self._closed = True
            self._size = 0
            self._loop.remove_writer(self._fd)
            self._loop.call_soon(self._protocol.connection_lost, error)
