"""How big a virtual machine is to be: pure arithmetic.

One rule for the whole of its life: what the configuration gives every guest, plus what its containers
may use.  So a container with a limit of N MiB can use N MiB, and the guest's kernel, its agent and
containers without limits have the rest.
"""

from dataclasses import dataclass

from kata.config import HypervisorSettings
from kata.host import capacity
from kata.resources.demand import MILLIONTHS, Demand


@dataclass(frozen=True, slots=True)
class Size:
    """Processors, and memory in MiB."""

    vcpus: int
    memory_mib: int

    def bounded(self, most: "Size") -> "Size":
        """Return the size without what is above `most`."""
        return Size(min(self.vcpus, most.vcpus), min(self.memory_mib, most.memory_mib))

    @classmethod
    def of_host(cls) -> "Size":
        """Return the size of this host."""
        return cls(capacity.processors(), capacity.memory_mib())


def smallest(settings: HypervisorSettings, host: Size) -> Size:
    """Return the size of a guest that nobody asks anything of."""
    return Size(settings.boot_vcpus(host.vcpus), settings.default_memory)


def largest(settings: HypervisorSettings, host: Size) -> Size:
    """Return what no guest exceeds: the configuration's maxima, or what the host has."""
    return Size(settings.ceiling_vcpus(host.vcpus), settings.ceiling_memory(host.memory_mib))


def wanted(settings: HypervisorSettings, demand: Demand, host: Size) -> Size:
    """Return the size that holds `demand`; it may be above what is possible.

    Processors are rounded up after they were summed.  What is requested without a limit is not
    added: the guest is at least as big.
    """
    base = smallest(settings, host)
    given = settings.default_vcpus
    first = round(given * MILLIONTHS) if 0 < given <= base.vcpus else base.vcpus * MILLIONTHS
    processor = max(first + demand.processor, demand.requested)
    return Size(
        max(base.vcpus, -(-processor // MILLIONTHS)),
        base.memory_mib + -(-demand.memory // (1 << 20)),
    )
