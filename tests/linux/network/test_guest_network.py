"""A pod's network in a guest: scanned, sent, and set up by a real agent in a namespace of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.pod_namespace import Namespace, namespace

from kata.agent_client.agent import Agent
from kata.network.scan import Layout, scan
from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import types_pb2 as types
from rtnetlink import Link, Netlink, Route
from ttrpc import RpcError, StatusCode
from ttrpc.client import Client

pytestmark = pytest.mark.linux

PROGRAM = Path(__file__).with_name("served_agent.py")
SOURCES = Path(__file__).parents[3] / "src"


class Guest:
    """A namespace, the agent in it, and a client of that."""

    def __init__(self, where: Namespace, client: Client) -> None:
        self.namespace = where
        self.client = client
        self.agent = Agent(client)

    def add_nic(self, name: str, mac: str) -> None:
        """Add a link that is down, as a new device is, but for its other end."""
        self.namespace.ip(f"link add {name} address {mac} type veth peer name {name}-host")
        self.namespace.ip(f"link set {name}-host up")

    async def configure(self, layout: Layout) -> None:
        """Make the calls that an attachment makes."""
        for endpoint in layout.endpoints:
            await self.agent.update_interface(endpoint.link, endpoint.addresses)
        await self.agent.update_routes(layout.routes, layout.rules)
        await self.agent.add_neighbours(layout.neighbours)

    async def update_interface(self, **fields: Any) -> types.Interface:
        request = pb.UpdateInterfaceRequest(interface=types.Interface(**fields))
        return await self.client.call(api.UPDATE_INTERFACE, request)

    async def update_routes(self, *routes: types.Route, rules: Any = ()) -> list[types.Route]:
        request = pb.UpdateRoutesRequest(routes=pb.Routes(Routes=routes), rules=rules)
        return list((await self.client.call(api.UPDATE_ROUTES, request)).Routes)


@asynccontextmanager
async def served(where: Namespace, wait_seconds: float = 10) -> AsyncIterator[Guest]:
    ours, theirs = socket.socketpair()
    arguments = (str(PROGRAM), str(theirs.fileno()), str(wait_seconds))
    process = await asyncio.create_subprocess_exec(
        *where.command(sys.executable, *arguments),
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    client = await Client.from_socket(ours)
    try:
        yield Guest(where, client)
    finally:
        await client.close()
        assert await process.wait() == 0


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A namespace that stands for a guest; its loopback is up, as the agent's boot leaves it."""
    with namespace() as made:
        made.ip("link set lo up")
        yield made


@pytest.fixture
async def guest(machine: Namespace) -> AsyncIterator[Guest]:
    async with served(machine) as running:
        yield running


