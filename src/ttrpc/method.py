"""Remote methods as values: the row of a service table that client and server share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

Req = TypeVar("Req", bound="Message")
Resp = TypeVar("Resp", bound="Message")


class Method(NamedTuple, Generic[Req, Resp]):
    """One method of a service, with the types of its messages and its streaming directions."""

    service: str  # full name, for example "containerd.task.v2.Task"
    name: str  # bare name, for example "State"
    request: type[Req]
    response: type[Resp]
    client_streams: bool = False
    server_streams: bool = False

    @property
    def path(self) -> str:
        """Return `/service/name`, the key under which a server finds the method."""
        return f"/{self.service}/{self.name}"
