"""What shapes a template: two machines with one key can be restored from one file."""

import json
import os
from dataclasses import dataclass

from kata.config import Configuration
from kata.host.digest import sha256_of_text
from kata.hypervisor import accelerator
from kata.hypervisor.port import SharedDirectory
from kata.hypervisor.qemu.command import command_line
from kata.hypervisor.qemu.devices import Entropy, Generation
from kata.hypervisor.qemu.launch import template_devices
from kata.hypervisor.qemu.plan import guest_memory, machine_plan

_FORMAT = 4
"""Raised when a template is made in another way than before."""

_DIGITS = 16
"""Hexadecimal digits of a key: 64 bits, and only templates of one machine must differ."""


@dataclass(frozen=True, slots=True)
class Key:
    """The name of a template, and what went into it."""

    name: str
    inputs: dict[str, object]

    @classmethod
    def of(cls, configuration: Configuration) -> "Key":
        """Return the key of the machine that a configuration describes.

        Files count by identity, size and times, not by content: reading them would take longer
        than a restore.  Raises `OSError` when one is missing.
        """
        settings = configuration.hypervisor
        chosen = accelerator.choose()
        served = settings.shared_fs == "virtio-9p"
        devices = template_devices(SharedDirectory("", "") if served else None)
        plan = machine_plan(
            configuration,
            "",
            chosen,
            (Entropy(settings.entropy_source), Generation(), *devices),
            guest_memory(configuration, shared=True),
        )
        inputs: dict[str, object] = {
            "format": _FORMAT,
            "files": {
                path: identity(path) for path in (settings.path, settings.kernel, settings.initrd)
            },
            "command": command_line(plan),
            "vsock": os.path.exists("/dev/vhost-vsock"),
            "processor": "" if chosen.is_emulation else _processor(),
        }
        text = json.dumps(inputs, sort_keys=True)
        return cls(sha256_of_text(text)[:_DIGITS], inputs)


def identity(path: str) -> list[int]:
    """Return what changes when a file is replaced or written: inode, size and times."""
    found = os.stat(path)
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _processor() -> str:
    """Return the model and the features that the host's processor passes on to its guests."""
    lines = []
    with open("/proc/cpuinfo") as file:
        for line in file:
            if not line.strip():
                break
            name = line.partition(":")[0].strip()
            if name in ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags"):
                lines.append(line.strip())
    return "\n".join(lines)
