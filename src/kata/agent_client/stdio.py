"""The streams of one process, between the files that containerd named and the agent."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import ttrpc
from kata.agent_client.agent import Agent
from kata.agent_client.logger import Logger
from kata.agent_client.pump import CHUNK, Pump
from kata.agent_client.sink import Sink
from kata.agent_client.source import Source
from kata.agent_client.uri import StdioError, StdioSchemeError, StreamUri

__all__ = ["Stdio", "StdioError", "StdioSchemeError", "Streams"]

_QUIET = 0.1
"""Seconds without output after which a process that has ended is taken to have written all, when
its agent does not say how much that is; one answers a read within milliseconds when it can."""

_STALLED = 10.0
"""Seconds without a byte after which a reader is given up; runc's figure for its copying."""

_LEFT_BEHIND = 2 * ((1 << 20) + CHUNK)
"""Bytes that a process can have written before its end and we not yet read, when its agent does
not say: a full pipe of 1 MiB in the guest for each stream, and what is on its way."""

_PATIENCE = 5.0
"""Seconds after which an agent that does not say is taken to have given all."""


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a process's streams go, as containerd gave them; an empty string means nowhere."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    namespace: str = ""
    """containerd's namespace, which a logger is told."""


class Streams:
    """The streams of one process, from before its start until its output has ended."""

    def __init__(self, agent: Agent, container_id: str, exec_id: str, stdio: Stdio) -> None:
        """Open the outputs; raises `StdioError`, and nothing is open then."""
        self._agent = agent
        self._ids = (container_id, exec_id)
        self._stdin = stdio.stdin
        self._terminal = stdio.terminal
        self._namespace = stdio.namespace
        self._source: Source | None = None
        self._stdin_closed = False
        self._pumps: dict[str, Pump] = {}
        self._loggers: dict[str, Logger] = {}
        self._input: asyncio.Task[None] | None = None
        self._started = False
        try:
            # What nobody wants is read all the same: a process must not block on a full pipe.
            self._add_pump("stdout", stdio.stdout or os.devnull, agent.read_stdout)
            if not stdio.terminal:
                self._add_pump("stderr", stdio.stderr or os.devnull, agent.read_stderr)
        except BaseException:
            self._close_files()
            for logger in self._loggers.values():
                logger.abandon()
            raise
        for logger in self._loggers.values():
            logger.close_rest()

    def _add_pump(
        self, stream: str, uri: str, read: Callable[[str, str, int], Awaitable[bytes]]
    ) -> None:
        where = StreamUri.parse(uri, "fifo", "file", "binary")
        if where.scheme == "binary":
            if uri not in self._loggers:  # one program takes both outputs
                self._loggers[uri] = Logger.start(where, self._ids[1], self._namespace)
            sink = self._loggers[uri].sink(stream)
        else:
            sink = Sink.open(where)
        self._pumps[stream] = Pump(f"{stream} of {self._ids[1]}", sink, partial(read, *self._ids))

    async def ready(self) -> None:
        """Wait until whoever takes the output is ready for it; raises `StdioError`."""
        for logger in self._loggers.values():
            await logger.ready()

    def start(self) -> None:
        """Start to pump."""
        self._started = True
        for pump in self._pumps.values():
            pump.start()
        if self._source:
            self._input = asyncio.create_task(self._pump_in(self._source))
        elif not (self._stdin or self._terminal):
            self._input = asyncio.create_task(self._end_at_once())

    async def _end_at_once(self) -> None:
        """Have a process that nobody feeds read the end of its input, as it would of /dev/null."""
        with suppress(ttrpc.RpcError):  # it has ended already
            await self._agent.close_stdin(*self._ids)

    async def _pump_in(self, source: Source) -> None:
        try:
            while data := await source.read():
                view = memoryview(data)
                while view:
                    taken = await self._agent.write_stdin(*self._ids, bytes(view))
                    view = view[taken:]
            await self._agent.close_stdin(*self._ids)
        except ttrpc.RpcError:
            # The process no longer reads, or the guest has gone.  The pipe stays open until the end
            # is recorded, as under runc: ctr would pass its own SIGPIPE on to the process.
            await asyncio.get_running_loop().create_future()
        finally:
            source.close()

    def open_input(self) -> None:
        """Open stdin; raises `StdioError`.

        Not before the start: a client that reads the end of its input before it has learnt that
        the process was added cannot tell us of it with CloseIO any more (ctr exec).
        """
        if self._stdin and self._source is None:
            self._source = Source(self._stdin)
            if self._stdin_closed:
                self._source.let_go()

    def close_stdin(self) -> None:
        """Let stdin end once the client has closed its side."""
        self._stdin_closed = True
        if self._source:
            self._source.let_go()

    def expect(self, stdout: int | None, stderr: int | None) -> None:
        """Take note of how many bytes a process that has ended wrote, as far as its agent says."""
        for stream, total in (("stdout", stdout), ("stderr", stderr)):
            if stream in self._pumps:
                self._pumps[stream].expect(total)

    async def drained(self, timeout: float) -> None:
        """Wait until all output has been written, at most `timeout` seconds."""
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    async def settled(self) -> None:
        """Wait until what a process that has ended wrote is written here.

        Clients close their ends as soon as they hear of the exit.  The output of a process whose
        children live on does not end, but the agent says how much of it counts.  From an agent
        that does not say, all has come when no more comes for a moment, or more has come than the
        process can have left in its pipes, or it goes on for too long.
        """
        if not self._started:
            return
        limit = self._moved + _LEFT_BEHIND
        idle = busy = 0.0  # seconds
        while behind := [pump for pump in self._pumps.values() if not pump.settled.is_set()]:
            before = self._moved
            try:
                async with asyncio.timeout(_QUIET):
                    for pump in behind:
                        await pump.settled.wait()
            except TimeoutError:
                exact = all(pump.total is not None for pump in behind)
                if self._moved != before:
                    idle, busy = 0.0, busy + _QUIET
                    if not exact and (self._moved > limit or busy >= _PATIENCE):
                        return
                    continue
                idle += _QUIET
                if idle >= _STALLED or all(pump.is_at_rest() for pump in behind):
                    return

    @property
    def _moved(self) -> int:
        return sum(pump.moved for pump in self._pumps.values())

    def _tasks(self) -> "list[asyncio.Task[None]]":
        return [pump.task for pump in self._pumps.values() if pump.task]

    async def close(self) -> None:
        """Stop pumping and close every file; output that was not read by then is lost."""
        tasks = [*self._tasks(), *([self._input] if self._input else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_files()
        await asyncio.gather(*(logger.end() for logger in self._loggers.values()))

    def end_input(self) -> None:
        """Stop feeding a process that has ended; one that never began closes everything.

        Clients wait for the end of the output before they delete.
        """
        if self._input:
            self._input.cancel()
        if not self._started:
            self._close_files()

    def _close_files(self) -> None:
        if self._source:
            self._source.close()
        for pump in self._pumps.values():
            pump.close()
