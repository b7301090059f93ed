"""The copying of one output of a process, from the agent to a file of the host."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import ttrpc
from kata.agent_client.sink import Sink

_log = logging.getLogger(__name__)

CHUNK = 256 << 10
"""Bytes asked of the agent at once: large enough that the round trip does not count, small enough
to share one virtio-serial stream with other processes."""


class Pump:
    """Copies from `start` until the end of the output; `name` is for messages.

    `settled` is set once all is written that the process wrote before it ended, as far as that is
    known: at the end of the output, or when the total that `expect` was given has been written.
    """

    def __init__(self, name: str, sink: Sink, read: Callable[[int], Awaitable[bytes]]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.settled = asyncio.Event()
        self.total: int | None = None
        self.writing = False  # the reader is behind
        self._name = name
        self._lossy = False
        self._sink = sink
        self._read = read

    def __repr__(self) -> str:
        state = "done" if self.task and self.task.done() else "open"
        return f"<Pump of {self._name}, {state}, {self.moved} bytes>"

    @property
    def moved(self) -> int:
        """Bytes that the host's file has taken."""
        return self._sink.taken

    def start(self) -> None:
        """Start to copy."""
        self.task = asyncio.create_task(self._run())

    def expect(self, total: int | None) -> None:
        """Take note of how many bytes the process wrote; None when the agent does not say."""
        self.total = total
        self._check()

    def is_at_rest(self) -> bool:
        """Tell whether nothing more is to be hoped for: while writing, a reader; else, a total."""
        if self.writing:
            return not self._sink.has_reader()
        return self.total is None

    def close(self) -> None:
        """Close the host's file."""
        self._sink.close()

    def _check(self) -> None:
        if self.total is not None and self.moved >= self.total:
            self.settled.set()

    async def _run(self) -> None:
        """Copy until the end; the next read is under way while the last one is written."""
        pending = asyncio.ensure_future(self._read(CHUNK))
        try:
            while data := await pending:
                pending = asyncio.ensure_future(self._read(CHUNK))
                await self._write(data)
                self._check()
        except ttrpc.RpcError:
            pass  # the guest has gone; the sandbox tells
        finally:
            pending.cancel()
            self._sink.close()
            self.settled.set()

    async def _write(self, data: bytes) -> None:
        """Write, or lose what the host's file does not take: a full disk must not stop a guest."""
        self.writing = True
        before = self.moved
        try:
            await self._sink.write(data)
        except OSError as error:
            if not self._lossy:
                _log.error("output is lost, %s: %s", self._name, error)
            self._lossy = True
            self._sink.taken = before + len(data)
        finally:
            self.writing = False
