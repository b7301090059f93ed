"""Neighbours: who on a link has an address of the internet."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from rtnetlink import internet, message

RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30

NUD_INCOMPLETE: Final = 0x01
NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
NTF_PROXY: Final = 0x08
NTF_ROUTER: Final = 0x80

_LAYOUT: Final = Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_ADDRESS: Final = 1
_MAC: Final = 2


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who answers to `address` on the link `index`; `state` is of NUD_, `flags` of NTF_ values."""

    index: int
    family: int
    address: str
    mac: str = ""
    state: int = NUD_PERMANENT
    flags: int = 0

    def __str__(self) -> str:
        return f"{self.address} dev {self.index}" + (f" lladdr {self.mac}" if self.mac else "")


def decode(payload: bytes) -> Neighbour:
    """Read what follows the header of an RTM_NEWNEIGH or RTM_DELNEIGH. Raises `MessageError`."""
    (family, index, state, flags, _), found = message.unpack(_LAYOUT, payload)
    return Neighbour(
        index=index,
        family=family,
        address=internet.address(family, found.get(_ADDRESS)),
        mac=internet.mac(found.get(_MAC)),
        state=state,
        flags=flags,
    )


def encode(neighbour: Neighbour) -> bytes:
    """Return what follows the header of a message about a neighbour. Raises `ValueError`."""
    family = neighbour.family
    return b"".join(
        (
            message.pack(_LAYOUT, family, neighbour.index, neighbour.state, neighbour.flags, 0),
            message.attribute(_ADDRESS, internet.packed(family, neighbour.address)),
            message.attribute(_MAC, internet.packed_mac(neighbour.mac)) if neighbour.mac else b"",
        )
    )


def all_of_them() -> bytes:
    """Return the request for every neighbour."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0)
