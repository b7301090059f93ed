"""From the configuration to the machine that it describes."""

from kata.config import Configuration
from kata.host import capacity
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.qemu.command import MOST_EMULATED, MachinePlan, Memory
from kata.hypervisor.qemu.devices import Device

_DEBUG_CONSOLE = ("agent.debug_console", "agent.debug_console_vport=1026")
"""What lets the host run processes in the guest; agents of upstream's serve a shell on that port."""


def guest_memory(configuration: Configuration, *, shared: bool, path: str = "") -> Memory:
    """Return the memory that a configuration describes, backed by the file at `path` if any."""
    settings = configuration.hypervisor
    most = settings.ceiling_memory(capacity.memory_mib())
    return Memory(settings.default_memory, shared, path, settings.memory_slots, most)


def machine_plan(
    configuration: Configuration,
    name: str,
    accelerator: Accelerator,
    devices: tuple[Device, ...],
    memory: Memory,
    *,
    incoming: bool = False,
) -> MachinePlan:
    """Return the plan of a machine called `name` with `devices` and `memory`."""
    settings = configuration.hypervisor
    host_cpus = capacity.processors()
    most = settings.ceiling_vcpus(host_cpus)
    if accelerator.is_emulation:
        most = min(most, MOST_EMULATED)
    agent_log = "debug" if configuration.agent.enable_debug else configuration.agent.log_level
    return MachinePlan(
        name=name,
        program=settings.path,
        machine_type=settings.machine_type,
        machine_options=settings.machine_accelerators,
        accelerator=accelerator,
        # QEMU's emulator has no performance counters to switch off.
        cpu_features="" if accelerator.is_emulation else settings.cpu_features,
        vcpus=min(settings.boot_vcpus(host_cpus), most),
        max_vcpus=most,
        memory=memory,
        kernel=settings.kernel,
        initrd=settings.initrd,
        kernel_parameters=(
            *([] if settings.enable_debug else ["quiet"]),
            f"agent.log={agent_log}",
            *(_DEBUG_CONSOLE if configuration.agent.debug_console_enabled else ()),
            *settings.kernel_params.split(),
        ),
        seccomp_sandbox=settings.seccomp_sandbox,
        devices=devices,
        incoming=incoming,
    )
