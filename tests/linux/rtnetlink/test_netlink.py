"""Our netlink and iproute2 on the same network namespace: each must see what the other made."""

from __future__ import annotations

import errno
import ipaddress
import os
import threading
from collections.abc import Callable
from socket import AF_INET, AF_INET6
from typing import Any

import pytest
from iproute import Namespace

from rtnetlink import (
    Address,
    LinkEvents,
    Neighbour,
    Netlink,
    NetlinkError,
    NextHop,
    Route,
    Rule,
    address,
    route,
    rule,
)
from rtnetlink.namespace import open_in

pytestmark = pytest.mark.linux

IPV4, IPV6 = int(AF_INET), int(AF_INET6)


def test_links_are_those_of_ip(namespace: Namespace, netlink: Netlink) -> None:
    namespace.run("ip link add b0 type bridge")
    namespace.run("ip link set t0 master b0 mtu 1400")
    namespace.run("ip link add link v0 m0 type macvlan mode bridge")
    expected = {one["ifname"]: one for one in namespace.show("ip -d link")}
    found = {one.name: one for one in netlink.links()}
    assert found.keys() == expected.keys()
    by_index = {one.index: one.name for one in found.values()}
    for name, one in found.items():
        printed = expected[name]
        assert one.index == printed["ifindex"]
        assert one.mtu == printed["mtu"]
        assert one.mac == printed["address"]
        assert one.kind == printed.get("linkinfo", {}).get("info_kind", "")
        assert by_index.get(one.parent) == printed.get("link")
        assert by_index.get(one.master) == printed.get("master")
        assert one.up == ("UP" in printed["flags"])
        assert one.loopback == ("LOOPBACK" in printed["flags"])
        assert netlink.link(name) == one


def test_links_are_changed(namespace: Namespace, netlink: Netlink) -> None:
    index = netlink.link("t0").index
    netlink.set_link(index, name="tap7", mtu=1300, mac="02:00:00:00:00:07", up=True, arp=False)
    (printed,) = namespace.show("ip link show tap7")
    assert (printed["mtu"], printed["address"]) == (1300, "02:00:00:00:00:07")
    assert {"UP", "NOARP"} <= set(printed["flags"])
    netlink.set_link(index, up=False)
    assert namespace.show("ip link show tap7")[0]["flags"] == ["BROADCAST", "MULTICAST", "NOARP"]
    netlink.set_link(index, arp=True)
    assert namespace.show("ip link show tap7")[0]["flags"] == ["BROADCAST", "MULTICAST"]
    netlink.delete_link(index)
    with pytest.raises(NetlinkError, match=r"^find link tap7: No such device") as caught:
        netlink.link("tap7")
    assert caught.value.errno == errno.ENODEV


ADDRESSES = [
    Address(0, IPV4, "10.1.0.5", 24, broadcast="10.1.0.255"),
    Address(0, IPV4, "10.9.0.1", 32, peer="10.9.0.2"),
    Address(0, IPV4, "10.8.0.1", 16, flags=address.IFA_F_NOPREFIXROUTE),
    Address(0, IPV4, "169.254.1.1", 16, scope=route.RT_SCOPE_LINK),
    Address(0, IPV6, "fd01::5", 64, flags=address.IFA_F_NODAD),
    Address(0, IPV6, "fd09::1", 128, flags=address.IFA_F_NODAD, peer="fd09::2"),
]


@pytest.mark.parametrize("plain", ADDRESSES, ids=str)
def test_addresses(namespace: Namespace, netlink: Netlink, plain: Address) -> None:
    index = netlink.link("v0").index
    new = _with_index(plain, index)
    netlink.add_address(new)
    (printed,) = [
        one
        for one in namespace.show("ip address show v0")[0]["addr_info"]
        if one["local"] == new.address
    ]
    assert printed["prefixlen"] == new.prefix
    assert printed.get("broadcast", "") == new.broadcast
    assert printed.get("address", "") == new.peer
    assert printed["scope"] == ("link" if new.scope == route.RT_SCOPE_LINK else "global")
    assert printed.get("nodad", False) == bool(new.flags & address.IFA_F_NODAD)
    assert printed.get("noprefixroute", False) == bool(new.flags & address.IFA_F_NOPREFIXROUTE)
    assert not printed.get("tentative")
    (found,) = [one for one in netlink.addresses() if one.address == new.address]
    assert found == _with_index(new, index, new.flags | address.IFA_F_PERMANENT)
    with pytest.raises(NetlinkError, match=f"^add address {plain.address}/.*: File exists"):
        netlink.add_address(new)
    netlink.delete_address(found)
    assert [one for one in netlink.addresses() if one.address == new.address] == []


