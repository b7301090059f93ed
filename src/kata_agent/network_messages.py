"""The network's messages as values of rtnetlink, and back.

Links have names on the wire and numbers in the kernel. Values are as the kernel would tell them, so
that they can be compared with what it tells. Raises ``ValueError`` for what cannot be said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from socket import AF_INET, AF_INET6

from kata_api.agent import types_pb2 as pb
from rtnetlink import Address, Link, Neighbour, NextHop, Route, Rule, address, route
from rtnetlink import rule as rules
from rtnetlink.link import IFF_NOARP
from rtnetlink.neighbour import NUD_PERMANENT

IPV4, IPV6 = int(AF_INET), int(AF_INET6)
DEFAULT_RULES = (
    *(Rule(family, 0, 255) for family in (IPV4, IPV6)),
    *(Rule(family, 32766, 254) for family in (IPV4, IPV6)),
    Rule(IPV4, 32767, 253),
)
"""What each network namespace has from the start; see ip-rule(8)."""

_DEFAULT_IPV6_METRIC = 1024  # IP6_RT_PRIO_USER

IndexOf = Callable[[str], int]
NameOf = Callable[[int], str]


def to_address(message: pb.IPAddress, index: int) -> Address:
    """Return the address of a link, as it is to be: usable at once, its other flags the kernel's."""
    if not message.mask.isdecimal():
        raise ValueError(f"{message.mask!r} is no length of the prefix of {message.address}")
    value = Address(
        index=index,
        family=_family(message.family, message.address),
        address=message.address,
        prefix=int(message.mask),
        scope=message.scope,
        flags=message.flags,
        broadcast=message.broadcast,
        peer=message.peer,
    )
    return comparable_address(address.decode(address.encode(value)))


def comparable_address(value: Address) -> Address:
    """Return an address without what the kernel decides, the scope of an IPv6 address included."""
    flags = value.flags & address.IFA_F_NOPREFIXROUTE
    if value.family == IPV6:
        return replace(value, flags=flags | address.IFA_F_NODAD, scope=0)
    return replace(value, flags=flags)


def from_address(value: Address) -> pb.IPAddress:
    """Return an address as a message."""
    return pb.IPAddress(
        family=_family_message(value.family),
        address=value.address,
        mask=str(value.prefix),
        broadcast=value.broadcast,
        peer=value.peer,
        scope=value.scope,
        flags=value.flags,
    )


def from_link(link: Link, addresses: list[Address]) -> pb.Interface:
    """Return a link and its addresses as a message."""
    return pb.Interface(
        device=link.name,
        name=link.name,
        IPAddresses=[from_address(one) for one in addresses if one.index == link.index],
        mtu=link.mtu,
        hwAddr=link.mac,
        type=link.kind,
        raw_flags=link.flags & IFF_NOARP,
    )


def to_route(message: pb.Route, index_of: IndexOf) -> Route:
    """Return a route."""
    family = _family(message.family, message.dest)
    value = Route(
        family=family,
        destination=message.dest,
        gateway=message.gateway,
        index=index_of(message.device) if message.device else 0,
        source=message.source.partition("/")[0],
        metric=message.metric,
        table=message.table or route.RT_TABLE_MAIN,
        scope=message.scope,
        protocol=message.protocol or route.RTPROT_BOOT,
        type=message.type or route.RTN_UNICAST,
        flags=message.flags,
        mtu=message.mtu,
        next_hops=tuple(
            NextHop(
                index_of(hop.device) if hop.device else 0,
                hop.gateway,
                hop.weight or 1,
                hop.flags & route.RTNH_F_ONLINK,
            )
            for hop in message.next_hops
        ),
        tos=message.tos,
        metrics=tuple(sorted(message.metrics.items())),
    )
    return comparable_route(route.decode(route.encode(value)))


def comparable_route(value: Route) -> Route:
    """Return a route without what the kernel finds out, such as whether its link has a carrier."""
    hops = tuple(replace(hop, flags=hop.flags & route.RTNH_F_ONLINK) for hop in value.next_hops)
    metric = value.metric or (_DEFAULT_IPV6_METRIC if value.family == IPV6 else 0)
    flags = value.flags & route.RTNH_F_ONLINK
    return replace(value, flags=flags, metric=metric, next_hops=hops)


def from_route(value: Route, name_of: NameOf) -> pb.Route:
    """Return a route as a message."""
    return pb.Route(
        family=_family_message(value.family),
        dest=value.destination,
        gateway=value.gateway,
        device=name_of(value.index) if value.index else "",
        source=value.source,
        metric=value.metric,
        table=value.table,
        scope=value.scope,
        protocol=value.protocol,
        type=value.type,
        flags=value.flags,
        mtu=value.mtu,
        next_hops=[
            pb.NextHop(
                device=name_of(hop.index), gateway=hop.gateway, weight=hop.weight, flags=hop.flags
            )
            for hop in value.next_hops
        ],
        tos=value.tos,
        metrics=dict(value.metrics),
    )


def to_rule(message: pb.Rule) -> Rule:
    """Return a rule."""
    value = Rule(
        family=IPV6 if message.family == pb.v6 else IPV4,
        priority=message.priority,
        table=message.table,
        action=message.action,
        source=message.source,
        destination=message.destination,
        mark=message.mark,
        mask=message.mask,
        iif=message.iif,
        oif=message.oif,
        tos=message.tos,
        flags=message.flags & rules.FIB_RULE_INVERT,
        goto=message.goto,
        suppress_prefix=message.suppress_prefix if message.HasField("suppress_prefix") else None,
        uids=_range(message.uids) if message.HasField("uids") else None,
        ip_protocol=message.ip_protocol,
        source_ports=_range(message.source_ports) if message.HasField("source_ports") else None,
        destination_ports=_range(message.destination_ports)
        if message.HasField("destination_ports")
        else None,
        l3mdev=message.l3mdev,
        protocol=message.protocol,
    )
    return rules.decode(rules.encode(value))


def comparable_rule(value: Rule) -> Rule:
    """Return a rule without what the kernel finds out, and without who made it."""
    return replace(value, flags=value.flags & rules.FIB_RULE_INVERT, protocol=0)


def to_neighbour(message: pb.ARPNeighbor, index_of: IndexOf) -> Neighbour:
    """Return a neighbour, a lasting one unless the message says otherwise."""
    return Neighbour(
        index=index_of(message.device),
        family=_family(message.toIPAddress.family, message.toIPAddress.address),
        address=message.toIPAddress.address.partition("/")[0],
        mac=message.lladdr,
        state=message.state or NUD_PERMANENT,
        flags=message.flags,
    )


def _family(family: pb.IPFamily, text: str) -> int:
    """Return the family; upstream's runtime leaves it out of addresses that show it."""
    return IPV6 if family == pb.v6 or ":" in text else IPV4


def _family_message(family: int) -> pb.IPFamily:
    return pb.v6 if family == IPV6 else pb.v4


def _range(message: pb.Range) -> tuple[int, int]:
    return message.first, message.last
