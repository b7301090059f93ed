"""A pid namespace that outlives the containers in it: a pod's, when its containers share one."""

from __future__ import annotations

import signal
from typing import NoReturn

from kata_agent import syscalls as sc
from kata_agent.launcher import Child, Gate, spawn
from kata_agent.progress import Progress
from kata_agent.reaper import Reaper


class PidNamespace:
    """A namespace with a first process of ours, which only waits; orphans end up with it.

    Raises ``OSError`` when there can be no process. `open` comes before any use, `close` ends every
    process in it.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._child: Child = spawn(_wait, flags=sc.CLONE_NEWPID, cgroup_fd=-1, keep=())
        self._ended = reaper.watch(self._child.pid, self._child.pidfd)

    def __repr__(self) -> str:
        return f"<pid namespace of process {self._child.pid}>"

    @property
    def pidfd(self) -> int:
        """A descriptor of the first process, by which the namespace can be joined."""
        return self._child.pidfd

    async def open(self) -> None:
        """Wait until the first process is ready. Raises ``RpcError``."""
        await self._child.wait_ready()
        self._child.close()

    def close(self) -> None:
        """End the first process, and with it all others."""
        if not self._ended.done():
            signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)


def _wait(gate: Gate, _: Progress) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps for us
    gate.ready(None)
    while True:
        signal.pause()
