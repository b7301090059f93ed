"""The guest's network: links with names and addresses, routes, rules and neighbours, as the host says.

The links are the virtual machine's; whoever plugs them in tells them apart by their hardware address.
All containers share them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from kata_agent import network_messages as messages
from kata_api.agent import types_pb2 as pb
from rtnetlink import Address, Link, LinkEvents, MessageError, Netlink, NetlinkError, Route, Rule
from rtnetlink.link import IFF_NOARP
from rtnetlink.route import RT_SCOPE_LINK, RT_TABLE_LOCAL, RTPROT_KERNEL
from ttrpc import RpcError, StatusCode

WAIT_SECONDS = 10.0
"""How long an interface may take to show up; upstream waits for a second, on a processor's own speed."""

_ATTEMPTS = 16
"""How often an interface that has just appeared may take the name that another is to have."""

_DRIVER = "virtio_net"
# The host says all that is to be known of the network, and nobody else has the guest's addresses:
# without this each of IPv6 would be of no use for its first second.
_IPV6_SETTINGS = {"accept_ra": "0", "autoconf": "0", "accept_dad": "0"}

_Value = TypeVar("_Value", Address, Route)


class Network:
    """The network of the namespace that the agent is in.

    ``load_module`` makes a driver available by name. Methods raise ``RpcError``, and ``NetlinkError`` with the kernel's reason; what was done
    before a failure stays, and every call may be repeated.
    """

    def __init__(self, load_module: Callable[[str, str], None]) -> None:
        self._load = load_module

    async def update_interface(self, wanted: pb.Interface) -> pb.Interface:
        """Give the link of a hardware address its name, MTU and addresses and bring it up.

        Waits for the link if it is not there yet. Addresses that are not asked for go, but those
        of IPv6 that every link has. Returns the interface as it is then.
        """
        with _as_requested(), Netlink() as netlink:
            link = await self._link(netlink, wanted.hwAddr.lower())
            addresses = [messages.to_address(one, link.index) for one in wanted.IPAddresses]
            if wanted.name and wanted.name != link.name:
                _rename(netlink, link, wanted.name)
            if wanted.mtu:
                netlink.set_link(link.index, mtu=wanted.mtu)
            _prepare_ipv6(wanted.name or link.name)
            netlink.set_link(link.index, up=True, arp=not wanted.raw_flags & IFF_NOARP)
            _replace_addresses(netlink, link.index, addresses)
            now = next(one for one in netlink.links() if one.index == link.index)
            return messages.from_link(now, netlink.addresses())

    def update_routes(self, routes: Iterable[pb.Route], rules: Iterable[pb.Rule]) -> list[pb.Route]:
        """Make these the routes and rules that the guest has; return its routes.

        What every kernel makes by itself stays, and such in the request is left to the guest's kernel.
        """
        with _as_requested(), Netlink() as netlink:
            index_of = _indexes(netlink.links())
            wanted = [
                messages.to_route(one, index_of) for one in routes if one.protocol != RTPROT_KERNEL
            ]
            _replace_routes(netlink, wanted)
            _replace_rules(netlink, [messages.to_rule(one) for one in rules])
        return self.routes()

    def add_neighbours(self, neighbours: Iterable[pb.ARPNeighbor]) -> None:
        """Add neighbours, or replace what is known of them."""
        with _as_requested(), Netlink() as netlink:
            index_of = _indexes(netlink.links())
            for one in neighbours:
                netlink.add_neighbour(messages.to_neighbour(one, index_of))

    def interfaces(self) -> list[pb.Interface]:
        """Return every link with its addresses."""
        with Netlink() as netlink:
            addresses = netlink.addresses()
            return [messages.from_link(link, addresses) for link in netlink.links()]

    def routes(self) -> list[pb.Route]:
        """Return every route, but those to the guest itself."""
        with Netlink() as netlink:
            names = {link.index: link.name for link in netlink.links()}
            return [
                messages.from_route(one, lambda index: names.get(index, ""))
                for one in netlink.routes()
                if one.table != RT_TABLE_LOCAL
            ]

    async def _link(self, netlink: Netlink, mac: str) -> Link:
        """Return the link of a hardware address, waiting for it to be plugged in."""
        if not mac:
            raise ValueError("an interface is found by its hardware address, and none is given")
        found = _of_address(netlink, mac)
        if found is not None:
            return found
        self._load(_DRIVER, "")
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        with LinkEvents() as events:
            loop.add_reader(events.fileno(), news.set)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    while (found := _of_address(netlink, mac)) is None:
                        await news.wait()
                        events.take()  # whatever it is, the list of links tells more
                        news.clear()
                    return found
            except TimeoutError:
                raise RpcError(
                    StatusCode.DEADLINE_EXCEEDED,
                    f"no interface {mac} appeared within {WAIT_SECONDS:g} s, there are "
                    f"{', '.join(f'{one.name} {one.mac}' for one in netlink.links())}; check that "
                    "the hypervisor has added it and that the guest has its driver",
                ) from None
            finally:
                loop.remove_reader(events.fileno())