def _with_index(plain: Address, index: int, flags: int | None = None) -> Address:
    flags = plain.flags if flags is None else flags
    rest = (plain.scope, flags, plain.broadcast, plain.peer)
    return Address(index, plain.family, plain.address, plain.prefix, *rest)


ROUTES: list[Callable[[int, int], Route]] = [
    lambda v0, _: Route(IPV4, gateway="10.1.0.1"),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", index=v0, scope=route.RT_SCOPE_LINK),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", "10.1.0.1", v0, "10.1.0.5", 7, mtu=1300),
    lambda v0, _: Route(IPV4, "10.2.3.4/32", "10.1.0.1", table=1000, protocol=4),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", "fd01::9", v0),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", "192.168.9.9", v0, flags=route.RTNH_F_ONLINK),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", type=route.RTN_UNREACHABLE, table=100),
    lambda v0, _: Route(IPV4, "10.2.0.0/16", "10.1.0.1", tos=16, metrics=((8, 1200), (10, 9))),
    lambda v0, v1: Route(
        IPV4, next_hops=(NextHop(v0, "10.1.0.1", 2), NextHop(v1, weight=256)), metric=3
    ),
    lambda v0, _: Route(IPV6, gateway="fd01::1", index=v0, metric=5),
    lambda v0, _: Route(IPV6, "fd02::/64", index=v0, metric=1024, mtu=1400),
    lambda v0, _: Route(IPV6, "fd02::/64", "fd01::1", v0, "fd01::5", 9, table=1000),
    lambda v0, _: Route(IPV6, "fd02::/64", "fd77::1", v0, flags=route.RTNH_F_ONLINK),
    lambda v0, _: Route(IPV6, "fd02::/64", type=route.RTN_BLACKHOLE, table=77),
    lambda v0, _: Route(
        IPV6, "fd02::/64", next_hops=(NextHop(v0, "fd01::1", 2), NextHop(v0, "fd01::2"))
    ),
]


@pytest.mark.parametrize("make", ROUTES, ids=lambda make: str(make(3, 2)))
def test_routes(namespace: Namespace, netlink: Netlink, make: Callable[[int, int], Route]) -> None:
    v0, v1 = netlink.link("v0").index, netlink.link("v1").index
    namespace.run("ip address add 10.1.0.5/24 dev v0")
    namespace.run("ip address add fd01::5/64 dev v0 nodad")
    new = make(v0, v1)
    netlink.add_route(new)
    (found,) = _not_the_kernels(netlink)
    names = {v0: "v0", v1: "v1", netlink.link("lo").index: "lo"}
    _assert_printed(found, _printed_route(namespace, new), names)
    for field in ("family", "destination", "gateway", "source", "type", "table", "protocol"):
        assert getattr(found, field) == getattr(new, field), field
    for field in ("scope", "mtu", "metrics", "tos"):
        assert getattr(found, field) == getattr(new, field), field
    assert {(hop.index, hop.gateway, hop.weight) for hop in found.next_hops} == {
        (hop.index, hop.gateway, hop.weight) for hop in new.next_hops
    }
    with pytest.raises(NetlinkError, match=r"^add route .*: File exists"):
        netlink.add_route(new)
    netlink.delete_route(found)
    assert _not_the_kernels(netlink) == []
    netlink.add_route(found)  # what was read can be said again
    assert _not_the_kernels(netlink) == [found]


def _not_the_kernels(netlink: Netlink) -> list[Route]:
    return [one for one in netlink.routes() if one.protocol != route.RTPROT_KERNEL]


def _printed_route(namespace: Namespace, wanted: Route) -> dict[str, Any]:
    family = "-4" if wanted.family == IPV4 else "-6"
    destination = wanted.destination.removesuffix("/32") or "default"
    (printed,) = [
        one
        for one in namespace.show(f"ip -N -d {family} route show table {wanted.table}")
        if one["dst"] == destination
    ]
    return printed


def _assert_printed(found: Route, printed: dict[str, Any], names: dict[int, str]) -> None:
    """What ip(8) prints of a route is what we read of it."""
    assert int(printed["protocol"]) == found.protocol
    assert printed.get("metric", 0) == found.metric
    assert printed.get("prefsrc", "") == found.source
    assert _gateway(printed) == found.gateway
    assert printed.get("dev") == names.get(found.index)
    metrics: dict[str, int] = {}
    for some in printed.get("metrics", []):
        metrics |= some
    assert metrics.get("mtu", 0) == found.mtu
    assert (metrics.get("advmss"), metrics.get("hoplimit")) == tuple(
        dict(found.metrics).get(number) for number in (8, 10)
    )
    assert ("onlink" in printed["flags"]) == bool(found.flags & route.RTNH_F_ONLINK)
    assert int(printed["type"]) == found.type
    assert int(printed["scope"]) == found.scope
    hops = [(hop["dev"], _gateway(hop), hop["weight"]) for hop in printed.get("nexthops", [])]
    assert hops == [(names[hop.index], hop.gateway, hop.weight) for hop in found.next_hops]


