"""A pid namespace that outlives the containers in it: a pod's, when its containers share one."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import NoReturn

from kata_agent import syscalls as sc
from kata_agent.launcher import Child, Gate, spawn
from kata_agent.progress import Progress
from kata_agent.reaper import Reaper


class PidNamespace:
    """A namespace with a first process of ours, which only waits; orphans end up with it.

    `opened` makes one, and `close` ends every process in it.
    """

    def __init__(self, child: Child, reaper: Reaper) -> None:
        self._child = child
        self._exit = reaper.watch(child.pid, child.pidfd)

    @classmethod
    async def opened(cls, reaper: Reaper) -> PidNamespace:
        """Return a namespace that can be joined.

        Raises ``OSError`` when there can be no process, and ``RpcError`` when it does not get ready;
        none is left then.
        """
        namespace = cls(spawn(_wait, flags=sc.CLONE_NEWPID, cgroup_fd=-1, keep=()), reaper)
        try:
            await namespace._child.wait_ready()
        except BaseException:
            await namespace.close()
            raise
        finally:
            namespace._child.close()
        return namespace

    def __repr__(self) -> str:
        return f"<pid namespace of process {self._child.pid}>"

    @property
    def pidfd(self) -> int:
        """A descriptor of the first process, by which the namespace can be joined until it has `ended`."""
        return self._child.pidfd

    @property
    def ended(self) -> bool:
        """Whether the first process has ended, or is about to: nobody can join any more."""
        return self._exit.done() or is_ending(self._child.pid)

    async def close(self) -> None:
        """End the first process, and with it all others."""
        if not self._exit.done():
            signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)
            await asyncio.wait([self._exit])


def is_ending(pid: int) -> bool:
    """Tell whether a process that was not collected has left its namespaces.

    The first process of a pid namespace is no zombie before all others in it are collected.
    """
    return not os.path.exists(f"/proc/{pid}/ns/mnt")


def _wait(gate: Gate, _: Progress) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps for us
    gate.ready(None)
    while True:
        signal.pause()
