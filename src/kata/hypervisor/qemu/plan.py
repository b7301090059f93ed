"""From the configuration to the machine that it describes."""

import os

from kata.config import Configuration
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.qemu.command import MachinePlan, Memory
from kata.hypervisor.qemu.devices import Device

_DEBUG_CONSOLE = ("agent.debug_console", "agent.debug_console_vport=1026")
"""What lets the host run processes in the guest; agents of upstream's serve a shell on that port."""


def guest_memory(configuration: Configuration, *, shared: bool, path: str = "") -> Memory:
    """Return the memory that a configuration describes, backed by the file at `path` if any."""
    settings = configuration.hypervisor
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    host_mib = page * pages >> 30 << 10  # whole GiB: what a kernel keeps for itself varies
    most = settings.default_maxmemory or host_mib
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
    host_cpus = os.cpu_count() or 1
    agent_log = "debug" if configuration.agent.enable_debug else configuration.agent.log_level
    return MachinePlan(
        name=name,
        program=settings.path,
        machine_type=settings.machine_type,
        machine_options=settings.machine_accelerators,
        accelerator=accelerator,
        # QEMU's emulator has no performance counters to switch off.
        cpu_features="" if accelerator.is_emulation else settings.cpu_features,
        vcpus=settings.boot_vcpus(host_cpus),
        max_vcpus=settings.ceiling_vcpus(host_cpus),
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
