"""Programs for device rules that the kernel has loaded, kept for the containers to come."""

from __future__ import annotations

import os

from kata_agent import syscalls as sc

_KEPT = 8


class DevicePrograms:
    """Loads each program once: most containers of a pod, and of all pods, have the same.

    The kernel checks and compiles a program when it is loaded, which takes longer than all else that a
    group needs under emulation.
    """

    def __init__(self) -> None:
        self._loaded: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<{len(self._loaded)} programs for devices>"

    def attach(self, cgroup_fd: int, program: bytes) -> None:
        """Have a program decide on accesses to devices from a group. Raises ``OSError``."""
        descriptor = self._loaded.pop(program, -1)
        if descriptor < 0:
            descriptor = sc.load_device_program(program)
        self._loaded[program] = descriptor  # the last one is the one that was used last
        if len(self._loaded) > _KEPT:
            os.close(self._loaded.pop(next(iter(self._loaded))))
        sc.attach_device_program(cgroup_fd, descriptor)

    def close(self) -> None:
        """Forget every program; those that are attached go on."""
        while self._loaded:
            os.close(self._loaded.popitem()[1])
