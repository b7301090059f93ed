"""A TCP connection carried over one stream, both ways, with the flow control that ttrpc lacks.

Theory of operation. Both ends are alike: each has a socket, and sends pieces to the other. A piece
holds bytes, says how many bytes its sender is ready to take (counted from the start, so that nothing
is lost by saying it twice), or says that none follow. No end sends what it was not granted, and takes
every piece at once, so that a slow reader holds up its own connection and no other stream.

A direction ends with a piece that says so; the other one goes on. When both have ended, the stream
ends, too. A stream that ends before that is a connection that was reset: what was sent before is still
delivered if its reader takes it within a second, and then the socket is reset.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Final, Generic, Protocol, TypeVar

from ttrpc.status import RpcError, StatusCode

CHUNK: Final = 128 << 10
"""Bytes read at once. Every stream can have a piece of that size ahead of a call on its connection."""

WINDOW: Final = 512 << 10
"""Bytes granted beyond those the socket has taken: the most that a relay holds of its peer's."""

_REGRANT: Final = WINDOW // 2
"""Bytes worth a new grant."""

_LINGER_SECONDS: Final = 1.0
"""What the last bytes before a reset get to be taken."""

_LOOK_SECONDS: Final = 5.0
"""Between looks at a socket that is not read, for its peer may not grant: is it still connected?"""

_OUTPUT_SECONDS: Final = 0.01
"""Between looks at what the kernel has not been able to deliver; it has no event for that."""

_SIOCOUTQ: Final = 0x5411  # linux/sockios.h
_TCP_CLOSE: Final = 7  # include/net/tcp_states.h


class Piece(Protocol):
    """What travels, whatever its message is called."""

    data: bytes
    granted: int
    end: bool


P = TypeVar("P", bound=Piece)


class PieceError(RpcError):
    """A piece that its sender may not send."""

    def __init__(self, fault: str) -> None:
        super().__init__(StatusCode.INVALID_ARGUMENT, f"the peer sent {fault}")


