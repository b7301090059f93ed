"""Devices that come to a machine that is there already, and go again, as monitor commands.

Whatever a device needs of the host is handed over as a descriptor: QEMU can open nothing by path.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kata.hypervisor.port import Disk, NetworkInterface
from kata.hypervisor.qemu.devices import Bridge, Slot, VirtioFsShare

_DISK_SET = 1000
"""The first number of the sets that disks' descriptors are in; each disk has a set of its own."""


class Command(NamedTuple):
    """A command of the monitor; it is sent `descriptor` first, unless that is -1."""

    name: str
    arguments: Mapping[str, object]
    descriptor: int = -1


class HotPlug(Protocol):
    """Something that is added to a machine that is there already."""

    def commands(self) -> list[Command]:
        """Return the commands that add it, in order."""


class Removable(HotPlug, Protocol):
    """Something that can be taken away again."""

    @property
    def device_id(self) -> str:
        """How the machine calls the device, which the guest has to let go of first."""

    def backend_removal(self) -> list[Command]:
        """Return the commands that remove what was behind the device, in order."""


@dataclass(frozen=True, slots=True)
class PluggedVirtioFsShare:
    """A virtio-fs share in a slot: no saved machine can hold one, so a restored one is given it."""

    share: VirtioFsShare
    slot: Slot

    def commands(self) -> list[Command]:
        """Return the commands that add the character device and the vhost-user device."""
        address = {"type": "unix", "data": {"path": self.share.socket_path}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        return [
            Command("chardev-add", {"id": "share0", "backend": backend}),
            Command(
                "device_add",
                {
                    "driver": "vhost-user-fs-pci",
                    "bus": self.slot.bus,
                    "chardev": "share0",
                    "tag": self.share.tag,
                    "queue-size": self.share.queue_size,
                },
            ),
        ]


@dataclass(frozen=True, slots=True)
class PluggedProcessor:
    """The processor at socket `number`, the first one being number 0.

    One that `sleeps` has been there from the start, and only counts from now on.
    """

    number: int
    model: str
    sleeps: bool = False

    def commands(self) -> list[Command]:
        """Return the command that adds the processor; the guest has to bring it into use."""
        if self.sleeps:
            return []
        place = {"socket-id": self.number, "core-id": 0, "thread-id": 0}
        driver = {"driver": self.model, "id": f"cpu{self.number}"}
        return [Command("device_add", {**driver, **place})]


@dataclass(frozen=True, slots=True)
class PluggedMemory:
    """A memory module of `mib` MiB, which other processes can map when it is `shared`.

    The machine's first memory is number 0; modules are counted from 1.
    """

    number: int
    mib: int
    shared: bool

    @property
    def device_id(self) -> str:
        """How the machine calls the module."""
        return f"dimm{self.number}"

    @property
    def _memory(self) -> str:
        return f"ram{self.number}"

    def commands(self) -> list[Command]:
        """Return the commands that add the memory and the module with it."""
        kind = "memory-backend-memfd" if self.shared else "memory-backend-ram"
        backend = {
            "qom-type": kind,
            "id": self._memory,
            "size": self.mib << 20,
            "share": self.shared,
        }
        module = {"driver": "pc-dimm", "id": self.device_id, "memdev": self._memory}
        return [Command("object-add", backend), Command("device_add", module)]

    def backend_removal(self) -> list[Command]:
        """Return the command that frees the memory of a module that could not be added."""
        return [Command("object-del", {"id": self._memory})]


@dataclass(frozen=True, slots=True)
class Nic:
    """A virtio network interface, in a machine from its start or plugged in."""

    interface: NetworkInterface
    bus: str = ""

    @property
    def device_id(self) -> str:
        """The interface's name with a suffix: that of its backend has none."""
        return f"{self.interface.name}-nic"

    def arguments(self) -> list[str]:
        """Return the backend, whose descriptors QEMU inherits, and the device."""
        taps, vhosts = (
            [str(fd) for fd in fds] for fds in (self.interface.taps, self.interface.vhosts)
        )
        backend = self._backend(taps, vhosts)
        return ["-netdev", json.dumps(backend), "-device", json.dumps(self._device())]

    def commands(self) -> list[Command]:
        """Return the commands that hand the descriptors over and add backend and device."""
        given: list[Command] = []
        names: dict[str, list[str]] = {"tap": [], "vhost": []}
        for kind, fds in (("tap", self.interface.taps), ("vhost", self.interface.vhosts)):
            for number, descriptor in enumerate(fds):
                name = f"{self.interface.name}-{kind}-{number}"
                names[kind].append(name)
                given.append(Command("getfd", {"fdname": name}, descriptor))
        return [
            *given,
            Command("netdev_add", self._backend(names["tap"], names["vhost"])),
            Command("device_add", self._device()),
        ]

    def backend_removal(self) -> list[Command]:
        """Return the command that closes QEMU's descriptors."""
        return [Command("netdev_del", {"id": self.interface.name})]

    def _backend(self, taps: list[str], vhosts: list[str]) -> dict[str, object]:
        backend: dict[str, object] = {
            "type": "tap",
            "id": self.interface.name,
            "fds": ":".join(taps),
        }
        if vhosts:
            backend |= {"vhost": True, "vhostfds": ":".join(vhosts)}
        return backend

    def _device(self) -> dict[str, object]:
        queues = len(self.interface.taps)
        device: dict[str, object] = {
            "driver": "virtio-net-pci",
            "id": self.device_id,
            "netdev": self.interface.name,
            "mac": self.interface.mac,
            "romfile": "",  # nobody boots from it
            "disable-legacy": "on",  # it would take addresses for I/O, which the bridge has none of
        }
        if queues > 1:  # one vector a queue, and one each for configuration and control
            device |= {"mq": True, "vectors": 2 * queues + 2}
        return device | ({"bus": self.bus} if self.bus else {})


@dataclass(frozen=True, slots=True)
class PluggedDisk:
    """A virtio disk; `number` tells it from all others that the machine ever had."""

    disk: Disk
    number: int
    is_device: bool

    @property
    def device_id(self) -> str:
        """The disk's name with a suffix: that of its backend has none."""
        return f"{self.disk.name}-disk"

    def commands(self) -> list[Command]:
        """Return the commands that hand the descriptor over and add backend and device."""
        fd_set = _DISK_SET + self.number
        backend = {
            "node-name": self.disk.name,
            "driver": "host_device" if self.is_device else "file",
            "filename": f"/dev/fdset/{fd_set}",
            "read-only": self.disk.read_only,
            "discard": "unmap",
        }
        device = {
            "driver": "virtio-blk-pci",
            "id": self.device_id,
            "drive": self.disk.name,
            "serial": self.disk.name,
            "bus": Bridge().bus,
            "disable-legacy": "on",  # it would take addresses for I/O, which the bridge has none of
        }
        return [
            Command("add-fd", {"fdset-id": fd_set}, self.disk.descriptor),
            Command("blockdev-add", backend),
            Command("device_add", device),
        ]

    def backend_removal(self) -> list[Command]:
        """Return the commands that close QEMU's descriptor."""
        return [
            Command("blockdev-del", {"node-name": self.disk.name}),
            Command("remove-fd", {"fdset-id": _DISK_SET + self.number}),
        ]
