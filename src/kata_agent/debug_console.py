"""Processes in the guest itself, for whoever debugs one: a shell on its console, and the host's."""

from __future__ import annotations

import os

from kata_agent.cgroup import Cgroup
from kata_agent.container import Container
from kata_agent.identity import CAPABILITIES, last_capability
from kata_agent.reaper import Reaper
from kata_agent.spec_check import check_process
from kata_agent.terminal import control
from kata_api.agent.oci_pb2 import LinuxCapabilities, LinuxResources
from kata_api.agent.oci_pb2 import Process as ProcessSpec

_SHELL = "/bin/sh"


class DebugConsole(Container):
    """The guest as a container without id and first process, whose processes share all of it.

    They have a cgroup of their own, and every capability unless their specification says which.
    """

    def __init__(self, cgroup: Cgroup, reaper: Reaper) -> None:
        super().__init__("", cgroup, reaper)
        cgroup.create(LinuxResources())

    async def execute(self, name: str, spec: ProcessSpec) -> None:
        """Run a process called ``name``; raises ``RpcError`` as for a container."""
        check_process(spec)
        if not spec.HasField("Capabilities"):
            names = [f"CAP_{word}" for word in CAPABILITIES[: last_capability() + 1]]
            spec.Capabilities.CopyFrom(
                LinuxCapabilities(Bounding=names, Permitted=names, Effective=names)
            )
        await self._run(name, spec, None, None)


def start() -> int:
    """Start a shell on the console in a session of its own and return its pid.

    Its end is the reaper's affair. Call it before the event loop exists: the child must not share
    one. Raises ``OSError`` when no process can be made; a console or shell that is missing ends the
    child with status 127.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        console = os.open("/dev/console", os.O_RDWR)
        control(console)
        for fd in range(3):
            os.dup2(console, fd)
        os.execve(_SHELL, [_SHELL, "-i"], {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root"})
    finally:
        os._exit(127)
