"""The choice between KVM and emulation.

`/dev/kvm` may open and create a virtual machine on a processor that cannot run one: a guest
started on it spins for ever without a message (DESIGN decision 7).  So all three are asked.
"""

import fcntl
import os
import platform
from dataclasses import dataclass

_KVM_CREATE_VM = 0xAE01
"""ioctl number from `linux/kvm.h`."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How guest instructions are executed, and when that is slow, why."""

    name: str
    reason: str = ""

    @property
    def is_emulation(self) -> bool:
        """Whether every guest instruction is translated in software."""
        return self.name == "tcg"


def choose(device: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo") -> Accelerator:
    """Return KVM when it can run a guest, otherwise emulation with the reason in words."""
    if platform.machine() == "x86_64" and not _has_virtualisation(cpuinfo):
        return Accelerator("tcg", f"the processor shows neither vmx nor svm in {cpuinfo}")
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Accelerator("tcg", f"{device}: {error.strerror}")
    try:
        os.close(fcntl.ioctl(kvm, _KVM_CREATE_VM, 0))
    except OSError as error:
        return Accelerator("tcg", f"{device} cannot create a virtual machine: {error.strerror}")
    finally:
        os.close(kvm)
    return Accelerator("kvm")


def _has_virtualisation(cpuinfo: str) -> bool:
    with open(cpuinfo) as file:
        for line in file:
            if line.startswith("flags"):
                flags = line.split()
                return "vmx" in flags or "svm" in flags
    return False
