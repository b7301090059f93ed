"""A pod's namespace attached to taps: what is connected, what is told to a guest, what is left."""

import asyncio
import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from lab.pod_namespace import Namespace

from kata.agent_client.agent import Agent
from kata.config import Configuration
from kata.host import netns
from kata.hypervisor.port import HypervisorError, NetworkInterface, VirtualMachine
from kata.network import remains
from kata.network.attachment import Attachment
from kata.network.errors import NetworkError
from kata.network.scan import scan
from kata.sandbox.errors import StartError
from kata.sandbox.pod_network import PodNetwork
from rtnetlink import Link, Netlink, Route
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux

_VIRTIO_HEADER = 10


def _attachment(pod: Namespace, model: str = "tcfilter", queues: int = 1) -> Attachment:
    return Attachment(pod.path, model, queues=queues, vhost=False)


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_frames_go_both_ways_between_link_and_tap(pod: Namespace, model: str) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    attachment = _attachment(pod, model)
    (interface,) = attachment.attach()
    (tap,) = interface.taps
    outside = netns.inside(pod.path, lambda: _packet_socket("eth0-host"))
    try:
        frame = bytes.fromhex(interface.mac.replace(":", "")) + bytes(6) + b"\x88\xb5" + b"in" * 30
        outside.send(frame)
        assert frame in _frames(tap)
        back = (
            b"\xff" * 6 + bytes.fromhex(interface.mac.replace(":", "")) + b"\x88\xb5" + b"out" * 20
        )
        os.write(tap, bytes(_VIRTIO_HEADER) + back)
        assert _received(outside, back)
    finally:
        outside.close()
        attachment.detach()


