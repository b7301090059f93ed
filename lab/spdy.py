"""The client's half of SPDY/3.1, the framing under `kubectl exec` and `kubectl port-forward`.

One connection carries several streams in both directions, each of which either side ends on its own;
that is what the WebSocket form of the same services lacks: there, the end of a standard input cannot be
told. Nothing runs in the background: frames are read while someone waits for something.
Format: draft-mbelshe-httpbis-spdy-00, section 2. What a server's header blocks say is not needed, so
they are not decompressed, and ours are compressed without the dictionary, which zlib allows.
"""

import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from lab.command import LabError

_VERSION: Final = 0x8003
_SYN_STREAM: Final = 1
_RST_STREAM: Final = 3
_PING: Final = 6
_GOAWAY: Final = 7
_FIN: Final = 1
_CHUNK_BYTES: Final = 16384
DEFAULT_TIMEOUT_S: Final = 60.0


class StreamRefusedError(LabError):
    """The server did not switch to SPDY; the message holds its answer."""


@dataclass(slots=True)
class Stream:
    """One stream of a session: what has arrived on it, and whether each side has ended it."""

    session: "Session" = field(repr=False)
    number: int
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def write(self, data: bytes) -> None:
        """Send data."""
        for start in range(0, len(data), _CHUNK_BYTES):
            self.session.send_data(self.number, data[start : start + _CHUNK_BYTES], 0)

    def end(self) -> None:
        """Say that nothing more will be sent; the other direction stays open."""
        self.session.send_data(self.number, b"", _FIN)

    def read_until(self, mark: bytes, timeout_s: float = DEFAULT_TIMEOUT_S) -> bytes:
        """Return what arrived up to and with a mark, and keep the rest.

        Raises `LabError` when the stream ends or `timeout_s` seconds pass before.
        """
        self.session.wait(lambda: self.ended or mark in self.received, repr(mark), timeout_s)
        if mark not in self.received:
            raise LabError(f"the stream ended before {mark!r}: {bytes(self.received)!r}")
        end = self.received.index(mark) + len(mark)
        taken = bytes(self.received[:end])
        del self.received[:end]
        return taken

    def read_some(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> bytes:
        """Return what has arrived, once that is something; raises `LabError` at the end, too."""
        self.session.wait(lambda: self.ended or bool(self.received), "data", timeout_s)
        if not self.received:
            raise LabError("the stream ended")
        taken = bytes(self.received)
        self.received.clear()
        return taken

    def read_to_end(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> bytes:
        """Return everything up to the stream's end; raises `LabError` after `timeout_s` seconds."""
        self.session.wait(lambda: self.ended, "end of the stream", timeout_s)
        taken = bytes(self.received)
        self.received.clear()
        return taken


class Session:
    """A connection that speaks SPDY, as a context manager."""

    def __init__(self, url: str, protocol: str) -> None:
        self._url = urlsplit(url)
        self._protocol = protocol
        self._socket = socket.socket()
        self._buffer = bytearray()
        self._compressor = zlib.compressobj()
        self._streams: dict[int, Stream] = {}
        self._closed = False

    def __enter__(self) -> Self:
        self._socket.close()
        address = (self._url.hostname or "", self._url.port or 80)
        self._socket = socket.create_connection(address, timeout=DEFAULT_TIMEOUT_S)
        try:
            self._upgrade()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def open(self, headers: Mapping[str, str]) -> Stream:
        """Open a stream with the headers by which the server tells it from others."""
        number = 2 * len(self._streams) + 1
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack("!I", len(text)) + text
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        self._send_control(_SYN_STREAM, struct.pack("!IIH", number, 0, 0) + packed)
        self._streams[number] = stream = Stream(self, number)
        return stream

    def send_data(self, number: int, data: bytes, flags: int) -> None:
        """Send one data frame."""
        self._socket.sendall(struct.pack("!II", number, flags << 24 | len(data)) + data)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Take frames until a condition holds or the server closed the connection.

        Raises `LabError` after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not (condition() or self._closed):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self._take_frame()
            except TimeoutError as error:
                raise LabError(f"{what}: not within {timeout_s:g} s") from error

    def _upgrade(self) -> None:
        target = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        lines = (
            f"POST {target} HTTP/1.1",
            f"Host: {self._url.netloc}",
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            f"X-Stream-Protocol-Version: {self._protocol}",
            "Content-Length: 0",
            "",
            "",
        )
        self._socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                break
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            answer = bytes(self._buffer).decode(errors="replace")
            raise StreamRefusedError(f"{self._url.geturl()} did not switch protocols: {answer}")
        self._buffer = bytearray(rest)

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return bool(data)

    def _take_frame(self) -> None:
        frame = self._frame()
        while frame is None:
            if not self._receive():
                self._close()
                return
            frame = self._frame()
        head, flags, body = frame
        if not head & 0x80000000:
            if stream := self._streams.get(head):
                stream.received += body
        elif head & 0xFFFF == _PING:
            self._send_control(_PING, body)
        elif head & 0xFFFF == _RST_STREAM:
            self._end(struct.unpack_from("!I", body)[0])
        elif head & 0xFFFF == _GOAWAY:
            self._close()
        if flags & _FIN:
            self._end(head if not head & 0x80000000 else struct.unpack_from("!I", body)[0])

    def _frame(self) -> tuple[int, int, bytes] | None:
        """Take one whole frame from the buffer: its first word, its flags, its body."""
        if len(self._buffer) < 8:
            return None
        head, second = struct.unpack_from("!II", self._buffer)
        end = 8 + (second & 0xFFFFFF)
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[8:end])
        del self._buffer[:end]
        return head, second >> 24, body

    def _end(self, number: int) -> None:
        if stream := self._streams.get(number & 0x7FFFFFFF):
            stream.ended = True

    def _close(self) -> None:
        self._closed = True
        for stream in self._streams.values():
            stream.ended = True

    def _send_control(self, kind: int, body: bytes) -> None:
        self._socket.sendall(struct.pack("!HHI", _VERSION, kind, len(body)) + body)


class Process:
    """A process's streams in one session, for exec and attach; a context manager.

    `stdin`, `stderr` and `terminal` say which streams there are; with a terminal there is no stderr.
    """

    def __init__(self, url: str, *, stdin: bool = False, tty: bool = False) -> None:
        self._session = Session(url, "v4.channel.k8s.io")
        self._with_stdin = stdin
        self._tty = tty

    def __enter__(self) -> Self:
        session = self._session.__enter__()
        self._error = session.open({"streamType": "error"})
        if self._with_stdin:
            self.stdin = session.open({"streamType": "stdin"})
        self.stdout = session.open({"streamType": "stdout"})
        if self._tty:
            self._resize = session.open({"streamType": "resize"})
        else:
            self.stderr = session.open({"streamType": "stderr"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size."""
        self._resize.write(json.dumps({"Width": columns, "Height": rows}).encode() + b"\n")

    def wait(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """Return the process's exit code once it has ended.

        Raises `LabError` when the server reports another failure, or after `timeout_s` seconds.
        """
        said = self._error.read_to_end(timeout_s)
        status = json.loads(said or b'{"status": "closed"}')
        if status["status"] == "Success":
            return 0
        if status.get("reason") == "NonZeroExitCode":
            return int(status["details"]["causes"][0]["message"])
        raise LabError(f"the server reports: {said.decode(errors='replace')}")


class Tunnel:
    """Connections to ports in a pod's network, in one session; a context manager."""

    def __init__(self, url: str) -> None:
        self._session = Session(url, "portforward.k8s.io")
        self._requests = 0

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def connect(self, port: int) -> tuple[Stream, Stream]:
        """Return the streams of one connection to a port: its bytes, and what went wrong with it."""
        headers = {"port": str(port), "requestID": str(self._requests)}
        self._requests += 1
        error = self._session.open(headers | {"streamType": "error"})
        error.end()
        return self._session.open(headers | {"streamType": "data"}), error
