"""A process of a container as the host sees it: streams, signals, exit status."""

from __future__ import annotations

import asyncio
import os
import signal

from kata_agent.launcher import Child
from kata_agent.reaper import Reaper
from kata_agent.streams import Input, Output, pipe
from ttrpc import RpcError, StatusCode


class Pipes:
    """The pipes of a process without a terminal: the child's ends, and the agent's."""

    def __init__(self) -> None:
        ends = [pipe() for _ in range(3)]
        self.child = (ends[0][0], ends[1][1], ends[2][1])
        self.agent = (ends[0][1], ends[1][0], ends[2][0])

    def close_child(self) -> None:
        """Close the ends that the child has inherited."""
        for fd in self.child:
            os.close(fd)


class Process:
    """A process from its birth until its status and its output were taken.

    ``exited`` is its future exit code, or 128 + the number of the signal that ended it.
    """

    def __init__(self, name: str, child: Child, reaper: Reaper) -> None:
        self.name = name
        self.child = child
        self.waited = False
        self.started = False
        self.stdin: Input | None = None
        self.stdout: Output | None = None
        self.stderr: Output | None = None
        self._terminal = -1
        self.exited = reaper.watch(child.pid, child.pidfd)
        self.exited.add_done_callback(self._settle)

    def __repr__(self) -> str:
        condition = "running" if self.started else "created"
        if self.ended:
            condition = f"exited {self.exited.result()}"
        return f"<process {self.name!r}, pid {self.child.pid}, {condition}>"

    @property
    def ended(self) -> bool:
        """Tell whether the process has exited."""
        return self.exited.done() and not self.exited.cancelled()

    @property
    def spent(self) -> bool:
        """Tell whether the host has taken all there is: status, and the end of every output."""
        outputs = (self.stdout, self.stderr)
        return self.waited and all(output is None or output.end_seen for output in outputs)

    def attach(self, pipes: Pipes) -> None:
        """Take over the agent's ends of ``pipes``."""
        stdin, stdout, stderr = pipes.agent
        self.stdin = Input(stdin, terminal=False)
        self.stdout, self.stderr = Output(stdout), Output(stderr)
        if self.ended:
            self._settle()

    def attach_terminal(self, master: int) -> None:
        """Take over the ``master`` of the process's terminal; all output is on stdout then."""
        self._terminal = os.dup(master)
        self.stdin = Input(os.dup(master), terminal=True)
        self.stdout = Output(master)
        if self.ended:
            self._settle()

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal. Raises ``RpcError`` UNAVAILABLE if there is none."""
        from kata_agent.terminal import resize

        if self.ended:
            raise RpcError(StatusCode.UNAVAILABLE, f"process {self.name!r} has ended")
        if self._terminal < 0:
            raise RpcError(
                StatusCode.UNAVAILABLE,
                f"process {self.name!r} has no terminal; create it with terminal=true to resize it",
            )
        resize(self._terminal, rows, columns)

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended it is a success, as upstream has it.

        Raises ``RpcError`` INVALID_ARGUMENT for a number that is no signal.
        """
        if self.ended:
            return
        try:
            signal.pidfd_send_signal(self.child.pidfd, number)
        except ProcessLookupError:
            return
        except (OSError, OverflowError) as error:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, f"cannot send signal {number}: {error}"
            ) from error

    def handles(self, number: int) -> bool:
        """Tell whether the process catches, ignores or blocks a signal (/proc/pid/status)."""
        with open(f"/proc/{self.child.pid}/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                field, _, value = line.partition(":")
                if field in ("SigBlk", "SigIgn", "SigCgt") and int(value, 16) >> (number - 1) & 1:
                    return True
        return False

    async def wait(self) -> int:
        """Wait for the exit code; any number of tasks may."""
        return await asyncio.shield(self.exited)

    def close(self) -> None:
        """Close every descriptor, unread output included."""
        self.child.close()
        self._close_inputs()
        for output in (self.stdout, self.stderr):
            if output is not None:
                output.close()

    def _settle(self, _: object = None) -> None:
        if self.exited.cancelled():
            return
        self._close_inputs()
        for output in (self.stdout, self.stderr):
            if output is not None:
                output.settle()

    def _close_inputs(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
