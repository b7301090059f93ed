"""Routes, also those of several hops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from struct import Struct
from typing import Final

from rtnetlink import internet, message
from rtnetlink.errors import MessageError

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255
RTPROT_REDIRECT: Final = 1
RTPROT_KERNEL: Final = 2
RTPROT_BOOT: Final = 3
RTPROT_STATIC: Final = 4
RTPROT_RA: Final = 9
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTN_ANYCAST: Final = 4
RTN_MULTICAST: Final = 5
RTN_BLACKHOLE: Final = 6
RTN_UNREACHABLE: Final = 7
RTN_PROHIBIT: Final = 8
RTN_THROW: Final = 9
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_SITE: Final = 200
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RTNH_F_DEAD: Final = 0x1
RTNH_F_ONLINK: Final = 0x4
RTNH_F_LINKDOWN: Final = 0x10
RTM_F_CLONED: Final = 0x200

# struct rtmsg: family, destination and source lengths, tos, table, protocol, scope, type, flags
_LAYOUT: Final = Struct("=BBBBBBBBI")
_HOP: Final = Struct("=HBBi")  # struct rtnexthop: length, flags, weight less one, index
_VIA_FAMILY: Final = Struct("=H")  # the beginning of struct rtvia; the address follows
_DESTINATION: Final = 1
_OIF: Final = 4
_GATEWAY: Final = 5
_PRIORITY: Final = 6
_PREFSRC: Final = 7
_METRICS: Final = 8
_MULTIPATH: Final = 9
_TABLE: Final = 15
_VIA: Final = 18
_METRIC_MTU: Final = 2
_METRIC_CONGESTION: Final = 16  # a name where the others are numbers

_TYPES: Final = {
    RTN_LOCAL: "local ",
    RTN_BROADCAST: "broadcast ",
    RTN_ANYCAST: "anycast ",
    RTN_MULTICAST: "multicast ",
    RTN_BLACKHOLE: "blackhole ",
    RTN_UNREACHABLE: "unreachable ",
    RTN_PROHIBIT: "prohibit ",
    RTN_THROW: "throw ",
}


@dataclass(frozen=True, slots=True)
class NextHop:
    """One of a route's hops: by the link `index`, and to `gateway` if that is not "".

    `weight` is 1 to 256, `flags` are RTNH_F_ values. A gateway may be of the other family.
    """

    index: int
    gateway: str = ""
    weight: int = 1
    flags: int = 0

    def __str__(self) -> str:
        via = f"via {self.gateway} " if self.gateway else ""
        return f"{via}dev {self.index} weight {self.weight}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to `destination` go, `address/length` or "" for everywhere.

    `index` is the link that they leave by, `source` the address that they get, `metric` the lower
    the better, `mtu` in bytes; 0 and "" mean none. `flags` are RTNH_F_ONLINK and RTM_F_ values. A
    route with `next_hops` has neither gateway nor link of its own. `metrics` are the numbers of
    RTAX_ values other than the MTU, in ascending order; a name for congestion control is left out.
    """

    family: int
    destination: str = ""
    gateway: str = ""
    index: int = 0
    source: str = ""
    metric: int = 0
    table: int = RT_TABLE_MAIN
    scope: int = RT_SCOPE_UNIVERSE
    protocol: int = RTPROT_BOOT
    type: int = RTN_UNICAST
    flags: int = 0
    mtu: int = 0
    next_hops: tuple[NextHop, ...] = ()
    tos: int = 0
    metrics: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        everywhere = "default" if self.family == AF_INET else "default (IPv6)"
        words = [_TYPES.get(self.type, "") + (self.destination or everywhere)]
        words += [f"via {self.gateway}"] if self.gateway else []
        words += [f"dev {self.index}"] if self.index else []
        words += [f"nexthop {hop}" for hop in self.next_hops]
        words += [f"src {self.source}"] if self.source else []
        words += [f"metric {self.metric}"] if self.metric else []
        words += [f"table {self.table}"] if self.table != RT_TABLE_MAIN else []
        return " ".join(words)


