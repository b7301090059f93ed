"""How big a machine is, and how much bigger it can become."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kata.hypervisor.port import Growth, HypervisorError
from kata.hypervisor.qemu.command import MachinePlan, Memory, has_sleepers, processor_model
from kata.hypervisor.qemu.hotplug import PluggedMemory, PluggedProcessor

_BLOCK, _LARGE_BLOCK = 128, 2048
"""MiB that Linux on x86 takes memory in (`MIN_MEMORY_BLOCK_SIZE`, and `MAX_BLOCK_SIZE` for a machine
with more than `_LARGE` at boot)."""

_LARGE = 64 << 10
"""MiB of memory (`MEM_SIZE_FOR_LARGE_BLOCK`)."""

_SUCCESS = 0
"""What a guest says of a device that it has taken (ACPI, "_OST")."""

Plugged = PluggedProcessor | PluggedMemory


@dataclass(slots=True)
class Room:
    """The size of one machine, and what is left of its slots and maxima."""

    vcpus: int
    most_vcpus: int
    model: str
    memory: Memory
    has_sleepers: bool = False
    """Whether the processors beyond its size are there, asleep."""
    modules: list[PluggedMemory] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    """The modules that the guest has not taken yet by their ids, in MiB."""
    refused: int = 0
    """MiB that it has not been able to take; they stay plugged in."""

    @classmethod
    def of(cls, plan: MachinePlan) -> "Room":
        """Return the room of a machine that has nothing plugged in."""
        model = processor_model(plan.accelerator)
        sleepers = has_sleepers(plan.accelerator)
        return cls(plan.vcpus, plan.max_vcpus, model, plan.memory, has_sleepers=sleepers)

    @property
    def memory_mib(self) -> int:
        """The machine's memory, with the modules that its guest has not refused."""
        return self._plugged_mib - self.refused

    @property
    def _plugged_mib(self) -> int:
        return self.memory.mib + sum(module.mib for module in self.modules)

    def additions(self, growth: Growth) -> list[Plugged]:
        """Return what to plug in; memory is rounded up to what a guest takes.

        Raises `HypervisorError`, which names the setting that has to change.
        """
        processors = range(self.vcpus, self.vcpus + growth.vcpus)
        if processors.stop > self.most_vcpus:
            raise HypervisorError(
                f"the virtual machine has {self.vcpus} vCPUs and can have {self.most_vcpus}, not "
                f"{processors.stop}: the host has no more, or default_maxvcpus in "
                "[hypervisor.qemu] is too low"
            )
        found: list[Plugged] = [
            PluggedProcessor(number, self.model, sleeps=self.has_sleepers) for number in processors
        ]
        if growth.memory_mib > 0:
            found.append(self._module(growth.memory_mib))
        return found

    def _module(self, mib: int) -> PluggedMemory:
        most, slots = self.memory.most_mib, self.memory.slots
        has = self._plugged_mib
        if has + mib > most:
            raise HypervisorError(
                f"the virtual machine has {has} MiB and can have {most}, not {has + mib}: lower the "
                "limit, or raise default_maxmemory in [hypervisor.qemu]"
            )
        if len(self.modules) >= slots:
            raise HypervisorError(
                f"all {slots} memory slots of the virtual machine are in use: raise memory_slots in "
                "[hypervisor.qemu] and start the pod anew, or give it its memory at the start"
            )
        block = _BLOCK if self.memory.mib < _LARGE else _LARGE_BLOCK
        rounded = -(-mib // block) * block
        if has + rounded > most:
            rounded -= block
        if not rounded:
            raise HypervisorError(
                f"the virtual machine can have {most} MiB, {most - has} more than now, "
                f"and takes {block} at once: raise default_maxmemory in [hypervisor.qemu]"
            )
        return PluggedMemory(len(self.modules) + 1, rounded, self.memory.shared)

    def take(self, plugged: Plugged) -> None:
        """Count something that is about to be plugged in: the guest may be faster than QEMU."""
        if isinstance(plugged, PluggedProcessor):
            self.vcpus += 1
        else:
            self.modules.append(plugged)
            self.waiting[plugged.device_id] = plugged.mib

    def give_back(self, plugged: Plugged) -> None:
        """Undo `take` for what could not be plugged in."""
        if isinstance(plugged, PluggedProcessor):
            self.vcpus -= 1
        else:
            self.modules.remove(plugged)
            self.waiting.pop(plugged.device_id, None)

    def hear(self, event: Mapping[str, object]) -> bool:
        """Take in what the guest says of a module; tell whether it is one that was awaited."""
        data = event.get("data")
        told = data.get("info") if isinstance(data, dict) else None
        device = told.get("device") if isinstance(told, dict) else None
        if not isinstance(told, dict) or not isinstance(device, str) or device not in self.waiting:
            return False
        mib = self.waiting.pop(device)
        if told.get("status") != _SUCCESS:
            self.refused += mib
        return True