def fill(pod: Namespace) -> None:
    """Make what CNI's plugins make, and more."""
    pod.ip("link set lo up")
    pod.add_pair("eth0", "10.9.0.2/24", "fd00::2/64")
    pod.add_pair("net1", "10.8.0.2/16", "10.8.1.2/16", "fd08::2/64")
    pod.ip("link set net1 mtu 1400")
    pod.ip("address add 10.6.0.1 peer 10.6.0.2/32 dev net1")
    pod.ip("address add 10.5.0.2/24 broadcast 10.5.0.255 dev net1 noprefixroute")
    pod.ip("route add 169.254.1.1 dev eth0 scope link")
    pod.ip("route add default via 169.254.1.1 dev eth0 metric 7")
    pod.ip("route add 10.70.0.0/16 via 10.9.0.1 mtu 1300 advmss 1200 src 10.9.0.2")
    pod.ip("route add 10.71.0.0/16 nexthop via 10.9.0.1 weight 2 nexthop via 10.8.0.1 weight 9")
    pod.ip("route add 10.72.0.0/16 via 192.168.9.9 dev net1 onlink")
    pod.ip("route add 10.73.0.0/16 via inet6 fd00::9 dev eth0")
    pod.ip("route add default via 10.8.0.1 table 1000 proto static")
    pod.ip("route add blackhole 10.74.0.0/16 metric 9")
    pod.ip("-6 route add default via fd00::1 metric 5")
    pod.ip("-6 route add fd71::/64 nexthop via fd00::1 weight 2 nexthop via fd08::1")
    pod.ip("-6 route add blackhole fd74::/64 metric 9")
    pod.ip("-6 route add fd72::/64 dev net1 mtu 1380 table 1000")
    pod.ip("rule add from 10.8.0.2 table 1000 priority 500")
    pod.ip("rule add not fwmark 0x10/0xff iif eth0 oif net1 table 1000 priority 501")
    pod.ip("rule add ipproto tcp sport 80-90 uidrange 0-5 table 1000 suppress_prefixlength 0")
    pod.ip("-6 rule add to fd09::/64 unreachable priority 502")
    pod.ip("neighbour add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    pod.ip("neighbour add fd00::1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent router")


def pictures(where: Namespace) -> dict[str, Any]:
    """Return all that iproute2 tells of a namespace's network, in whatever order it was made."""
    found: dict[str, Any] = {}
    for command in (
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule",
        "-6 rule",
        "neighbour show nud permanent",
        "address show eth0",
        "address show net1",
    ):
        entries = json.loads(where.ip(f"-j -N -d {command}") or "[]")
        for entry in entries:
            for name in set(entry) & {"ifindex", "linkinfo", "link"}:
                entry.pop(name)
        # A link's other end is the namespace's own, and is not the guest's.
        ours = [entry for entry in entries if not str(entry.get("dev")).endswith("-host")]
        found[command] = sorted(json.dumps(entry, sort_keys=True) for entry in ours)
    return found


def settle(*namespaces: Namespace) -> None:
    """Wait until IPv6 has made an address for each link that is up, checked it, and routes to it."""
    deadline = time.monotonic() + 60
    while not all(_is_settled(namespace) for namespace in namespaces):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_settled(where: Namespace) -> bool:
    up = [one for one in json.loads(where.ip("-j link show up")) if one["ifname"] != "lo"]
    addresses = where.ip("-6 address")
    routes = where.ip("-6 route show table local")
    made = (addresses.count("inet6 fe80:"), routes.count("local fe80:"))
    return made == (len(up), len(up)) and " tentative" not in addresses


async def test_a_guest_has_what_its_pod_has(pod: Namespace, guest: Guest) -> None:
    """As iproute2 tells it, word by word: addresses, routes of all tables, rules, neighbours."""
    fill(pod)
    with Netlink(pod.path) as netlink:
        layout = scan(netlink)
        links = {link.name: link for link in netlink.links()}
    # Names are crossed in the guest, as drivers give them in the order that they are loaded.
    guest.add_nic("eth0", links["net1"].mac)
    guest.add_nic("net1", links["eth0"].mac)
    await guest.configure(layout)
    settle(pod, guest.namespace)
    expected = pictures(pod)
    assert len(expected["-4 route show table all"]) > 15
    assert pictures(guest.namespace) == expected

    await guest.configure(layout)  # once more changes nothing
    assert pictures(guest.namespace) == expected

    pod.ip("route del 10.70.0.0/16")
    pod.ip("route change 10.71.0.0/16 via 10.9.0.9")
    pod.ip("rule del priority 500")
    pod.ip("address del 10.8.1.2/16 dev net1")
    with Netlink(pod.path) as netlink:
        await guest.configure(scan(netlink))
    settle(pod, guest.namespace)
    assert pictures(guest.namespace) == pictures(pod) != expected


async def test_addresses_are_of_use_at_once(pod: Namespace, guest: Guest) -> None:
    """No address is checked for duplicates, not even that which IPv6 makes itself."""
    pod.add_pair("eth0", "fd00::2/64")
    with Netlink(pod.path) as netlink:
        (endpoint,) = scan(netlink).endpoints
    guest.add_nic("new", endpoint.link.mac)
    await guest.agent.update_interface(endpoint.link, endpoint.addresses)
    shown = guest.namespace.ip("-6 address show eth0 scope global")
    assert shown.count("inet6") == 1
    assert "tentative" not in shown
    settle(guest.namespace)  # IPv6 makes its own once the link has a carrier
    shown = guest.namespace.ip("-6 address show eth0")
    assert shown.count("inet6") == 2
    assert "tentative" not in shown
    settings = [f"/proc/sys/net/ipv6/conf/eth0/{name}" for name in ("accept_ra", "autoconf")]
    assert run_in(guest.namespace, "cat", *settings) == "0\n0\n"


def run_in(where: Namespace, *command: str) -> str:
    return subprocess.run(
        where.command(*command), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


async def test_an_interface_is_waited_for(machine: Namespace) -> None:
    """A device that is plugged in shows up at some time after the request."""
    mac = "02:00:00:00:00:77"
    async with served(machine, wait_seconds=120) as guest:
        calling = asyncio.create_task(
            guest.update_interface(hwAddr=mac.upper(), name="eth0", mtu=1280)
        )
        for number in range(3):  # other devices come, too
            guest.add_nic(f"other{number}", f"02:00:00:00:01:0{number}")
        await asyncio.sleep(0.3)
        assert not calling.done()
        guest.add_nic("late", mac)
        async with asyncio.timeout(60):  # long before the time to wait is over
            answer = await calling
        assert (answer.name, answer.hwAddr, answer.mtu) == ("eth0", mac, 1280)
        assert "UP" in json.loads(guest.namespace.ip("-j link show eth0"))[0]["flags"]


async def test_an_interface_that_does_not_come_is_told_of(
    machine: Namespace, capfd: pytest.CaptureFixture[str]
) -> None:
    async with served(machine, wait_seconds=0.2) as guest:
        guest.add_nic("other", "02:00:00:00:00:01")
        with pytest.raises(RpcError, match=r"no interface 02:.*:77 .* other 02:.*:01") as caught:
            await guest.update_interface(hwAddr="02:00:00:00:00:77", name="eth0")
        assert caught.value.code == StatusCode.DEADLINE_EXCEEDED
        await guest.update_interface(hwAddr="02:00:00:00:00:01", name="eth0")
    assert "load virtio_net" in capfd.readouterr().err


async def test_addresses_are_replaced(guest: Guest) -> None:
    guest.add_nic("eth0", "02:00:00:00:00:01")
    await guest.update_interface(hwAddr="02:00:00:00:00:01", name="eth0")
    settle(guest.namespace)  # the address of IPv6's own making is told of, too

    async def addresses(*wanted: str) -> list[str]:
        messages = [
            types.IPAddress(family=types.v6 if ":" in one else types.v4, address=host, mask=length)
            for one in wanted
            for host, _, length in [one.partition("/")]
        ]
        answer = await guest.update_interface(
            hwAddr="02:00:00:00:00:01", name="eth0", IPAddresses=messages
        )
        shown = json.loads(guest.namespace.ip("-j address show eth0"))[0]["addr_info"]
        told = [f"{one.address}/{one.mask}" for one in answer.IPAddresses]
        assert sorted(told) == sorted(f"{one['local']}/{one['prefixlen']}" for one in shown)
        return sorted(set(told) - {"fe80::ff:fe00:1/64"})

    assert await addresses("10.0.0.1/24", "10.0.0.2/24", "fd00::1/64") == [
        "10.0.0.1/24",
        "10.0.0.2/24",
        "fd00::1/64",
    ]
    # The first of a network takes the others with it, and is the one that goes.
    assert await addresses("10.0.0.2/24", "fd00::2/64") == ["10.0.0.2/24", "fd00::2/64"]
    assert await addresses("10.0.0.2/25", "fd00::2/64") == ["10.0.0.2/25", "fd00::2/64"]
    assert await addresses() == []
    assert "fe80::ff:fe00:1" in guest.namespace.ip("address show eth0")


async def test_names_in_use_are_not_taken(guest: Guest) -> None:
    guest.add_nic("eth0", "02:00:00:00:00:01")
    guest.add_nic("eth1", "02:00:00:00:00:02")
    await guest.update_interface(hwAddr="02:00:00:00:00:02", name="eth0")
    names = {one.hwAddr: one.name for one in await interfaces(guest)}
    assert names["02:00:00:00:00:02"] == "eth0"
    assert names["02:00:00:00:00:01"] == "eth1"
    with pytest.raises(RpcError, match="eth0 and in use") as caught:
        await guest.update_interface(hwAddr="02:00:00:00:00:01", name="eth0")
    assert caught.value.code == StatusCode.FAILED_PRECONDITION
    await guest.update_interface(hwAddr="02:00:00:00:00:02", name="wan")  # while it is up
    assert {one.name for one in await interfaces(guest)} >= {"lo", "wan", "eth1"}


async def interfaces(guest: Guest) -> list[types.Interface]:
    answer = await guest.client.call(api.LIST_INTERFACES, pb.ListInterfacesRequest())
    return list(answer.Interfaces)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "eth0"}, "hardware address"),
        ({"hwAddr": "02:00:00:00:00:01", "name": "a-name-of-16-byt"}, "cannot name a link"),
        (
            {
                "hwAddr": "02:00:00:00:00:01",
                "IPAddresses": [types.IPAddress(address="10.0.0.1", mask="255.0.0.0")],
            },
            "255.0.0.0",
        ),
        (
            {
                "hwAddr": "02:00:00:00:00:01",
                "IPAddresses": [types.IPAddress(address="10.0.0", mask="8")],
            },
            "'10.0.0' is no IPv4 address",
        ),
        ({"hwAddr": "02:00:00:00:00:02"}, "two-a and two-b have the hardware address"),
    ],
)
async def test_interfaces_that_are_none_are_refused(
    guest: Guest, fields: dict[str, Any], words: str
) -> None:
    guest.add_nic("eth0", "02:00:00:00:00:01")
    guest.add_nic("two-a", "02:00:00:00:00:02")
    guest.add_nic("two-b", "02:00:00:00:00:02")
    with pytest.raises(RpcError, match=words) as caught:
        await guest.update_interface(**fields)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