def decode(payload: bytes) -> Route:
    """Read what follows the header of an RTM_NEWROUTE or RTM_DELROUTE. Raises `MessageError`."""
    fixed, found = message.unpack(_LAYOUT, payload)
    family, length, _, tos, table, protocol, scope, kind, flags = fixed
    metrics = {
        number: message.integer(value)
        for number, value in message.attributes(found.get(_METRICS, b"")).items()
        if number != _METRIC_CONGESTION
    }
    return Route(
        family=family,
        destination=internet.network(family, found.get(_DESTINATION), length),
        gateway=_gateway(family, found),
        index=message.integer(found.get(_OIF)),
        source=internet.address(family, found.get(_PREFSRC)),
        metric=message.integer(found.get(_PRIORITY)),
        table=message.integer(found[_TABLE]) if _TABLE in found else table,
        scope=scope,
        protocol=protocol,
        type=kind,
        flags=flags,
        mtu=metrics.pop(_METRIC_MTU, 0),
        next_hops=tuple(_hops(family, found.get(_MULTIPATH, b""))),
        tos=tos,
        metrics=tuple(sorted(metrics.items())),
    )


def encode(route: Route) -> bytes:
    """Return what follows the header of a message about a route. Raises `ValueError`."""
    family = route.family
    destination, length = internet.packed_network(family, route.destination)
    table = route.table if route.table < 256 else 0  # RT_TABLE_UNSPEC: look at the attribute
    metrics = sorted(((_METRIC_MTU, route.mtu), *route.metrics) if route.mtu else route.metrics)
    hops = b"".join(_encode_hop(family, hop) for hop in route.next_hops)
    return b"".join(
        (
            message.pack(
                *(_LAYOUT, family, length, 0, route.tos, table),
                *(route.protocol, route.scope, route.type, route.flags),
            ),
            message.attribute(_DESTINATION, destination) if destination else b"",
            b"" if table else message.number(_TABLE, route.table),
            _encode_gateway(family, route.gateway) if route.gateway else b"",
            message.number(_OIF, route.index) if route.index else b"",
            message.attribute(_PREFSRC, internet.packed(family, route.source))
            if route.source
            else b"",
            message.number(_PRIORITY, route.metric) if route.metric else b"",
            message.nested(_METRICS, *(message.number(n, v) for n, v in metrics))
            if metrics
            else b"",
            message.attribute(_MULTIPATH, hops) if hops else b"",
        )
    )


def all_of_them() -> bytes:
    """Return the request for every route of every table."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _gateway(family: int, found: dict[int, bytes]) -> str:
    """Read a gateway of the route's own family, or one of the other."""
    if _GATEWAY in found:
        return internet.address(family, found[_GATEWAY])
    via = found.get(_VIA, b"")
    if not via:
        return ""
    if len(via) < _VIA_FAMILY.size:
        raise MessageError("a gateway without its family")
    return internet.address(_VIA_FAMILY.unpack_from(via)[0], via[_VIA_FAMILY.size :])


def _encode_gateway(family: int, gateway: str) -> bytes:
    own = int(AF_INET6) if ":" in gateway else int(AF_INET)
    value = internet.packed(own, gateway)
    if own == family:
        return message.attribute(_GATEWAY, value)
    return message.attribute(_VIA, _VIA_FAMILY.pack(own) + value)


def _hops(family: int, data: bytes) -> Iterator[NextHop]:
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HOP.size:
            raise MessageError(f"{len(data) - offset} bytes left are no hop of a route")
        length, flags, more, index = _HOP.unpack_from(data, offset)
        if not _HOP.size <= length <= len(data) - offset:
            raise MessageError(f"a hop of a route claims {length} of {len(data) - offset} bytes")
        found = message.attributes(data[offset + _HOP.size : offset + length])
        yield NextHop(index, _gateway(family, found), more + 1, flags)
        offset += (length + 3) & ~3


def _encode_hop(family: int, hop: NextHop) -> bytes:
    gateway = _encode_gateway(family, hop.gateway) if hop.gateway else b""
    length = _HOP.size + len(gateway)
    return message.pack(_HOP, length, hop.flags, hop.weight - 1, hop.index) + gateway
