"""A socket to the kernel's network, in this or another network namespace.

Every call is answered by the kernel before it returns, so there is nothing to await; one thread at
a time may use a socket.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from rtnetlink import address, internet, link, message, neighbour, route, rule, traffic
from rtnetlink.address import Address
from rtnetlink.endpoint import open_endpoint, receive, refusal, send
from rtnetlink.errors import NetlinkError
from rtnetlink.link import Link
from rtnetlink.message import Message
from rtnetlink.namespace import open_in
from rtnetlink.neighbour import Neighbour
from rtnetlink.route import Route
from rtnetlink.rule import Rule

_DUMPS: Final = 20
"""How often a list is asked for that changes while it is read."""

_Value = TypeVar("_Value", Link, Address, Route, Neighbour, Rule)


class Netlink:
    """A connection to the kernel's network.

    `netns` is the file of a network namespace, such as /run/netns/NAME; without one it is the
    caller's. The calling thread stays where it is. Raises `OSError` if it cannot be opened; methods
    raise `NetlinkError` for what the kernel refuses, and `ValueError` for what cannot be asked.
    """

    def __init__(self, netns: str | None = None) -> None:
        self._socket = open_endpoint() if netns is None else open_in(netns, open_endpoint)
        self._where = netns or "this namespace"
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        state = "closed" if self._socket.fileno() < 0 else "open"
        return f"<netlink to {self._where}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        self._socket.close()

    # -- links ---------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """Return every link, in the order of their indexes as a rule."""
        return self._list(link.RTM_GETLINK, link.RTM_NEWLINK, link.all_of_them(), link.decode)

    def link(self, name: str) -> Link:
        """Return the link of a name. Raises `NetlinkError` ENODEV."""
        answer = self._ask(link.RTM_GETLINK, 0, link.named(name), f"find link {name}")
        return next(link.decode(m.payload) for m in answer if m.type == link.RTM_NEWLINK)

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        name: str | None = None,
        arp: bool | None = None,
    ) -> None:
        """Change what is given of a link; before Linux 6.2 one that is up keeps its name."""
        settings = (("up", up), ("mtu", mtu), ("mac", mac), ("name", name), ("arp", arp))
        words = " ".join(f"{word} {value}" for word, value in settings if value is not None)
        payload = link.change(index, up=up, mtu=mtu, mac=mac, name=name, arp=arp)
        self._ask(link.RTM_NEWLINK, 0, payload, f"set link {index} {words}")

    def add_macvtap(self, name: str, parent: int) -> None:
        """Add a macvtap link that takes all frames of its parent, whose address it has, too."""
        payload = link.passthru_macvtap(name, parent)
        self._create(link.RTM_NEWLINK, payload, f"add macvtap {name} on link {parent}")

    def delete_link(self, index: int) -> None:
        """Delete a link, and the other end of a pair with it."""
        self._ask(link.RTM_DELLINK, 0, link.numbered(index), f"delete link {index}")

    # -- addresses -----------------------------------------------------------------------------

    def addresses(self) -> list[Address]:
        """Return every address of IPv4 and IPv6."""
        request = address.all_of_them()
        return self._list(address.RTM_GETADDR, address.RTM_NEWADDR, request, address.decode)

    def add_address(self, new: Address) -> None:
        """Add an address. Raises `NetlinkError` EEXIST if the link has it."""
        self._create(address.RTM_NEWADDR, address.encode(new), f"add address {new}")

    def delete_address(self, old: Address) -> None:
        """Delete an address. Raises `NetlinkError` EADDRNOTAVAIL if the link has it not."""
        self._ask(address.RTM_DELADDR, 0, address.encode(old), f"delete address {old}")

    # -- routes, neighbours, rules -------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Return every route of IPv4 and IPv6, of all tables: the kernel's own in `local`, too."""
        return self._list(route.RTM_GETROUTE, route.RTM_NEWROUTE, route.all_of_them(), route.decode)

    def add_route(self, new: Route) -> None:
        """Add a route. Raises `NetlinkError` EEXIST if there is one of its kind."""
        self._create(route.RTM_NEWROUTE, route.encode(new), f"add route {new}")

    def delete_route(self, old: Route) -> None:
        """Delete a route. Raises `NetlinkError` ESRCH if there is none like it."""
        self._ask(route.RTM_DELROUTE, 0, route.encode(old), f"delete route {old}")

    def neighbours(self) -> list[Neighbour]:
        """Return every neighbour that the kernel knows of, also those it need not ask for."""
        request = neighbour.all_of_them()
        kinds = neighbour.RTM_GETNEIGH, neighbour.RTM_NEWNEIGH
        return self._list(*kinds, request, neighbour.decode)

    def add_neighbour(self, new: Neighbour) -> None:
        """Add a neighbour, or replace what is known of it."""
        flags = message.NLM_F_CREATE | message.NLM_F_REPLACE
        payload = neighbour.encode(new)
        self._ask(neighbour.RTM_NEWNEIGH, flags, payload, f"add neighbour {new}")

    def rules(self) -> list[Rule]:
        """Return every rule, by family and priority; each family has three of the kernel's own."""
        return self._list(rule.RTM_GETRULE, rule.RTM_NEWRULE, rule.all_of_them(), rule.decode)

    def add_rule(self, new: Rule) -> None:
        """Add a rule. Raises `NetlinkError` EEXIST if there is the same."""
        self._create(rule.RTM_NEWRULE, rule.encode(new), f"add rule {new}")

    def delete_rule(self, old: Rule) -> None:
        """Delete the first rule that fits all that is said. Raises `NetlinkError` ENOENT."""
        self._ask(rule.RTM_DELRULE, 0, rule.encode(old), f"delete rule {old}")

    # -- traffic -------------------------------------------------------------------------------

    def ingresses(self) -> set[int]:
        """Return the indexes of the links that have an ingress queue, or one like it (clsact)."""
        messages = self._ask(
            traffic.RTM_GETQDISC, message.NLM_F_DUMP, traffic.all_of_them(), "list each queue"
        )
        found = {traffic.ingress_of(m.payload) for m in messages if m.type == traffic.RTM_NEWQDISC}
        return found - {0}

    def add_ingress(self, index: int) -> None:
        """Give a link an ingress queue (ffff:). Raises `NetlinkError` EEXIST if it has one."""
        payload = traffic.ingress(index)
        self._create(traffic.RTM_NEWQDISC, payload, f"add ingress queue of link {index}")

    def delete_ingress(self, index: int) -> None:
        """Delete a link's ingress queue with its filters. Raises `NetlinkError`."""
        payload = traffic.ingress(index)
        self._ask(traffic.RTM_DELQDISC, 0, payload, f"delete ingress queue of link {index}")

    def redirect(self, index: int, to_index: int) -> None:
        """Make all that comes in by one link, which has an ingress queue, leave by another."""
        payload = traffic.redirection(index, to_index)
        self._create(traffic.RTM_NEWTFILTER, payload, f"redirect link {index} to link {to_index}")

    # -- inside --------------------------------------------------------------------------------

    def _list(
        self, kind: int, answer: int, payload: bytes, decode: Callable[[bytes], _Value]
    ) -> list[_Value]:
        name = decode.__module__.rpartition(".")[2]
        for _ in range(_DUMPS):
            messages = self._ask(kind, message.NLM_F_DUMP, payload, f"list each {name}")
            if any(m.flags & message.NLM_F_DUMP_INTR for m in messages):
                continue
            return [
                decode(m.payload)
                for m in messages
                # Multicast routing and others have routes and rules too, in families of their own.
                if m.type == answer and (kind == link.RTM_GETLINK or _is_internet(m))
            ]
        raise NetlinkError(errno.EAGAIN, f"list each {name}: it changed {_DUMPS} times meanwhile")

    def _create(self, kind: int, payload: bytes, asked: str) -> None:
        self._ask(kind, message.NLM_F_CREATE | message.NLM_F_EXCL, payload, asked)

    def _ask(self, kind: int, flags: int, payload: bytes, asked: str) -> list[Message]:
        """Send a request and return what comes back up to and with the kernel's verdict."""
        number = next(self._numbers) & 0xFFFFFFFF
        flags |= message.NLM_F_REQUEST
        if flags & message.NLM_F_DUMP != message.NLM_F_DUMP:
            flags |= message.NLM_F_ACK
        send(self._socket, Message(kind, flags, number, payload))
        answers: list[Message] = []
        while True:
            for one in receive(self._socket):
                if one.sequence != number:
                    continue  # of a request whose answer was not waited for
                answers.append(one)
                if one.type in (message.NLMSG_ERROR, message.NLMSG_DONE):
                    verdict = message.acknowledgement(one)
                    if verdict.errno:
                        raise refusal(asked, verdict)
                    return answers


def _is_internet(one: Message) -> bool:
    return bool(one.payload) and one.payload[0] in internet.FAMILIES