async def test_routes_of_an_upstream_runtime(guest: Guest) -> None:
    """Its messages have no metric, table, protocol or type, and come in any order."""
    guest.add_nic("eth0", "02:00:00:00:00:01")
    await guest.update_interface(
        hwAddr="02:00:00:00:00:01",
        name="eth0",
        IPAddresses=[types.IPAddress(address="10.0.0.2", mask="24")],
    )
    settle(guest.namespace)  # the kernel's own routes are listed, too
    answer = await guest.update_routes(
        types.Route(dest="", gateway="169.254.1.1", device="eth0"),
        types.Route(dest="169.254.1.1/32", device="eth0", scope=253),
    )
    assert {(one.dest, one.gateway, one.device) for one in answer if one.family == types.v4} == {
        ("", "169.254.1.1", "eth0"),
        ("169.254.1.1/32", "", "eth0"),
        ("10.0.0.0/24", "", "eth0"),  # the kernel's own
    }
    shown = guest.namespace.ip("route")
    assert shown.splitlines() == [
        "default via 169.254.1.1 dev eth0 ",
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2 ",
        "169.254.1.1 dev eth0 scope link ",
    ]
    listed = await guest.client.call(api.LIST_ROUTES, pb.ListRoutesRequest())
    assert list(listed.Routes) == answer
    await guest.update_routes()
    assert guest.namespace.ip("route").splitlines() == shown.splitlines()[1:2]


