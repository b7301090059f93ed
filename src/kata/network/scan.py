"""What CNI has prepared in a pod's network namespace, as values.

Loopback is every kernel's own.  Links without an address are left out: they are those that a kernel
makes in each new namespace (tunl0, sit0, ...), or parts of others.  Routes and addresses that the kernel
adds by itself the guest's kernel adds, too.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from kata.network.errors import NetworkError
from rtnetlink import Address, Link, Neighbour, Netlink, Route, Rule

_PROTOCOL_KERNEL: Final = 2
_TABLE_LOCAL: Final = 255
_LOOPBACK: Final = 1
"""The number of the loopback link, in every namespace."""

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

    def within(self, indices: Collection[int]) -> "Layout":
        """Return what of it a guest can be that has only the links of these numbers."""
        return Layout(
            tuple(each for each in self.endpoints if each.link.index in indices),
            tuple(route for route in self.routes if _leads_to(route, indices)),
            self.rules,
            tuple(each for each in self.neighbours if each.index in indices),
        )


def scan(netlink: Netlink) -> Layout:
    """Return what there is in the namespace of `netlink`.

    Raises `NetworkError` for a link that carries no Ethernet frames, and `NetlinkError`.
    """
    endpoints = _endpoints(netlink)
    routes = tuple(route for route in netlink.routes() if _is_made(route))
    neighbours = tuple(
        each for each in netlink.neighbours() if each.state & _STATE_PERMANENT and each.mac
    )
    rules = tuple(rule for rule in netlink.rules() if rule.priority not in _DEFAULT_RULES)
    found = Layout(endpoints, routes, rules, neighbours)
    return found.within({endpoint.link.index for endpoint in endpoints})


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


def _is_made(route: Route) -> bool:
    """Tell whether somebody made a route, and not the kernel by itself."""
    return route.protocol != _PROTOCOL_KERNEL and route.table != _TABLE_LOCAL


def _leads_to(route: Route, indices: Collection[int]) -> bool:
    """Tell whether a route leads to some of the links, or nowhere."""
    hops = {hop.index for hop in route.next_hops} or ({route.index} if route.index else set())
    # IPv6 has its routes to nowhere lead to loopback.
    return hops <= {*indices, _LOOPBACK}
