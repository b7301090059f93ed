"""How processes end, told in the order that containerd and its clients rely on.

A start comes before its exit, a kill for want of memory before the exit that it causes, and the
exits of a container's execs before that of its own process.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kata.sandbox import events
from kata.sandbox.container import Container
from kata.sandbox.process import KILLED_STATUS, UNKNOWN_STATUS, Process, State
from ttrpc import ConnectionClosedError, RpcError

_EXECS_TIMEOUT = 2.0
"""Seconds to learn how execs ended once their container's own process has."""

_log = logging.getLogger(__name__)


class Exits:
    """What is known of ends, recorded once and told once; `pid` is the task's on the host.

    `before_last` is awaited before the end of a container's own process is told.
    """

    def __init__(
        self,
        emit: Callable[[events.Event], None],
        pid: Callable[[], int],
        before_last: Callable[[Container], Awaitable[None]],
    ) -> None:
        self._emit = emit
        self._pid = pid
        self._before_last = before_last

    async def follow(self, container: Container, process: Process) -> None:
        """Wait for the end of a process and tell; a container's own is told of last."""
        kills = None
        try:
            kills = (await process.follow()).oom_kills
        except ConnectionClosedError:
            return  # the guest is lost, and whoever watches it tells of every process
        except RpcError as error:
            _log.warning("lost sight of %s: %s", process.name, error)
        at = time.time()
        async with process.starting:
            pass  # its start is told of first
        if kills is not None:
            self.count_kills(container, kills)
        if not process.exec_id:
            await self._end_execs(container)
        await process.streams.settled()
        try:
            if not process.exec_id:
                await self._before_last(container)
        finally:  # nobody could remove the pod if this were not told
            self.record(process, UNKNOWN_STATUS, at)

    async def _end_execs(self, container: Container) -> None:
        """Wait until the execs of a container whose own process has ended are told of."""
        execs = [each for each in container.execs.values() if each.state != State.CREATED]
        ends = [asyncio.ensure_future(each.wait()) for each in execs]
        if ends:
            await asyncio.wait(ends, timeout=_EXECS_TIMEOUT)
        for end in ends:
            end.cancel()
        for process in container.execs.values():
            self.record(process, KILLED_STATUS)

    def record(self, process: Process, status: int, at: float | None = None) -> None:
        """Record an exit and tell of it, unless it is known or the process never was one.

        `status` and `at`, in seconds since 1970 and now if it is None, are of one whose agent has
        not reported its end.
        """
        existed = process.state in (State.RUNNING, State.PAUSED) or not process.exec_id
        exit_ = process.record_exit(status, time.time() if at is None else at)
        if exit_ and existed:
            self._emit(
                events.ProcessExited(process.container_id, process.exec_id, self._pid(), exit_)
            )

    def count_kills(self, container: Container, kills: int | None) -> None:
        """Tell of a kill for want of memory, unless that many have been told of.

        None is one more: the agent does not count them.
        """
        if kills is not None and kills <= container.oom_kills:
            return
        container.oom_kills = kills or 0
        with suppress(OSError):  # where CRI-O looks, which takes no events
            open(os.path.join(container.request.bundle, "oom"), "w").close()
        self._emit(events.OutOfMemory(container.id))