class Relay(Generic[P]):
    """One end of a carried connection.

    Takes over the connected `sock`. `messages` are the peer's pieces, `make` makes ours.
    """

    def __init__(
        self, sock: socket.socket, messages: AsyncIterator[P], make: Callable[..., P]
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the standard library has no keyword for it
        self._sock = sock
        self._messages = messages
        self._make = make
        self._error: Exception | None = None
        self._news = asyncio.Event()  # a piece is to be sent
        # From the socket to the peer; numbers count bytes from the start.
        self._chunk = b""
        self._sent = 0
        self._allowed = 0  # by the peer's grants
        self._room = asyncio.Event()  # more may be read
        self._has_read_all = False
        self._end_sent = False
        # From the peer to the socket.
        self._waiting = bytearray()
        self._received = 0
        self._written = 0
        self._granted = 0
        self._work = asyncio.Event()  # there is something to write
        self._drained = asyncio.Event()
        self._peer_ended = False
        self._has_written_all = False
        self._write_error: OSError | None = None
        self._is_peer_gone = False

    def __repr__(self) -> str:
        if self._error is not None:
            condition = f"failed: {self._error}"
        else:
            condition = "done" if self._is_done() else "open"
        return f"<relay, {condition}, {self._sent} bytes sent, {self._received} received>"

    @property
    def is_answered(self) -> bool:
        """Tell whether the peer has granted anything yet."""
        return self._allowed > 0

    def give_up(self, error: Exception) -> None:
        """Have `pieces` raise `error`, unless it failed before."""
        if self._error is None:
            self._error = error
        self._news.set()

    async def pieces(self) -> AsyncGenerator[P, None]:
        """Yield the pieces for the peer until both directions have ended; to be iterated once.

        Raises OSError when the socket fails or the peer ends the stream early, PieceError when it
        breaks the rules, and what iterating over `messages` raises. However it ends, also by
        `aclose`, the socket is closed; with a reset unless both directions had ended.
        """
        loop = asyncio.get_running_loop()
        works = (self._read(), self._write(), self._receive())
        workers = [loop.create_task(self._guard(work)) for work in works]
        try:
            while not self._is_done():
                if (piece := self._next_piece()) is not None:
                    yield piece
                elif self._error is not None:
                    raise self._error
                else:
                    await _change(self._news)
        finally:
            for worker in workers:
                worker.cancel()
            try:
                await asyncio.wait(workers)
            finally:
                if self._is_done():
                    self._sock.close()
                else:
                    reset(self._sock)

    # -- inside --------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        return self._end_sent and self._has_written_all

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised again by `pieces`
            self.give_up(error)

    def _next_piece(self) -> P | None:
        """Return all that there is to say, if there is."""
        if self._is_peer_gone:
            return None
        granted = 0
        if not self._peer_ended and self._written + WINDOW - self._granted >= _REGRANT:
            self._granted = granted = self._written + WINDOW
        data, self._chunk = self._chunk, b""
        if data:
            self._sent += len(data)
            self._room.set()
        end = self._has_read_all and not self._end_sent
        self._end_sent = self._end_sent or end
        if granted or data or end:
            return self._make(data=data, granted=granted, end=end)
        return None

    # -- from the socket -----------------------------------------------------------------------

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            size = await self._wait_room()
            try:
                data = await loop.sock_recv(self._sock, min(size, CHUNK))
            except OSError as error:
                raise self._write_error or error from None
            if not data:
                break
            self._chunk = data
            self._news.set()
        if self._write_error is not None:
            raise self._write_error
        self._has_read_all = True
        self._news.set()

    async def _wait_room(self) -> int:
        """Wait until the last chunk was sent and more is allowed; return how many bytes are."""
        while self._chunk or self._allowed <= self._sent:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await _change(self._room)
            except TimeoutError:
                if self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                    raise ConnectionResetError(errno.ECONNRESET, "reset by its user") from None
        return self._allowed - self._sent

    # -- to the socket -------------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            async for message in self._messages:
                self._take(message)
            if self._end_sent and self._peer_ended:
                return
            raise ConnectionResetError(errno.ECONNRESET, "the peer gave the connection up")
        except PieceError:
            raise
        except (RpcError, ConnectionResetError):
            self._is_peer_gone = True
            await self._drain()
            raise

    def _take(self, piece: P) -> None:
        if piece.granted:
            if piece.granted < self._allowed:
                raise PieceError(f"a grant of {piece.granted} bytes after one of {self._allowed}")
            self._allowed = piece.granted
            self._room.set()
        if piece.data:
            if self._peer_ended:
                raise PieceError("bytes after its end")
            self._received += len(piece.data)
            if self._received > self._granted:
                raise PieceError(f"{self._received} bytes, of which {self._granted} were granted")
            if self._write_error is None:
                self._waiting += piece.data
        if piece.end:
            self._peer_ended = True
        if piece.data or piece.end:
            self._work.set()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or not self._peer_ended:
                if not self._waiting:
                    await _change(self._work)
                    continue
                data = bytes(self._waiting[:CHUNK])
                del self._waiting[:CHUNK]
                await loop.sock_sendall(self._sock, data)
                self._written += len(data)
                self._news.set()
                if not self._waiting:
                    self._drained.set()
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._write_error = error
            self._waiting.clear()
            self._drained.set()
            if self._has_read_all:
                raise
            return  # there may still be bytes to read; then reading fails, too
        self._has_written_all = True
        self._news.set()

    async def _drain(self) -> None:
        """Give the socket's user a moment to take what came before the peer went."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._written < self._received and self._write_error is None:
                    await _change(self._drained)
                # A reset throws away what the kernel still has.
                while fcntl.ioctl(self._sock, _SIOCOUTQ, bytes(4)) != bytes(4):  # noqa: ASYNC110
                    await asyncio.sleep(_OUTPUT_SECONDS)
        except TimeoutError:
            return  # it had its moment


def reset(sock: socket.socket) -> None:
    """Close a connection so that its other end sees a reset; a closed socket is left alone."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


async def _change(event: asyncio.Event) -> None:
    event.clear()
    await event.wait()
