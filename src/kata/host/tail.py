"""The last bytes that came out of a descriptor: a guest's console, a helper's stderr.

Whoever writes is not trusted to write little, so both what is kept in memory and what goes to
the file are bounded.
"""

import asyncio
import os

_KEPT = 64 << 10
"""Bytes kept in memory: more than a kernel panic with its trace, less than anyone would miss."""

_FILE_LIMIT = 4 << 20
"""Bytes of the log file before it starts over; it lies on a tmpfs of the host."""


class Tail:
    """Collects from a descriptor, which it owns, until end of file or `close`."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        """Start to collect; raises `OSError` when `path` cannot be written, all being closed then."""
        self._descriptor = descriptor
        self._kept = bytearray()
        self._file = -1
        if path:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            try:
                self._file = os.open(path, flags, 0o600)
            except OSError:
                os.close(descriptor)
                raise
        self._written = 0
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._collect)

    def _collect(self) -> None:
        try:
            data = os.read(self._descriptor, _KEPT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._kept += data
        del self._kept[:-_KEPT]
        if self._file >= 0:
            try:
                self._append(data)
            except OSError:  # a full tmpfs: the memory of it goes on
                os.close(self._file)
                self._file = -1

    def _append(self, data: bytes) -> None:
        if self._written + len(data) > _FILE_LIMIT:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            self._written = 0
        self._written += os.write(self._file, data)

    def lines(self, count: int) -> list[str]:
        """Return up to `count` last lines, without control characters and empty lines."""
        text = self._kept.decode(errors="replace")
        clean = (
            "".join(c for c in line if c.isprintable() or c == "\t") for line in text.splitlines()
        )
        return [line for line in clean if line.strip()][-count:]

    def close(self) -> None:
        """Stop collecting and close the descriptor; `lines` goes on answering."""
        if self._descriptor < 0:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
