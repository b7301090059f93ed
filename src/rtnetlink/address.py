"""Addresses of links."""

from __future__ import annotations

from dataclasses import dataclass
from socket import AF_INET
from struct import Struct
from typing import Final

from rtnetlink import internet, message

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22

IFA_F_SECONDARY: Final = 0x01
IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_DEPRECATED: Final = 0x20
IFA_F_TENTATIVE: Final = 0x40
IFA_F_PERMANENT: Final = 0x80
IFA_F_MANAGETEMPADDR: Final = 0x100
IFA_F_NOPREFIXROUTE: Final = 0x200

_LAYOUT: Final = Struct("=BBBBI")  # struct ifaddrmsg: family, prefix, flags, scope, index
_ADDRESS: Final = 1
_LOCAL: Final = 2
_BROADCAST: Final = 4
_FLAGS: Final = 8


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the link `index`; `prefix` is the length of its network in bits.

    `scope` is an RT_SCOPE_ value, `flags` are IFA_F_ values. `peer` is the other end's address where
    the link has but one.
    """

    index: int
    family: int
    address: str
    prefix: int
    scope: int = 0
    flags: int = 0
    broadcast: str = ""
    peer: str = ""

    def __str__(self) -> str:
        peer = f" peer {self.peer}" if self.peer else ""
        return f"{self.address}/{self.prefix}{peer} of link {self.index}"


def decode(payload: bytes) -> Address:
    """Read what follows the header of an RTM_NEWADDR or RTM_DELADDR. Raises `MessageError`."""
    (family, prefix, flags, scope, index), found = message.unpack(_LAYOUT, payload)
    peer = internet.address(family, found.get(_ADDRESS))
    own = internet.address(family, found.get(_LOCAL)) or peer
    return Address(
        index=index,
        family=family,
        address=own,
        prefix=prefix,
        scope=scope,
        flags=message.integer(found[_FLAGS]) if _FLAGS in found else flags,
        broadcast=internet.address(family, found.get(_BROADCAST)) if family == AF_INET else "",
        peer="" if peer == own else peer,
    )


def encode(address: Address) -> bytes:
    """Return what follows the header of a message about an address. Raises `ValueError`."""
    family = address.family
    own = internet.packed(family, address.address)
    if address.prefix > internet.WIDTH[family]:
        raise ValueError(f"{address} has a prefix longer than an address")
    peer = internet.packed(family, address.peer) if address.peer else own
    broadcast = internet.packed(family, address.broadcast) if address.broadcast else b""
    return b"".join(
        (
            message.pack(
                _LAYOUT, family, address.prefix, address.flags & 0xFF, address.scope, address.index
            ),
            message.attribute(_LOCAL, own),
            message.attribute(_ADDRESS, peer),
            message.attribute(_BROADCAST, broadcast) if broadcast else b"",
            message.number(_FLAGS, address.flags) if address.flags > 0xFF else b"",
        )
    )


def all_of_them() -> bytes:
    """Return the request for every address of every family."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0)
