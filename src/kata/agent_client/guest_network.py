"""The pod's network as the agent's messages.

Values are rtnetlink's, as they were read on the host. Links have other numbers in the guest, so their
names go on the wire: `names` says what the link of each number is called in the guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from socket import AF_INET6
from typing import TYPE_CHECKING

from kata_api.agent import types_pb2 as pb

if TYPE_CHECKING:  # at run time, a container without a network pays nothing for it
    from rtnetlink import Address, Link, Neighbour, Route, Rule


def interface(source: Link, addresses: Iterable[Address]) -> pb.Interface:
    """Return a link that the guest is to have the like of as the agent's message."""
    from rtnetlink.link import IFF_NOARP

    return pb.Interface(
        device=source.name,
        name=source.name,
        IPAddresses=[_address(one) for one in addresses],
        mtu=source.mtu,
        hwAddr=source.mac,
        type=source.kind,
        raw_flags=source.flags & IFF_NOARP,
    )


def _address(source: Address) -> pb.IPAddress:
    return pb.IPAddress(
        family=_family(source.family),
        address=source.address,
        mask=str(source.prefix),
        broadcast=source.broadcast,
        peer=source.peer,
        scope=source.scope,
        flags=source.flags,
    )


def route(source: Route, names: Mapping[int, str]) -> pb.Route:
    """Return a route as the agent's message. Raises `ValueError` for a link without a name."""
    return pb.Route(
        family=_family(source.family),
        dest=source.destination,
        gateway=source.gateway,
        device=_name(source.index, names, source) if source.index else "",
        source=source.source,
        scope=source.scope,
        flags=source.flags,
        mtu=source.mtu,
        metric=source.metric,
        table=source.table,
        protocol=source.protocol,
        type=source.type,
        next_hops=[
            pb.NextHop(
                device=_name(hop.index, names, source),
                gateway=hop.gateway,
                weight=hop.weight,
                flags=hop.flags,
            )
            for hop in source.next_hops
        ],
        tos=source.tos,
        metrics=dict(source.metrics),
    )


def rule(source: Rule) -> pb.Rule:
    """Return a rule as the agent's message."""
    return pb.Rule(
        family=_family(source.family),
        priority=source.priority,
        table=source.table,
        action=source.action,
        source=source.source,
        destination=source.destination,
        mark=source.mark,
        mask=source.mask,
        iif=source.iif,
        oif=source.oif,
        tos=source.tos,
        flags=source.flags,
        goto=source.goto,
        suppress_prefix=source.suppress_prefix,
        uids=_range(source.uids),
        ip_protocol=source.ip_protocol,
        source_ports=_range(source.source_ports),
        destination_ports=_range(source.destination_ports),
        l3mdev=source.l3mdev,
        protocol=source.protocol,
    )


def neighbour(source: Neighbour, names: Mapping[int, str]) -> pb.ARPNeighbor:
    """Return a neighbour as the agent's message. Raises `ValueError` for a link without a name."""
    return pb.ARPNeighbor(
        toIPAddress=pb.IPAddress(family=_family(source.family), address=source.address),
        device=_name(source.index, names, source),
        lladdr=source.mac,
        state=source.state,
        flags=source.flags,
    )


def _name(index: int, names: Mapping[int, str], of: Route | Neighbour) -> str:
    if index not in names:
        raise ValueError(f"{of}: the guest has not been given link {index}")
    return names[index]


def _family(family: int) -> pb.IPFamily:
    return pb.v6 if family == AF_INET6 else pb.v4


def _range(limits: tuple[int, int] | None) -> pb.Range | None:
    return pb.Range(first=limits[0], last=limits[1]) if limits else None
