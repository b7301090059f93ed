"""A process in the guest: a container's own, or one that was added by exec.

Theory of operation.  A process moves through the states of `TRANSITIONS` and never back.  `CREATED`
means known here (and, for a container's own process, waiting at its gate in the guest); `RUNNING`
from the agent's answer to its start until its exit is known; `STOPPED` until it is deleted.  The
exit is recorded once, by whoever is first to: once the output of a process that the agent says has
ended is through, after a failed start, or at the end of the virtual machine.  What is recorded is the
agent's answer, if there has been one.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from kata.agent_client.agent import Agent, GuestExit
from kata.agent_client.stdio import Stdio, StdioError, Streams
from kata.sandbox.errors import InvalidRequestError, NotFoundError, StateError
from ttrpc import RpcError, StatusCode


class State(StrEnum):
    """Where in its life a process is."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETING = "being deleted"
    DELETED = "deleted"


TRANSITIONS = {
    State.CREATED: {State.STARTING, State.STOPPED, State.DELETING},
    State.STARTING: {State.RUNNING, State.STOPPED},
    State.RUNNING: {State.PAUSED, State.STOPPED},
    State.PAUSED: {State.RUNNING, State.STOPPED},
    State.STOPPED: {State.DELETING},
    State.DELETING: {State.DELETED},
    State.DELETED: set[State](),
}

UNKNOWN_STATUS = 255
"""Exit status of a process whose end nobody saw."""

KILLED_STATUS = 128 + signal.SIGKILL

_KILL_TIMEOUT = 3.5
"""Seconds for the guest to answer a SIGKILL; one that takes longer hangs. With the end of QEMU whoever
asked has the answer within 5, and CRI gives up at 10."""

_SIGNAL_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How and when a process ended: exit code or 128 plus signal number, seconds since 1970."""

    status: int
    at: float


class Process:
    """One process; its identity is the container's id and `exec_id`, empty for the container's own.

    `launch` is the call to the agent that makes it run.
    """

    def __init__(
        self,
        agent: Agent,
        container_id: str,
        exec_id: str,
        stdio: Stdio,
        launch: Callable[[], Awaitable[None]],
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.stdio = stdio
        self.state = State.CREATED
        self._agent = agent
        self._launch = launch
        self._ids = (container_id, exec_id or container_id)
        self._size: tuple[int, int] | None = None
        self.reported: Exit | None = None
        """How it ended by the agent's answer, which is told of once its output is through."""
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.starting = asyncio.Lock()
        """Held from the request to start until its event is out: the exit is told of later."""
        self.streams = Streams(agent, *self._ids, stdio)

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.state}>"

    @property
    def name(self) -> str:
        """The process in words, for messages."""
        if self.exec_id:
            return f"process {self.exec_id} of container {self.container_id}"
        return f"container {self.container_id}"

    @property
    def exit(self) -> Exit | None:
        """How it ended, or None."""
        return self._exit.result() if self._exit.done() else None

    def require(self, state: State) -> None:
        """Raise `StateError` unless the process is in `state`."""
        if self.state != state:
            raise StateError(f"{self.name} is {self.state}, not {state}")

    def move(self, state: State) -> None:
        """Enter `state`; raises `StateError` when it cannot be reached from the present one."""
        if state not in TRANSITIONS[self.state]:
            raise StateError(f"{self.name} is {self.state}, it cannot become {state}")
        self.state = state

    async def start(self) -> None:
        """Make it run.

        Raises `StateError` when it was started before, and what the agent answers; it counts as
        stopped with an unknown status then.
        """
        self.move(State.STARTING)
        try:
            await self.streams.ready()
            self.streams.open_input()
            await self._launch()
        except BaseException as error:
            self.record_exit(UNKNOWN_STATUS, time.time())
            if isinstance(error, StdioError):
                raise InvalidRequestError(str(error)) from error
            if not isinstance(error, RpcError) or error.code == StatusCode.DEADLINE_EXCEEDED:
                # Nobody waited for the answer; the process may run all the same.
                with suppress(RpcError):
                    await asyncio.shield(self._kill())
            raise
        # Not before: until then the agent knows no such process and would say so as an end.
        self.streams.start()
        if not self._exit.done():
            self.move(State.RUNNING)
        if self._size:
            with suppress(RpcError):  # a process that has ended already has no terminal
                await self._agent.resize_terminal(*self._ids, *self._size)

    async def _kill(self) -> None:
        await self._agent.signal_process(*self._ids, signal.SIGKILL, _KILL_TIMEOUT)

    async def follow(self) -> GuestExit:
        """Wait in the guest for the end of the process."""
        ended = await self._agent.wait_process(*self._ids)
        self.reported = Exit(ended.status, time.time())
        self.streams.expect(ended.stdout_total, ended.stderr_total)
        return ended

    async def signal(self, number: int, *, whole_container: bool) -> None:
        """Send a signal, to the whole container or to this process alone.

        Raises `NotFoundError` when it has ended, though not for a signal that would end it, and
        `StateError` when an exec has not started.
        """
        if self.exit:
            if number in (signal.SIGKILL, signal.SIGTERM):
                return
            raise NotFoundError(f"{self.name} has already ended")
        if self.state == State.CREATED and self.exec_id:
            raise StateError(f"{self.name} has not been started")
        exec_id = "" if whole_container else self._ids[1]
        timeout = _KILL_TIMEOUT if number == signal.SIGKILL else _SIGNAL_TIMEOUT
        await self._agent.signal_process(self.container_id, exec_id, number, timeout)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; remembered until the start, without effect with no terminal."""
        if not self.stdio.terminal or self.exit:
            return
        self._size = (rows, columns)
        if self.state in (State.RUNNING, State.PAUSED):
            await self._agent.resize_terminal(*self._ids, rows, columns)

    def record_exit(self, status: int, at: float) -> Exit | None:
        """Record the end, `at` seconds since 1970; returns None when it was known already.

        What the agent has answered counts for more than the arguments.
        """
        if self._exit.done():
            return None
        if self.state != State.DELETING:
            self.move(State.STOPPED)
        exit_ = self.reported or Exit(status, at)
        self._exit.set_result(exit_)
        self.streams.end_input()
        return exit_

    async def wait(self) -> Exit:
        """Wait for the end; any number of callers, also after it."""
        return await asyncio.shield(self._exit)
