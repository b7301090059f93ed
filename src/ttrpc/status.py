"""Outcomes of calls: status codes, and the exceptions that carry them.

Owns the numbers and the two exceptions a user of this package handles. The numbers are gRPC's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.any_pb2 import Any


class StatusCode(IntEnum):
    """Codes a call can end with; the numbers go over the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def from_wire(cls, number: int) -> StatusCode:
        """Return the code for a number a peer sent; one we do not know reads as UNKNOWN."""
        try:
            return cls(number)
        except ValueError:
            return cls.UNKNOWN


class RpcError(Exception):
    """A call that ended with a status other than OK.

    Client calls raise it; a handler raises it to answer with that status. `details` are
    `google.protobuf.Any` messages that travel beside code and message.
    """

    def __init__(self, code: StatusCode, message: str, details: Iterable[Any] = ()) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class ConnectionClosedError(RpcError):
    """The connection ended before the call's answer came; the call may or may not have run.

    Its message starts with `ttrpc: closed`, the text containerd's own tools look for.
    """

    def __init__(self, reason: str = "") -> None:
        message = f"ttrpc: closed: {reason}" if reason else "ttrpc: closed"
        super().__init__(StatusCode.UNAVAILABLE, message)
