"""Protocol faults, sorted by whose they are.

    ProtocolError            never raised itself
    ├── LocalProtocolError   our side asked for something the protocol forbids
    └── RemoteProtocolError  the peer sent something after which the bytes mean nothing

Faults that concern one stream only are no exceptions: the connection reports them as
`ttrpc.events.Refusal` and stays usable.
"""

from __future__ import annotations

from ttrpc.status import StatusCode


class ProtocolError(Exception):
    """Base of the two protocol faults; `code` is the status a call that dies of it reports."""

    def __init__(self, message: str, code: StatusCode = StatusCode.INTERNAL) -> None:
        if type(self) is ProtocolError:
            raise TypeError(
                "raise LocalProtocolError or RemoteProtocolError: say whose fault it is"
            )
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """Our side broke a rule; nothing was sent and the connection is as it was before."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule that holds for the whole connection; nothing more can be received."""
