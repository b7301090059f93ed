"""Messages of one stream that its consumer has not taken yet.

ttrpc has no flow control for a stream: a consumer that stops taking holds up every stream of its
connection. So an inbox is bounded, and a consumer gets a short grace before its stream is given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from ttrpc.status import RpcError, StatusCode

CAPACITY: Final = 64  # messages; the figure of the Go library since 1.2.8
STALL_SECONDS: Final = 1.0  # likewise


class Inbox:
    """A bounded queue of payloads with an end, for one producer and one consumer.

    With `single`, the payload that comes with the end counts as a message even when it is empty.
    """

    def __init__(self, *, single: bool = False) -> None:
        self.error: RpcError | None = None  # what the end was, when it was a failure
        self._single = single
        self._payloads: deque[bytes] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    async def put(self, payload: bytes) -> None:
        """Append a payload, waiting up to 1 s for room; after the end it is dropped.

        Raises RpcError with RESOURCE_EXHAUSTED when the consumer takes nothing for that long.
        """
        if len(self._payloads) >= CAPACITY:
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    while len(self._payloads) >= CAPACITY and not self._ended:
                        await self._change()
            except TimeoutError:
                raise RpcError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"the receiver left {CAPACITY} messages untaken for {STALL_SECONDS:g} s",
                ) from None
        self.put_nowait(payload)

    def put_nowait(self, payload: bytes) -> None:
        """Append a payload without asking for room; after the end it is dropped."""
        if not self._ended:
            self._payloads.append(payload)
            self._changed.set()

    def finish(self, payload: bytes) -> None:
        """End well, with what a response carried."""
        if payload or self._single:
            self.put_nowait(payload)
        self.end()

    def end(self, error: RpcError | None = None) -> None:
        """Say that nothing follows, and why; only the first end counts."""
        if not self._ended:
            self._ended = True
            self.error = error
            self._changed.set()

    async def get(self) -> bytes | None:
        """Return the next payload, or None at the end. Raises the error given to `end`."""
        while not self._payloads:
            if self._ended:
                if self.error is not None:
                    raise self.error
                return None
            await self._change()
        payload = self._payloads.popleft()
        self._changed.set()
        return payload

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