async def test_routes_that_the_kernel_refuses_are_told_in_its_words(guest: Guest) -> None:
    with pytest.raises(RpcError, match=r"no interface 'eth9', there are lo") as caught:
        await guest.update_routes(types.Route(dest="10.0.0.0/8", device="eth9"))
    assert caught.value.code == StatusCode.INVALID_ARGUMENT
    with pytest.raises(
        RpcError, match=r"add route 10.0.0.0/8 via 9.9.9.9: Network is unreachable \(Nexthop has"
    ) as caught:
        await guest.update_routes(types.Route(dest="10.0.0.0/8", gateway="9.9.9.9"))
    assert caught.value.code == StatusCode.INTERNAL


async def test_a_route_by_a_link_that_the_guest_has_not_is_no_request(guest: Guest) -> None:
    with pytest.raises(ValueError, match=r"10.0.0.0/8 dev 7: the guest has not been given link 7"):
        await guest.agent.update_routes([Route(2, "10.0.0.0/8", index=7)], ())


async def test_neighbours_of_an_upstream_runtime(guest: Guest) -> None:
    """Without a state they last, and a second one replaces the first."""
    guest.add_nic("eth0", "02:00:00:00:00:01")
    await guest.update_interface(hwAddr="02:00:00:00:00:01", name="eth0")
    for mac in ("02:00:00:00:00:08", "02:00:00:00:00:09"):
        neighbour = types.ARPNeighbor(
            toIPAddress=types.IPAddress(address="10.0.0.9"), device="eth0", lladdr=mac
        )
        neighbours = pb.ARPNeighbors(ARPNeighbors=[neighbour])
        await guest.client.call(
            api.ADD_ARP_NEIGHBORS, pb.AddARPNeighborsRequest(neighbors=neighbours)
        )
    (shown,) = json.loads(guest.namespace.ip("-j neighbour show dev eth0 nud permanent"))
    assert (shown["dst"], shown["lladdr"]) == ("10.0.0.9", "02:00:00:00:00:09")


async def test_interfaces_without_arp(guest: Guest) -> None:
    guest.add_nic("eth0", "02:00:00:00:00:01")
    link = Link(5, "eth0", mac="02:00:00:00:00:01", flags=0x80)
    await guest.agent.update_interface(link, ())
    assert "NOARP" in guest.namespace.ip("link show eth0")
    await guest.agent.update_interface(Link(5, "eth0", mac="02:00:00:00:00:01"), ())
    assert "NOARP" not in guest.namespace.ip("link show eth0")
