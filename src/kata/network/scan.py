"""What CNI has prepared in a pod's network namespace, as values.

Loopback is every kernel's own.  Links without an address are left out: they are those that a kernel
makes in each new namespace (tunl0, sit0, ...), or parts of others.  Routes and addresses that the kernel
adds by itself the guest's kernel adds, too.
"""

from dataclasses import dataclass
from typing import Final

from kata.network.errors import NetworkError
from rtnetlink import Address, Link, Neighbour, Netlink, Route, Rule

_PROTOCOL_KERNEL: Final = 2
_TABLE_LOCAL: Final = 255
_SCOPE_LINK: Final = 253
_SCOPE_HOST: Final = 254
_STATE_PERMANENT: Final = 0x80
_DEFAULT_RULES: Final = frozenset({0, 32766, 32767})
"""Priorities of the rules that each namespace has from the start; see ip-rule(8)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A link that the guest is given, with its addresses."""

    link: Link
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All that the guest's network is to be."""

    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    neighbours: tuple[Neighbour, ...]


def scan(netlink: Netlink) -> Layout:
    """Return what there is in the namespace of `netlink`.

    Raises `NetworkError` for a link that carries no Ethernet frames, and `NetlinkError`.
    """
    endpoints = _endpoints(netlink)
    indices = {endpoint.link.index for endpoint in endpoints}
    routes = tuple(route for route in netlink.routes() if _is_made(route, indices))
    neighbours = tuple(
        each
        for each in netlink.neighbours()
        if each.state & _STATE_PERMANENT and each.index in indices and each.mac
    )
    rules = tuple(rule for rule in netlink.rules() if rule.priority not in _DEFAULT_RULES)
    return Layout(endpoints, routes, rules, neighbours)


def _endpoints(netlink: Netlink) -> tuple[Endpoint, ...]:
    made: dict[int, list[Address]] = {}
    for address in netlink.addresses():
        if address.scope not in (_SCOPE_LINK, _SCOPE_HOST):
            made.setdefault(address.index, []).append(address)
    endpoints = []
    for link in netlink.links():
        addresses = made.get(link.index)
        if link.loopback or not addresses:
            continue
        if not link.mac:
            raise NetworkError(
                f"the pod's interface {link.name} ({link.kind or 'of no kind'}) has no Ethernet "
                "address; a guest can be given interfaces that carry Ethernet frames only"
            )
        endpoints.append(Endpoint(link, tuple(addresses)))
    return tuple(endpoints)


def _is_made(route: Route, indices: set[int]) -> bool:
    """Tell whether somebody made a route, and it leads to links of the guest or nowhere."""
    if route.protocol == _PROTOCOL_KERNEL or route.table == _TABLE_LOCAL:
        return False
    hops = {hop.index for hop in route.next_hops} or ({route.index} if route.index else set())
    return hops <= indices
