"""Events: what a connection can say or hear, as values.

The same classes go both ways: `Connection.send` takes what the peer's `next_event` returns.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ttrpc.frames import FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN
from ttrpc.status import StatusCode

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any


class Opening(Enum):
    """How a request opens its stream; the values are the request frame's flags."""

    UNARY = 0
    """One message each way."""
    CLOSED = FLAG_REMOTE_CLOSED
    """The request is all the client sends; the server may stream."""
    OPEN = FLAG_REMOTE_OPEN
    """The client sends data after the request; the server may stream too."""


class Request(NamedTuple):
    """The first frame of a stream, client to server."""

    stream_id: int
    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0  # nanoseconds from now; 0 means no deadline
    metadata: tuple[tuple[str, str], ...] = ()
    opening: Opening = Opening.UNARY


class Response(NamedTuple):
    """The end of a stream with its outcome, server to client."""

    stream_id: int
    payload: bytes = b""
    code: StatusCode = StatusCode.OK
    message: str = ""
    details: tuple[Any, ...] = ()


class Data(NamedTuple):
    """One message of a streaming call, either way."""

    stream_id: int
    payload: bytes


class EndOfData(NamedTuple):
    """The sender's last word on a stream; from a server it also means success."""

    stream_id: int


class Refusal(NamedTuple):
    """A fault that ends one stream and leaves the connection usable.

    A server's `next_event` returns it when the client's frame is unacceptable, and the server owes
    the client this event through `send` (it travels as a response). A client's `next_event` returns
    it when the server's answer is unreadable; there is nothing to send.
    """

    stream_id: int
    code: StatusCode
    message: str


class ConnectionEnded(NamedTuple):
    """The peer closed its side between two frames."""


Event = Request | Response | Data | EndOfData | Refusal | ConnectionEnded