def _gateway(printed: dict[str, Any]) -> str:
    gateway: str = printed.get("gateway", "") or printed.get("via", {}).get("host", "")
    return gateway


RULES = [
    Rule(IPV4, 50, 1000, source="10.1.0.5/32", protocol=route.RTPROT_BOOT),
    Rule(IPV4, 51, 100, mark=0x10, mask=0xFF, iif="v0", oif="v1", flags=rule.FIB_RULE_INVERT),
    Rule(IPV4, 52, 100, ip_protocol=6, source_ports=(80, 90), uids=(0, 5), tos=16),
    Rule(IPV4, 53, 254, suppress_prefix=0),
    Rule(IPV4, 54, 0, rule.FR_ACT_UNREACHABLE, destination="10.0.0.0/8"),
    Rule(IPV6, 50, 1000, source="fd01::/64", destination_ports=(443, 443)),
    Rule(IPV6, 51, 0, rule.FR_ACT_BLACKHOLE, iif="gone"),
]


@pytest.mark.parametrize("new", RULES, ids=str)
def test_rules(namespace: Namespace, netlink: Netlink, new: Rule) -> None:
    before = netlink.rules()
    netlink.add_rule(new)
    (found,) = [one for one in netlink.rules() if one not in before]
    flags = found.flags & rule.FIB_RULE_INVERT  # the kernel adds that a link is missing
    assert (found.source, found.destination, flags) == (new.source, new.destination, new.flags)
    for field in ("family", "priority", "table", "action", "mark", "mask", "iif", "oif", "tos"):
        assert getattr(found, field) == getattr(new, field), field
    for field in ("suppress_prefix", "uids", "ip_protocol", "source_ports", "destination_ports"):
        assert getattr(found, field) == getattr(new, field), field
    family = "-4" if new.family == IPV4 else "-6"
    (printed,) = [
        one for one in namespace.show(f"ip -N {family} rule") if one["priority"] == new.priority
    ]
    assert int(printed.get("table", 0)) == found.table
    assert ("not" in printed) == bool(found.flags & rule.FIB_RULE_INVERT)
    assert _network(printed, "src") == found.source
    assert _network(printed, "dst") == found.destination
    assert int(printed.get("fwmark", "0"), 16) == found.mark
    assert printed.get("iif", "") == found.iif
    assert printed.get("sport_start") == (found.source_ports or (None,))[0]
    with pytest.raises(NetlinkError, match=r"^add rule .*: File exists"):
        netlink.add_rule(new)
    netlink.delete_rule(found)
    assert netlink.rules() == before


def _network(printed: dict[str, Any], key: str) -> str:
    if printed.get(key, "all") == "all":
        return ""
    whole = ipaddress.ip_address(printed[key]).max_prefixlen
    return f"{printed[key]}/{printed.get(f'{key}len', whole)}"


@pytest.mark.parametrize(
    ("family", "who"), [(IPV4, "10.1.0.9"), (IPV6, "fd01::9")], ids=["IPv4", "IPv6"]
)
def test_neighbours(namespace: Namespace, netlink: Netlink, family: int, who: str) -> None:
    index = netlink.link("v0").index
    netlink.add_neighbour(Neighbour(index, family, who, "02:00:00:00:00:01"))
    new = Neighbour(index, family, who, "02:00:00:00:00:09")
    netlink.add_neighbour(new)
    assert new in netlink.neighbours()
    (printed,) = [one for one in namespace.show("ip neighbour") if one["dst"] == who]
    assert (printed["lladdr"], printed["state"]) == (new.mac, ["PERMANENT"])


def test_redirection_is_what_tc_would_make(namespace: Namespace, netlink: Netlink) -> None:
    v0, t0 = netlink.link("v0").index, netlink.link("t0").index
    netlink.add_ingress(v0)
    netlink.redirect(v0, t0)
    namespace.run("tc qdisc add dev v1 ingress")
    namespace.run(
        "tc filter add dev v1 parent ffff: protocol all prio 1 u32 match u32 0 0 "
        "action mirred egress redirect dev t0"
    )
    ours, theirs = (
        namespace.show(f"tc filter show dev {name} parent ffff:") for name in ("v0", "v1")
    )
    for one in (*ours, *theirs):
        for action in one.get("options", {}).get("actions", []):
            action.pop("index")
    assert len(ours) == 3
    assert ours == theirs
    with pytest.raises(NetlinkError, match=r"^add ingress queue of link") as caught:
        netlink.add_ingress(v0)
    assert caught.value.errno == errno.EEXIST
    netlink.delete_ingress(v0)
    assert [one["dev"] for one in namespace.show("tc qdisc show") if one["kind"] == "ingress"] == [
        "v1"
    ]


