"""Links: the network's interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from rtnetlink import internet, message

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18

IFF_UP: Final = 0x1
IFF_BROADCAST: Final = 0x2
IFF_LOOPBACK: Final = 0x8
IFF_POINTOPOINT: Final = 0x10
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
IFF_MULTICAST: Final = 0x1000
IFF_LOWER_UP: Final = 0x10000

_LAYOUT: Final = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS: Final = 1
_NAME: Final = 3
_MTU: Final = 4
_LINK: Final = 5
_MASTER: Final = 10
_LINKINFO: Final = 18
_LINKINFO_KIND: Final = 1
_LINKINFO_DATA: Final = 2
_MACVLAN_MODE: Final = 1
_PASSTHRU: Final = 8
_EXT_MASK: Final = 29
_WITHOUT_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS
_LONGEST_NAME: Final = 15


@dataclass(frozen=True, slots=True)
class Link:
    """An interface.

    `kind` is "veth", "macvlan" and so on, "" for one that no driver of links made. `flags` are
    IFF_ values, `mtu` is in bytes. `parent` is the index of what it stands on or of its peer, which
    may be in another network namespace, and `master` of the bridge that it is in; 0 is none.
    """

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    mtu: int = 0
    flags: int = 0
    parent: int = 0
    master: int = 0

    @property
    def up(self) -> bool:
        """Whether it is meant to carry traffic."""
        return bool(self.flags & IFF_UP)

    @property
    def loopback(self) -> bool:
        """Whether it is the loopback interface."""
        return bool(self.flags & IFF_LOOPBACK)


def decode(payload: bytes) -> Link:
    """Read what follows the header of an RTM_NEWLINK or RTM_DELLINK. Raises `MessageError`."""
    (_, _, index, flags, _), found = message.unpack(_LAYOUT, payload)
    about = message.attributes(found.get(_LINKINFO, b""))
    return Link(
        index=index,
        name=message.string(found.get(_NAME)),
        kind=message.string(about.get(_LINKINFO_KIND)),
        mac=internet.mac(found.get(_ADDRESS)),
        mtu=message.integer(found.get(_MTU)),
        flags=flags,
        parent=message.integer(found.get(_LINK)),
        master=message.integer(found.get(_MASTER)),
    )


def encode(link: Link) -> bytes:
    """Return what follows the header of a message about a link. Raises `ValueError`."""
    return b"".join(
        (
            message.pack(_LAYOUT, 0, 0, link.index, link.flags, 0),
            message.attribute(_ADDRESS, internet.packed_mac(link.mac)) if link.mac else b"",
            _name(link.name) if link.name else b"",
            message.number(_MTU, link.mtu) if link.mtu else b"",
            message.number(_LINK, link.parent) if link.parent else b"",
            message.number(_MASTER, link.master) if link.master else b"",
            message.nested(_LINKINFO, message.text(_LINKINFO_KIND, link.kind))
            if link.kind
            else b"",
        )
    )


def passthru_macvtap(name: str, parent: int) -> bytes:
    """Return the request for a macvtap link that takes all frames of its parent."""
    mode = message.number(_MACVLAN_MODE, _PASSTHRU)
    return b"".join(
        (
            message.pack(_LAYOUT, 0, 0, 0, 0, 0),
            _name(name),
            message.number(_LINK, parent),
            message.nested(
                _LINKINFO,
                message.text(_LINKINFO_KIND, "macvtap"),
                message.nested(_LINKINFO_DATA, mode),
            ),
        )
    )


def all_of_them() -> bytes:
    """Return the request for every link, without the counters, which nobody here reads."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0) + message.number(_EXT_MASK, _WITHOUT_STATISTICS)


def named(name: str) -> bytes:
    """Return the request for one link. Raises `ValueError` for what no link can be called."""
    return all_of_them() + _name(name)


def numbered(index: int) -> bytes:
    """Return what names a link and says no more about it."""
    return message.pack(_LAYOUT, 0, 0, index, 0, 0)


def change(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    name: str | None = None,
    arp: bool | None = None,
) -> bytes:
    """Return the request that changes what is not None. Raises `ValueError`."""
    flags = (IFF_UP if up else 0) | (IFF_NOARP if arp is False else 0)
    changed = (0 if up is None else IFF_UP) | (0 if arp is None else IFF_NOARP)
    return b"".join(
        (
            message.pack(_LAYOUT, 0, 0, index, flags, changed),
            b"" if mac is None else message.attribute(_ADDRESS, internet.packed_mac(mac)),
            b"" if name is None else _name(name),
            b"" if mtu is None else message.number(_MTU, mtu),
        )
    )


def _name(name: str) -> bytes:
    if not 0 < len(name.encode(errors="surrogateescape")) <= _LONGEST_NAME:
        raise ValueError(f"{name!r} cannot name a link: 1 to {_LONGEST_NAME} bytes can")
    return message.text(_NAME, name)
