"""QEMU devices as values; each renders its own arguments.

Identifiers are fixed, one device of a kind each: a template and its clones must agree on them.
"""

from dataclasses import dataclass
from typing import Protocol

from kata.host import libc


class Device(Protocol):
    """Something that adds arguments to QEMU's command line."""

    def arguments(self) -> list[str]:
        """Return options and their values, in order."""


def escape(value: str) -> str:
    """Double the commas of `value`, as QEMU's option parser wants inside a value."""
    return value.replace(",", ",,")


@dataclass(frozen=True, slots=True)
class Monitor:
    """The QMP monitor on an inherited, connected socket: no path, so nothing to leave behind."""

    fd: int

    def arguments(self) -> list[str]:
        """Return the character device and the monitor on it."""
        return [
            "-chardev", f"socket,id=qmp,fd={self.fd}",
            "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Console:
    """The first serial port on an inherited, connected socket."""

    fd: int

    def arguments(self) -> list[str]:
        """Return the character device and the serial port on it."""
        return [
            "-chardev", f"socket,id=console,fd={self.fd}",
            "-serial", "chardev:console",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgentPort:
    """The virtio-serial port that carries the agent's ttrpc stream."""

    fd: int
    name: str = "agent.channel.0"

    def arguments(self) -> list[str]:
        """Return the controller, the character device and the port."""
        return [
            "-device", "virtio-serial-pci,id=serial0,max_ports=2",
            "-chardev", f"socket,id=agent,fd={self.fd}",
            "-device", f"virtserialport,chardev=agent,name={self.name}",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vsock:
    """A vhost-vsock device with the context id that the host reserved on the inherited fd."""

    fd: int
    cid: int

    def arguments(self) -> list[str]:
        """Return the device."""
        return ["-device", f"vhost-vsock-pci,id=vsock0,vhostfd={self.fd},guest-cid={self.cid}"]


@dataclass(frozen=True, slots=True)
class Entropy:
    """A virtio-rng device fed from a file of the host."""

    source: str

    def arguments(self) -> list[str]:
        """Return the backend and the device."""
        return [
            "-object", f"rng-random,id=rng0,filename={escape(self.source)}",
            "-device", "virtio-rng-pci,rng=rng0",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Generation:
    """The identity of this run of the machine: a new one tells a restored guest's kernel to reseed.

    The guest reads it by ACPI (Microsoft's "Virtual Machine Generation ID").
    """

    def arguments(self) -> list[str]:
        """Return the device."""
        return ["-device", "vmgenid,guid=auto"]


@dataclass(frozen=True, slots=True)
class Slot:
    """An empty PCI Express port, for a device that comes while the machine runs."""

    number: int

    @property
    def bus(self) -> str:
        """The name of the bus that a device is plugged into."""
        return f"slot{self.number}"

    def arguments(self) -> list[str]:
        """Return the port."""
        return [
            "-device",
            f"pcie-root-port,id={self.bus},chassis={self.number},slot={self.number}",
        ]


@dataclass(frozen=True, slots=True)
class Bridge:
    """A PCI bridge with 31 places for devices that come and go while the machine runs.

    Of places behind one bridge the guest's kernel looks at those only that ACPI tells it of; so
    many root ports would each cost it a scan when it boots.
    """

    @property
    def bus(self) -> str:
        """The name of the bus that a device is plugged into."""
        return "bridge0"

    def arguments(self) -> list[str]:
        """Return the bridge; ACPI tells of its devices, so it needs no controller of its own.

        Without windows of its own the firmware would set no addresses aside for what comes later, and
        Linux can widen no window of a bridge that is in use.  A virtio device takes 4 and 16 KiB.
        """
        room = "mem-reserve=1M,pref64-reserve=1M"
        return ["-device", f"pci-bridge,id={self.bus},chassis_nr=100,shpc=off,{room}"]


@dataclass(frozen=True, slots=True)
class Plan9Share:
    """A virtio-9p share, served by QEMU itself."""

    path: str
    tag: str

    CAPABILITIES = frozenset(
        (
            libc.CAP_CHOWN,
            libc.CAP_DAC_OVERRIDE,
            libc.CAP_FOWNER,
            libc.CAP_FSETID,
            libc.CAP_MKNOD,
            libc.CAP_SETFCAP,
        )
    )
    """What serving another's files as its owner takes, and nothing else; virtiofsd keeps the same
    and two to change its user."""

    def arguments(self) -> list[str]:
        """Return the file system backend and the device.

        `multidevs=remap`: the share holds one mount per container, and inode numbers of
        different file systems must not meet.
        """
        options = "security_model=passthrough,multidevs=remap"
        return [
            "-fsdev", f"local,id=share0,path={escape(self.path)},{options}",
            "-device", f"virtio-9p-pci,fsdev=share0,mount_tag={self.tag}",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class VirtioFsShare:
    """A virtio-fs share, served by the virtiofsd that listens on `socket_path`."""

    socket_path: str
    tag: str
    queue_size: int

    def arguments(self) -> list[str]:
        """Return the character device and the vhost-user device."""
        options = f"tag={self.tag},queue-size={self.queue_size}"
        return [
            "-chardev", f"socket,id=share0,path={escape(self.socket_path)}",
            "-device", f"vhost-user-fs-pci,chardev=share0,{options}",
        ]  # fmt: skip
