"""The machine that we ask QEMU for, and the command line that says so."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.qemu.devices import Device, Plan9Share, escape

_MACHINE_OPTIONS = {
    # No disk, no management bus: both would only be probed in vain while the guest boots.
    "q35": ("sata=off", "smbus=off", "usb=off", "vmport=off", "hpet=off"),
}

_KERNEL_PARAMETERS = (
    "console=ttyS0",
    "panic=-1",  # reboot at once, which -no-reboot turns into QEMU's exit
    "oops=panic",  # a guest that goes on after a fault of its kernel hangs somewhere, untold
    "reboot=t",
    "random.trust_cpu=on",
    "cryptomgr.notests",  # two fifths of an emulated boot (docs/decisions/002-cold-boot.md)
    "no_timer_check",
    "memhp_default_state=online",
    "swiotlb=noforce",  # 64 MiB in vain: every device of ours reaches all of memory
    "net.ifnames=0",
)


@dataclass(frozen=True, slots=True)
class Memory:
    """The guest's memory: `mib` MiB, which other processes can map when it is `shared`.

    Modules can be plugged into `slots` up to `most_mib` MiB in all.

    It is backed by the file at `path`, or by none.  Not shared, a file is mapped privately: the
    machine starts with its contents and never writes to it.
    """

    mib: int
    shared: bool
    path: str = ""
    slots: int = 0
    most_mib: int = 0

    def size(self) -> str:
        """Return the value of QEMU's `-m`."""
        if self.slots and self.most_mib > self.mib:
            return f"{self.mib}M,slots={self.slots},maxmem={self.most_mib}M"
        return f"{self.mib}M"

    def backend(self) -> str:
        """Return the value of QEMU's `-object`."""
        share = "on" if self.shared else "off"
        if self.path:
            kind, options = "file", f",mem-path={escape(self.path)},share={share}"
        elif self.shared:
            kind, options = "memfd", ",share=on"
        else:
            kind, options = "ram", ""
        return f"memory-backend-{kind},id=ram0,size={self.mib}M{options}"


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """Everything that shapes a virtual machine; one that is `incoming` waits for a saved state."""

    name: str
    program: str
    machine_type: str
    machine_options: str
    accelerator: Accelerator
    cpu_features: str
    vcpus: int
    max_vcpus: int
    memory: Memory
    kernel: str
    initrd: str
    kernel_parameters: tuple[str, ...]
    seccomp_sandbox: str
    devices: tuple[Device, ...]
    incoming: bool = False


def command_line(plan: MachinePlan) -> list[str]:
    """Return the program and its arguments; option and value stay neighbours."""
    present = plan.max_vcpus if has_sleepers(plan.accelerator) else plan.vcpus
    arguments = [
        plan.program,
        "-name", f"sandbox-{plan.name},debug-threads=on",
        "-machine", _machine(plan),
        "-cpu", _cpu(plan),
        "-smp", f"{present},sockets={plan.max_vcpus},cores=1,threads=1,maxcpus={plan.max_vcpus}",
        "-m", plan.memory.size(),
        "-object", plan.memory.backend(),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-kernel", plan.kernel,
        "-initrd", plan.initrd,
        "-append", " ".join(parameters(plan)),
    ]  # fmt: skip
    if plan.seccomp_sandbox:
        arguments += ["-sandbox", plan.seccomp_sandbox]
    if plan.incoming:
        arguments += ["-incoming", "defer"]
    for device in plan.devices:
        arguments += device.arguments()
    return arguments


MOST_EMULATED = 255
"""Processors of an emulated machine before QEMU 9.0, whose emulated APICs have ids of eight bits."""


def has_sleepers(accelerator: Accelerator) -> bool:
    """Tell whether a machine has all its processors from the start, those beyond its size asleep.

    An emulator is no hypervisor that Linux knows. A kernel that takes the machine for a real one may pass
    over the processors that can be plugged in later (Linux 6.12.118 does, 6.1.192 does not).
    """
    return accelerator.is_emulation


def capabilities(plan: MachinePlan) -> frozenset[int]:
    """Return the capabilities that QEMU needs: none, unless it serves files itself."""
    return frozenset().union(
        *(device.CAPABILITIES for device in plan.devices if isinstance(device, Plan9Share))
    )


def _machine(plan: MachinePlan) -> str:
    options = [
        plan.machine_type,
        f"accel={plan.accelerator.name}",
        "memory-backend=ram0",
        *_MACHINE_OPTIONS.get(plan.machine_type, ()),
    ]
    if plan.machine_options:
        options.append(plan.machine_options)
    return ",".join(options)


def _cpu(plan: MachinePlan) -> str:
    """Return the CPU model: the host's under KVM, the emulator's best otherwise.

    Five-level paging would cost every emulated page walk one more memory access. "Fast" string
    moves are emulated byte by byte; without them kernel and libc of the guest copy words and
    vectors (measured: 100 MB of a container's output in 2.6 s instead of 8.7).
    """
    if not plan.accelerator.is_emulation:
        model = "host"
    else:
        model = "max,la57=off,erms=off" if platform.machine() == "x86_64" else "max"
    return f"{model},{plan.cpu_features}" if plan.cpu_features else model


def processor_model(accelerator: Accelerator) -> str:
    """Return QEMU's type of the processors on x86, as a plugged one names it."""
    return f"{'max' if accelerator.is_emulation else 'host'}-x86_64-cpu"


def parameters(plan: MachinePlan) -> Sequence[str]:
    """Return the kernel command line: ours first, so that the configuration's wins."""
    processors = [f"nr_cpus={plan.max_vcpus}"]
    if has_sleepers(plan.accelerator):
        processors.append(f"maxcpus={plan.vcpus}")  # the kernel wakes no more until it is told to
    return [*_KERNEL_PARAMETERS, *processors, *plan.kernel_parameters]