def _packet_socket(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    made.bind((name, 0x88B5))
    made.settimeout(5)
    return made


def _frames(tap: int) -> list[bytes]:
    """Return what comes out of a tap device, up to and with the first frame of our protocol."""
    frames: list[bytes] = []
    while select.select([tap], [], [], 5)[0]:
        frames.append(os.read(tap, 65536)[_VIRTIO_HEADER:])
        if frames[-1][12:14] == b"\x88\xb5":
            break
    return frames


def _received(outside: socket.socket, frame: bytes) -> bool:
    while True:
        if outside.recv(65536) == frame:
            return True


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_everything_is_given_back(pod: Namespace, model: str) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    pod.add_pair("net1", "10.8.0.2/24")
    before, links = _descriptors(), pod.ip("-o link show")
    attachment = _attachment(pod, model)
    assert [each.name for each in attachment.attach()] == ["net0", "net1"]
    assert remains.exist(pod.path)
    assert len(pod.ip("-o link show").splitlines()) == len(links.splitlines()) + 2
    attachment.detach()
    attachment.detach()
    assert pod.ip("-o link show") == links
    assert not remains.exist(pod.path)
    assert _descriptors() == before
    assert threading.active_count() == 1


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_what_a_dead_shim_has_left_is_replaced(pod: Namespace, model: str) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    dead = _attachment(pod, model)
    dead.attach()
    dead.handed_over()  # the tap is gone with its last descriptor, the link's filter is not
    assert remains.exist(pod.path)
    successor = _attachment(pod, model)
    assert len(successor.attach()) == 1
    successor.handed_over()
    remains.remove(pod.path)
    assert not remains.exist(pod.path)


def test_nothing_of_the_host_s_own_namespace_counts_as_left(
    pod: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal may name /proc/PID/ns/net, and the number be another process's by now."""
    pod.add_pair("eth0", "10.9.0.2/24")
    attachment = _attachment(pod)
    attachment.attach()
    with monkeypatch.context() as host:
        host.setattr(netns, "_OWN", pod.path)
        assert not remains.exist(pod.path)
        remains.remove(pod.path)
    assert remains.exist(pod.path)
    attachment.detach()


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_several_queues(pod: Namespace, model: str) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    attachment = _attachment(pod, model, queues=3)
    (interface,) = attachment.attach()
    assert len(interface.taps) == 3
    attachment.detach()


def test_another_machine_gets_vhost_devices_that_nobody_has_had(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vhost-net").touch()
    monkeypatch.setattr("kata.network.attachment._VHOST", str(tmp_path / "vhost-net"))
    pod.add_pair("eth0", "10.9.0.2/24")
    before = _descriptors()
    attached = Attachment(pod.path, "tcfilter", queues=2, vhost=True)
    (first,) = attached.attach()
    os.lseek(first.vhosts[0], 7, os.SEEK_SET)  # a mark of whoever had it
    during = len(_descriptors())
    attached.renew()
    (second,) = attached.interfaces
    assert (second.name, second.taps) == (first.name, first.taps)
    assert [os.lseek(fd, 0, os.SEEK_CUR) for fd in second.vhosts] == [0, 0]
    assert len(_descriptors()) == during
    attached.detach()
    assert _descriptors() == before


@pytest.mark.parametrize("queues", [1, 2])
def test_a_second_sandbox_leaves_the_first_its_network(pod: Namespace, queues: int) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    first, second = (_attachment(pod, queues=queues) for _ in range(2))
    first.attach()
    with pytest.raises(NetworkError, match="Device or resource busy"):
        second.attach()
    with Netlink(pod.path) as netlink:
        assert netlink.link("eth0").index in netlink.ingresses()
    first.detach()


class _Machine:
    """A machine that takes a moment, and the descriptors that were open when it took them.

    It refuses as many as `refusals` say, one for each time that it is given something.
    """

    def __init__(self, *refusals: bool, moment: float = 0.0) -> None:
        self._moment = moment
        self.taken: list[str] = []
        self.macs: list[str] = []
        self._refusals = list(refusals)

    async def plug(self, interface: NetworkInterface) -> None:
        await asyncio.sleep(self._moment)
        if self._refusals and self._refusals.pop(0):
            raise HypervisorError(f"no slot for {interface.name}")
        self.taken += [os.readlink(f"/proc/self/fd/{tap}") for tap in interface.taps]
        self.macs.append(interface.mac)


class _Agent:
    """A guest that takes down which interfaces and routes it is told of, unless it is `deaf`."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.told: list[str] = []

    async def update_interface(self, link: Link, _addresses: Any) -> None:
        if self.deaf:
            raise RpcError(StatusCode.INTERNAL, "it does not listen")
        self.told.append(link.name)

    async def update_routes(self, routes: Sequence[Route], _rules: Any) -> None:
        self.told += [route.destination for route in routes]


def _late(pod: Namespace) -> PodNetwork:
    """Return the network of a pod that had no interface when its guest was started."""
    network = PodNetwork(pod.path, cast("Configuration", None))
    network._attachment = _attachment(pod)
    return network


async def test_who_asks_meanwhile_closes_nothing_that_is_being_handed_over(pod: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    network, machine = _late(pod), _Machine()
    guest = cast("VirtualMachine", machine), cast("Agent", _Agent())
    await asyncio.gather(network.update(*guest), network.update(*guest))
    assert machine.taken == ["/dev/net/tun"]
    network.disconnect()


async def test_an_interface_that_cannot_be_plugged_in_is_tried_again(
    pod: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    before = _descriptors()
    for name, number in (("eth0", 9), ("net1", 8), ("net2", 7)):
        pod.add_pair(name, f"10.{number}.0.2/24")
    pod.ip("route add 10.6.0.0/16 via 10.9.0.1")
    pod.ip("route add 10.5.0.0/16 via 10.8.0.1")
    network, machine, agent = _late(pod), _Machine(False, True, False, True), _Agent()
    guest = cast("VirtualMachine", machine), cast("Agent", agent)
    await network.update(*guest, expected=False)
    assert machine.macs == []  # nothing to make up for: a container pays nothing
    with pytest.raises(StartError, match=r"new interfaces: net1: no slot for net1$"):
        await network.update(*guest)
    assert agent.told == ["eth0", "net2", "10.6.0.0/16"]  # the others have come, with their routes
    assert pod.tc("filter show dev net1 ingress") == ""
    assert _descriptors() == before
    await network.update(*guest, expected=False)  # which is no failure of whoever comes next
    assert agent.told == ["eth0", "net2", "10.6.0.0/16"]
    await network.update(*guest, expected=False)
    assert len(machine.macs) == 3
    assert sorted(agent.told[3:]) == ["10.5.0.0/16", "10.6.0.0/16", "eth0", "net1", "net2"]
    assert "mirred" in pod.tc("filter show dev net1 ingress")
    await network.update(*guest, expected=False)
    await network.update(*guest)
    assert len(machine.macs) == 3
    assert len(agent.told) == 8
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "net1: no slot for net1; the next container is an occasion to try again"
    )
    network.disconnect()
    assert not remains.exist(pod.path)
    assert _descriptors() == before


async def test_what_the_guest_was_not_told_it_is_told_the_next_time(pod: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    network, machine, agent = _late(pod), _Machine(), _Agent(deaf=True)
    guest = cast("VirtualMachine", machine), cast("Agent", agent)
    with pytest.raises(StartError, match="it does not listen"):
        await network.update(*guest)
    agent.deaf = False
    await network.update(*guest)
    assert agent.told == ["eth0"]
    assert len(machine.macs) == 1
    network.disconnect()


async def test_who_gives_up_leaves_nothing_half_connected(pod: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    before = _descriptors()
    network, slow, machine = _late(pod), _Machine(moment=60), _Machine()
    guest = cast("VirtualMachine", machine), cast("Agent", _Agent())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await network.update(cast("VirtualMachine", slow), guest[1])
    assert not remains.exist(pod.path)
    assert _descriptors() == before
    await network.update(*guest)
    assert len(machine.macs) == 1
    network.disconnect()


def test_the_model_none_connects_nothing(pod: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24")
    attachment = _attachment(pod, model="none")
    assert len(attachment.attach()) == 1
    assert "tap0_kata" in pod.ip("-o link show")
    assert not remains.exist(pod.path)
    attachment.detach()


def test_what_is_scanned(pod: Namespace) -> None:
    pod.ip("link set lo up")
    pod.add_pair("eth0", "10.9.0.2/24", "fd00::2/64")
    pod.add_pair("net1", "10.8.0.2/24")
    pod.add_pair("idle")
    pod.ip("route add default via 10.9.0.1 metric 7")
    pod.ip("route add 10.7.0.0/16 nexthop via 10.9.0.1 weight 2 nexthop via 10.8.0.1")
    pod.ip("-6 route add default via fd00::1")
    pod.ip("route add 10.6.0.0/16 via 10.8.0.1 table 100")
    pod.ip("route add blackhole 10.5.0.0/16")
    pod.ip("rule add from 10.8.0.2 table 100 priority 500")
    pod.ip("neighbour add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    with Netlink(pod.path) as netlink:
        found = scan(netlink)
    assert {each.link.name: each.link.mtu for each in found.endpoints} == {
        "eth0": 1450,
        "net1": 1450,
    }
    eth0 = next(each for each in found.endpoints if each.link.name == "eth0")
    assert {(a.address, a.prefix) for a in eth0.addresses} == {("10.9.0.2", 24), ("fd00::2", 64)}
    assert {(r.destination, r.metric, r.table, r.type) for r in found.routes} == {
        ("", 7, 254, 1),
        ("10.7.0.0/16", 0, 254, 1),
        ("", 1024, 254, 1),
        ("10.6.0.0/16", 0, 100, 1),
        ("10.5.0.0/16", 0, 254, 6),
    }
    multipath = next(r for r in found.routes if r.destination == "10.7.0.0/16")
    assert sorted(hop.gateway for hop in multipath.next_hops) == ["10.8.0.1", "10.9.0.1"]
    assert [(r.priority, r.source, r.table) for r in found.rules] == [(500, "10.8.0.2/32", 100)]
    assert [(n.address, n.mac) for n in found.neighbours] == [("10.9.0.1", "02:00:00:00:00:01")]


def test_a_link_without_ethernet_is_refused_by_name(pod: Namespace) -> None:
    pod.ip("tuntap add mode tun name vpn0")
    pod.ip("address add 10.4.0.2/24 dev vpn0")
    before = _descriptors()
    with pytest.raises(NetworkError, match=r"interface vpn0 .*Ethernet frames only"):
        _attachment(pod).attach()
    assert _descriptors() == before


def test_a_namespace_that_is_gone_is_told_of() -> None:
    with pytest.raises(NetworkError, match="/run/netns/absent"):
        Attachment("/run/netns/absent", "tcfilter", queues=1, vhost=False).attach()
    assert not remains.exist("/run/netns/absent")


def test_the_header_is_the_kernel_s() -> None:
    assert struct.calcsize("=BBHHHH") == _VIRTIO_HEADER  # struct virtio_net_hdr
