"""Exit statuses of processes, collected once and kept for whoever asks."""

from __future__ import annotations

import asyncio
import os
import signal


class Reaper:
    """Waits for the agent's children, each by its pidfd, and for orphans when it is PID 1.

    A child is given to `watch` before the event loop runs again after its birth, so no status is
    lost. ``adopt_orphans`` also collects children nobody watches; only PID 1 may do that, for
    elsewhere they belong to someone else.
    """

    def __init__(self, *, adopt_orphans: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._exits: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self._adopts = adopt_orphans
        if adopt_orphans:
            self._loop.add_signal_handler(signal.SIGCHLD, self._collect)

    def __repr__(self) -> str:
        return f"<reaper, {len(self._exits)} processes watched>"

    def watch(self, pid: int, pidfd: int) -> asyncio.Future[int]:
        """Return the future exit code of a child, or 128 + signal number; takes over ``pidfd``.

        The descriptor stays open, and means the same process, until the future is done.
        """
        exited: asyncio.Future[int] = self._loop.create_future()
        self._exits[pid] = (pidfd, exited)
        self._loop.add_reader(pidfd, self._reap, pid)
        return exited

    def close(self) -> None:
        """Stop watching; children keep running."""
        if self._adopts:
            self._loop.remove_signal_handler(signal.SIGCHLD)
        for pidfd, exited in self._exits.values():
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            exited.cancel()
        self._exits.clear()

    def _reap(self, pid: int) -> None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            self._settle(pid, status)

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._exits:
                self._settle(pid, status)

    def _settle(self, pid: int, status: int) -> None:
        pidfd, exited = self._exits.pop(pid)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        exited.set_result(code if code >= 0 else 128 - code)
