"""Stream states: one table, the same for both ends.

Theory of operation. A stream is born of a request and ends with the server's last word: a response,
or end of data from the server. What lies between depends on how the request opened it:

- UNARY  -> AWAITING: the server answers with exactly one response, and no data flows;
- CLOSED -> HALF_CLOSED: the server sends any number of messages;
- OPEN   -> OPEN: both sides send; the client's end of data leads to HALF_CLOSED.

The server may end the stream in any of them, so a client that is still sending can find its stream
gone. A pair that is not in the table is a fault of whoever sent the event. Streams that ended are
not remembered: the highest id ever used says whether an unknown id is old.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ttrpc.events import Opening


class StreamState(Enum):
    """Where a stream stands."""

    IDLE = auto()
    """No request yet."""
    AWAITING = auto()
    """Unary: the response is due."""
    OPEN = auto()
    """Both sides may send data."""
    HALF_CLOSED = auto()
    """Only the server may send data."""
    CLOSED = auto()
    """The server had its last word."""


class Trigger(Enum):
    """What moves a stream, named by who sends it."""

    REQUEST_UNARY = auto()
    REQUEST_CLOSED = auto()
    REQUEST_OPEN = auto()
    CLIENT_DATA = auto()
    CLIENT_END = auto()
    SERVER_DATA = auto()
    SERVER_END = auto()
    RESPONSE = auto()


REQUEST_TRIGGERS: Final = {
    Opening.UNARY: Trigger.REQUEST_UNARY,
    Opening.CLOSED: Trigger.REQUEST_CLOSED,
    Opening.OPEN: Trigger.REQUEST_OPEN,
}

TRANSITIONS: Final[dict[StreamState, dict[Trigger, StreamState]]] = {
    StreamState.IDLE: {
        Trigger.REQUEST_UNARY: StreamState.AWAITING,
        Trigger.REQUEST_CLOSED: StreamState.HALF_CLOSED,
        Trigger.REQUEST_OPEN: StreamState.OPEN,
    },
    StreamState.AWAITING: {
        Trigger.RESPONSE: StreamState.CLOSED,
    },
    StreamState.OPEN: {
        Trigger.CLIENT_DATA: StreamState.OPEN,
        Trigger.CLIENT_END: StreamState.HALF_CLOSED,
        Trigger.SERVER_DATA: StreamState.OPEN,
        Trigger.SERVER_END: StreamState.CLOSED,
        Trigger.RESPONSE: StreamState.CLOSED,
    },
    StreamState.HALF_CLOSED: {
        Trigger.SERVER_DATA: StreamState.HALF_CLOSED,
        Trigger.SERVER_END: StreamState.CLOSED,
        Trigger.RESPONSE: StreamState.CLOSED,
    },
    StreamState.CLOSED: {},
}