def test_redirected_frames_arrive(namespace: Namespace, netlink: Netlink) -> None:
    """Sent into v1, a frame comes in by v0 and leaves by w0, whose other end counts it."""
    namespace.run("ip link add w0 type veth peer name w1")
    for name in ("w0", "w1"):
        netlink.set_link(netlink.link(name).index, up=True)
    netlink.add_ingress(netlink.link("v0").index)
    netlink.redirect(netlink.link("v0").index, netlink.link("w0").index)

    def received() -> int:
        count: int = namespace.show("ip -s link show w1")[0]["stats64"]["rx"]["bytes"]
        return count

    frame = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(1000)  # of no protocol we know
    before = received()
    with open_in(namespace.path, lambda: _packet_socket("v1")) as sender:
        sender.send(frame)
    assert received() - before >= len(frame)


def _packet_socket(name: str) -> Any:
    import socket

    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((name, 0))
    return opened


def test_the_caller_stays_where_it_is(namespace: Namespace) -> None:
    where = os.readlink("/proc/thread-self/ns/net")
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    with Netlink(namespace.path) as inside, Netlink() as outside:
        assert {one.name for one in inside.links()} == {"lo", "v0", "v1", "t0"}
        assert "v0" not in {one.name for one in outside.links()}
        assert repr(inside) == f"<netlink to {namespace.path}, open>"
    assert repr(inside) == f"<netlink to {namespace.path}, closed>"
    assert os.readlink("/proc/thread-self/ns/net") == where
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("path", ["/nowhere", "/dev/null"])
def test_a_namespace_that_is_none_is_an_error(path: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=path):
        Netlink(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_refusals_give_the_kernels_own_words(netlink: Netlink) -> None:
    with pytest.raises(NetlinkError) as caught:
        netlink.add_route(Route(IPV4, "10.0.0.0/8", "9.9.9.9"))
    assert caught.value.errno == errno.ENETUNREACH
    assert str(caught.value) == (
        "add route 10.0.0.0/8 via 9.9.9.9: Network is unreachable (Nexthop has invalid gateway)"
    )


def test_lists_longer_than_a_datagram(namespace: Namespace, netlink: Netlink) -> None:
    index = netlink.link("v0").index
    for number in range(1000):
        netlink.add_route(
            Route(IPV4, f"10.{number >> 8}.{number & 255}.0/24", index=index, table=1000)
        )
    ours = [one for one in netlink.routes() if one.table == 1000]
    assert len(ours) == len(namespace.show("ip route show table 1000")) == 1000


def test_a_list_that_changes_meanwhile_is_read_again(
    namespace: Namespace, netlink: Netlink
) -> None:
    """Routes come and go in another thread; each list is whole, as those that stay are all in it."""
    index = netlink.link("v0").index
    staying = {f"10.1.{number}.0/24" for number in range(256)}
    for destination in staying:
        netlink.add_route(Route(IPV4, destination, index=index))
    stop = threading.Event()
    changes = 0

    def change() -> None:
        nonlocal changes
        with Netlink(namespace.path) as other:
            while not stop.is_set():
                coming = Route(IPV4, f"10.0.{changes % 256}.0/24", index=index)
                other.add_route(coming)
                other.delete_route(coming)
                changes += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            found = [one.destination for one in netlink.routes() if one.destination in staying]
            assert sorted(found) == sorted(staying)
    finally:
        stop.set()
        thread.join()
    assert changes


def test_events_tell_of_links(namespace: Namespace, netlink: Netlink) -> None:
    import select

    subscription: list[LinkEvents] = []

    def subscribe() -> Any:
        events = LinkEvents()
        subscription.append(events)
        return events

    open_in(namespace.path, subscribe)
    with subscription[0] as events:
        assert events.take() == []
        namespace.run("ip link add w0 type veth peer name w1")
        assert select.select([events], [], [], 10)[0]
        told = events.take()
        assert told is not None
        assert {one.name for one in told} == {"w0", "w1"}
        for number in range(3000):  # more than a socket keeps
            netlink.set_link(told[0].index, mtu=1300 + number % 2)
        assert events.take() is None