@contextmanager
def _as_requested() -> Iterator[None]:
    """Blame the request for values that are none."""
    try:
        yield
    except MessageError as error:
        raise RpcError(StatusCode.INTERNAL, f"the kernel's network: {error}") from error
    except ValueError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error


def _of_address(netlink: Netlink, mac: str) -> Link | None:
    found = [link for link in netlink.links() if link.mac == mac and not link.loopback]
    if len(found) > 1:
        raise ValueError(
            f"{' and '.join(link.name for link in found)} have the hardware address {mac}; give "
            "each interface one of its own"
        )
    return found[0] if found else None


def _indexes(links: list[Link]) -> Callable[[str], int]:
    indexes = {link.name: link.index for link in links}

    def index_of(name: str) -> int:
        if name not in indexes:
            raise ValueError(f"there is no interface {name!r}, there are {', '.join(indexes)}")
        return indexes[name]

    return index_of


def _rename(netlink: Netlink, link: Link, name: str) -> None:
    """Give a link a name; another that has it and is not in use gets the link's own name for it.

    Interfaces that were just plugged in appear meanwhile, and the kernel gives each the first free
    name: the one that is wanted, or the one that becomes free.
    """
    for left in reversed(range(_ATTEMPTS)):
        other = next((one for one in netlink.links() if one.name == name), None)
        if other is not None and other.up:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"the interface {other.mac} is called {name} and in use; give {link.mac} another "
                "name",
            )
        if link.up:  # before Linux 6.2 such a link cannot be renamed
            netlink.set_link(link.index, up=False)
        if other is not None:
            netlink.set_link(other.index, name=f"kata{other.index}")
        try:
            netlink.set_link(link.index, name=name)
        except NetlinkError as error:
            if error.errno != errno.EEXIST or not left:
                raise
            continue
        if other is not None:
            with suppress(NetlinkError):  # taken again; it gets the name that it is to have later
                netlink.set_link(other.index, name=link.name)
        return


def _prepare_ipv6(name: str) -> None:
    for setting, value in _IPV6_SETTINGS.items():
        with (
            suppress(FileNotFoundError),  # a kernel without IPv6
            open(f"/proc/sys/net/ipv6/conf/{name}/{setting}", "w", encoding="ascii") as file,
        ):
            file.write(value)


def _replace_addresses(netlink: Netlink, index: int, wanted: list[Address]) -> None:
    for present in _addresses(netlink, index):
        plain = messages.comparable_address(present)
        is_everywhere = present.family == messages.IPV6 and present.scope == RT_SCOPE_LINK
        if plain not in wanted and not is_everywhere:
            _delete(netlink.delete_address, present)
    left = [messages.comparable_address(present) for present in _addresses(netlink, index)]
    for one in wanted:
        if one not in left:
            netlink.add_address(one)


def _addresses(netlink: Netlink, index: int) -> list[Address]:
    return [one for one in netlink.addresses() if one.index == index]


def _replace_routes(netlink: Netlink, wanted: list[Route]) -> None:
    present = []
    for one in netlink.routes():
        if one.protocol == RTPROT_KERNEL:
            continue
        if messages.comparable_route(one) in wanted:
            present.append(messages.comparable_route(one))
        else:
            _delete(netlink.delete_route, one)
    # A gateway must be on the way of another route, which has none.
    for one in sorted(wanted, key=_has_gateway):
        if one not in present:
            _add_route(netlink, one)


def _add_route(netlink: Netlink, new: Route) -> None:
    """Add a route, in place of the one that came with an address and leads there, too.

    CNI's plugin ptp has taken that from the pod, so that all goes by way of the host.
    """
    try:
        netlink.add_route(new)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        for one in netlink.routes():
            if one.protocol == RTPROT_KERNEL and _place(one) == _place(new):
                _delete(netlink.delete_route, one)
        netlink.add_route(new)


def _place(one: Route) -> tuple[int, str, int, int]:
    """Return what two routes cannot have in common."""
    return (one.family, one.destination, one.table, one.metric)


def _has_gateway(one: Route) -> bool:
    return bool(one.gateway) or any(hop.gateway for hop in one.next_hops)


def _replace_rules(netlink: Netlink, wanted: list[Rule]) -> None:
    """Add first: for a moment there are too many, and never too few to find a route by."""
    before = netlink.rules()
    present = [messages.comparable_rule(one) for one in before]
    kept = [*messages.DEFAULT_RULES, *(messages.comparable_rule(one) for one in wanted)]
    for new in wanted:
        if messages.comparable_rule(new) not in (*present, *messages.DEFAULT_RULES):
            netlink.add_rule(new)
    for old in before:
        if messages.comparable_rule(old) not in kept:
            netlink.delete_rule(old)


def _delete(delete: Callable[[_Value], None], value: _Value) -> None:
    """Delete what may have gone with something else: addresses with the first of their network."""
    try:
        delete(value)
    except NetlinkError as error:
        if error.errno not in (errno.ESRCH, errno.EADDRNOTAVAIL):
            raise
