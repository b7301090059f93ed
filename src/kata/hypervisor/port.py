"""What the sandbox needs of a virtual machine, whichever monitor runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kata.host.channel import AgentChannel


class HypervisorError(Exception):
    """The virtual machine could not be started or has ended; the text names cause and remedy."""


class RestoreError(HypervisorError):
    """A saved machine could not be restored; one that boots may well start."""


@dataclass(frozen=True, slots=True)
class SharedDirectory:
    """A directory of the host that the guest may mount by its tag.

    The daemon on `socket_path` serves it (virtio-fs), or the monitor itself when that is empty
    (virtio-9p).
    """

    path: str
    tag: str
    socket_path: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine at rest: the files with its memory, and with the state of its devices."""

    memory: str
    state: str


@dataclass(frozen=True, slots=True)
class Growth:
    """What is plugged into a machine beyond its first size: processors, and memory in MiB."""

    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """A network interface of the guest, called `name` in the machine, with the address `mac`.

    `taps` are open descriptors of a tap device of the host, one for each pair of queues, and `vhosts`
    as many of /dev/vhost-net, or none.  All are the caller's to close.
    """

    name: str
    mac: str
    taps: tuple[int, ...]
    vhosts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device of the guest, called `name` in the machine: a file or device of the host.

    `descriptor` is open as the guest may use it, and the caller's to close.  Its serial number in
    the guest is `name`, at most 20 characters.
    """

    name: str
    descriptor: int
    read_only: bool


Addition = NetworkInterface | Disk
"""What a machine can be given while it runs, and what can be taken from it again."""


class VirtualMachine(Protocol):
    """A started virtual machine."""

    @property
    def pid(self) -> int:
        """Process id of the monitor on the host."""

    @property
    def channel(self) -> AgentChannel:
        """How to reach the agent."""

    async def wait(self) -> str:
        """Wait until the machine has ended, for whatever reason, and say in words why."""

    def console(self, lines: int) -> Sequence[str]:
        """Return the last lines of the guest's console."""

    @property
    def vcpus(self) -> int:
        """How many processors the machine has; those plugged in are of use once the agent is told."""

    @property
    def memory_mib(self) -> int:
        """How much memory the machine has."""

    async def grow(self, growth: Growth) -> None:
        """Plug processors and memory in; returns when the guest has taken the memory.

        Raises `HypervisorError`: without room the machine is what it was, and what was plugged in
        before another failure stays.
        """

    async def settle(self) -> None:
        """Wait until the guest has taken all memory that was plugged in; raises `HypervisorError`."""

    async def plug(self, addition: Addition) -> None:
        """Add a device to the running machine; raises `HypervisorError`, and it has none then."""

    async def unplug(self, addition: Addition) -> None:
        """Take a device from the running machine; returns when the guest has let go of it.

        Raises `HypervisorError`; the device may be there still.
        """

    async def stop(self, *, at_once: bool = False) -> None:
        """End the machine; returns when its process is gone.  May be called again.

        `at_once` is for one that has stopped answering: nothing is asked of it.
        """
