"""A pod's network namespace, attached to a guest: each link of the one is an interface of the other."""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from kata.agent_client.agent import Agent
from kata.host import netns
from kata.host.tap import open_tap
from kata.hypervisor.port import HypervisorError, NetworkInterface, VirtualMachine
from kata.network import macvtap, tcfilter
from kata.network.errors import NetworkError
from kata.network.scan import Endpoint, Layout, scan
from rtnetlink import Link, Netlink, NetlinkError

_VHOST = "/dev/vhost-net"

_Connect = Callable[[Netlink, Link, str, int], tuple[int, ...]]


def _plain_tap(_netlink: Netlink, _link: Link, tap: str, queues: int) -> tuple[int, ...]:
    """Make a tap device that whoever runs the pod connects himself."""
    return open_tap(tap, queues)


_MODELS: dict[str, _Connect] = {
    "tcfilter": tcfilter.connect,
    "macvtap": macvtap.connect,
    "none": _plain_tap,
}
"""How a link reaches the guest, by the value of `internetworking_model`."""


@dataclass(slots=True)
class Attached:
    """A link of the pod and the interface of the guest that it is connected with."""

    endpoint: Endpoint
    interface: NetworkInterface
    is_open: bool = True
    """Whether we have its descriptors, which no machine has been given yet."""

    def close(self) -> None:
        """Close our descriptors, once; QEMU has its own."""
        if self.is_open:
            self.is_open = False
            _close((*self.interface.taps, *self.interface.vhosts))


class Attachment:
    """The links of one namespace, from `attach` to `detach`.

    `model` is a value of `internetworking_model`, `queues` the pairs of queues of each interface.
    """

    def __init__(self, path: str, model: str, *, queues: int, vhost: bool) -> None:
        self.path = path
        self._model = model
        self._queues = queues
        self._vhost = vhost and os.path.exists(_VHOST)
        self._attached: list[Attached] = []
        self._found = self._told = Layout((), (), (), ())  # in the namespace, and to the guest
        self._made = 0

    def __repr__(self) -> str:
        names = ", ".join(each.endpoint.link.name for each in self._attached)
        return f"<attachment of {self.path}: {names or 'nothing'}>"

    @property
    def interfaces(self) -> list[NetworkInterface]:
        """What the machine is to have."""
        return [each.interface for each in self._attached]

    def attach(self) -> list[NetworkInterface]:
        """Connect every link that is not connected yet and return the new interfaces.

        Raises `NetworkError`; what was new is not connected then.
        """
        try:
            return netns.inside(self.path, self._attach)
        except NetlinkError as error:
            raise NetworkError(f"the pod's network in {self.path}: {error}") from error
        except OSError as error:
            raise NetworkError(
                f"cannot connect the guest to the pod's network in {self.path}: {error}"
            ) from error

    def _attach(self) -> list[NetworkInterface]:
        new: list[Attached] = []
        known = {each.endpoint.link.index for each in self._attached}
        with Netlink() as netlink, ExitStack() as undo:
            found = scan(netlink)
            for endpoint in found.endpoints:
                if endpoint.link.index not in known:
                    attached = self._connect(netlink, endpoint)
                    undo.callback(self._disconnect, netlink, attached)
                    new.append(attached)
            undo.pop_all()
        self._found = found
        self._attached += new
        return [each.interface for each in new]

    def _connect(self, netlink: Netlink, endpoint: Endpoint) -> Attached:
        number = self._made
        self._made += 1
        vhosts = self._open_vhosts()
        try:
            taps = _MODELS[self._model](netlink, endpoint.link, f"tap{number}_kata", self._queues)
        except BaseException:
            _close(vhosts)
            raise
        return Attached(endpoint, NetworkInterface(f"net{number}", endpoint.link.mac, taps, vhosts))

    def _open_vhosts(self) -> tuple[int, ...]:
        opened: list[int] = []
        try:
            while self._vhost and len(opened) < self._queues:
                opened.append(os.open(_VHOST, os.O_RDWR | os.O_CLOEXEC))
        except BaseException:
            _close(opened)
            raise
        return tuple(opened)

    def _disconnect(self, netlink: Netlink, attached: Attached) -> None:
        attached.close()
        if self._model == "tcfilter":
            tcfilter.disconnect(netlink, attached.endpoint.link)
        elif self._model == "macvtap":
            macvtap.disconnect(netlink, attached.endpoint.link)

    def renew(self) -> None:
        """Have the interfaces fit for another machine, after one that has ended.

        The kernel lets nobody have a vhost device that somebody has had.  Raises `OSError`.
        """
        for each in self._attached:
            vhosts = self._open_vhosts()
            _close(each.interface.vhosts)
            each.interface = replace(each.interface, vhosts=vhosts)

    def handed_over(self) -> None:
        """Close our descriptors: the machine has its own, and no other will be started."""
        for each in self._attached:
            each.close()

    async def plug_new(self, machine: VirtualMachine, agent: Agent) -> bool:
        """Give a running guest what has come since `attach`; tell whether anything has.

        Raises `NetworkError`, and `RpcError`; what the guest has not been given or told then, the
        next call tries again.  One interface that cannot be plugged in keeps no other from it.
        """
        self.attach()
        failures: list[str] = []
        for each in [one for one in self._attached if one.is_open]:
            try:
                await machine.plug(each.interface)
            except BaseException as error:
                self._drop(each)
                if not isinstance(error, HypervisorError):
                    raise
                failures.append(f"{each.endpoint.link.name}: {error}")
            else:
                each.close()
        news = self._layout() != self._told
        if news:
            await self.configure(agent)
        if failures:
            raise NetworkError("; ".join(failures))
        return news

    def _drop(self, attached: Attached) -> None:
        """Have a link be as if it had never been connected."""
        self._attached.remove(attached)

        def disconnect() -> None:
            with Netlink() as netlink:
                self._disconnect(netlink, attached)

        with suppress(OSError):  # the namespace has gone, and the link with it
            netns.inside(self.path, disconnect)
        attached.close()

    def _layout(self) -> Layout:
        """Return what the guest's network can be with the interfaces that it has."""
        return self._found.within({each.endpoint.link.index for each in self._attached})

    async def configure(self, agent: Agent) -> None:
        """Have the guest's interfaces be what the pod's links are; raises `RpcError`."""
        layout = self._layout()
        for endpoint in layout.endpoints:
            await agent.update_interface(endpoint.link, endpoint.addresses)
        await agent.update_routes(layout.routes, layout.rules)
        if layout.neighbours:
            await agent.add_neighbours(layout.neighbours)
        self._told = layout

    def detach(self) -> None:
        """Give the links back to the host's stack; what is gone already is no error."""
        with suppress(OSError):
            netns.inside(self.path, self._detach)
        self._attached.clear()

    def _detach(self) -> None:
        with Netlink() as netlink:
            for each in self._attached:
                self._disconnect(netlink, each)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
