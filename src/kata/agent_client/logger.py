"""A program of the node that takes the output of a process: binary:///path?key=value.

It finds stdout on descriptor 3 and stderr on 4, and says that it is ready with a byte on 5, or by
closing it. Arguments and environment are those that runc's shim gives it.
"""

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
from contextlib import ExitStack, suppress

from kata.agent_client.readiness import readable
from kata.agent_client.sink import Sink
from kata.agent_client.uri import StdioError, StreamUri
from kata.host.child import Child, describe_exit, spawn

_log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3
_DESCRIPTORS = 3

_READY = 2
"""The one among them that it writes to."""

_READY_TIMEOUT = 30.0
"""Seconds to say that it is ready."""

_GRACE = 2.0
"""Seconds to end by itself after the end of its input, before it is sent SIGTERM."""

_TERM_TIMEOUT = 12.0
"""Seconds from SIGTERM to SIGKILL; runc's figure."""


class Logger:
    """A running logger; it dies with the shim."""

    def __init__(self, child: Child, writers: tuple[int, int], ready: int) -> None:
        self._child = child
        self._writers = list(writers)
        self._ready = ready

    def __repr__(self) -> str:
        return f"<Logger {self._child!r}>"

    @classmethod
    def start(cls, uri: StreamUri, name: str, namespace: str) -> "Logger":
        """Start the program; raises `StdioError`, and no process or descriptor is left then.

        `name` is the container's id, or that of the process in it.
        """
        values: dict[str, str] = {}
        for key, value in uri.query:
            values.setdefault(key, value)
        arguments = [word for pair in values.items() for word in pair]
        environment = {"CONTAINER_ID": name, "CONTAINER_NAMESPACE": namespace}
        ours: list[int] = []
        theirs: list[int] = []

        def place() -> None:
            for number, descriptor in enumerate(theirs, _FIRST_DESCRIPTOR):
                os.dup2(descriptor, number)

        with ExitStack() as passed, ExitStack() as undo:
            # These are six descriptors, so none that the child needs is below the three it gets.
            try:
                for number in range(_DESCRIPTORS):
                    reading, writing = os.pipe()
                    end, its = (reading, writing) if number == _READY else (writing, reading)
                    undo.callback(os.close, end)
                    passed.callback(os.close, its)
                    ours.append(end)
                    theirs.append(fcntl.fcntl(its, fcntl.F_DUPFD_CLOEXEC, 2 * _DESCRIPTORS))
                    passed.callback(os.close, theirs[-1])
                child = spawn(
                    [uri.path, *arguments],
                    pass_fds=range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _DESCRIPTORS),
                    output=subprocess.DEVNULL,
                    prepare=place,
                    environment=environment,
                )
            except OSError as error:
                raise StdioError(
                    f"cannot start the logger of {uri.text}: {error.strerror}"
                ) from error
            undo.pop_all()
        return cls(child, (ours[0], ours[1]), ours[_READY])

    def sink(self, stream: str) -> Sink:
        """Return the sink of "stdout" or "stderr", which its caller closes; once for each."""
        number = ("stdout", "stderr").index(stream)
        sink = Sink(self._writers[number])
        self._writers[number] = -1
        return sink

    def close_rest(self) -> None:
        """End the streams that nobody has asked for."""
        for writer in self._writers:
            if writer >= 0:
                os.close(writer)
        self._writers.clear()

    async def ready(self) -> None:
        """Wait until it is ready; raises `StdioError` when it is not within 30 s."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                await readable(self._ready)
        except TimeoutError:
            raise StdioError(
                f"the logger {self._child.command} was not ready within {_READY_TIMEOUT:g} s; "
                "it has to write a byte to descriptor 5, or close it"
            ) from None
        finally:
            self._close_ready()

    async def end(self) -> None:
        """Wait for its end once its input has ended: 2 s, then 12 s after SIGTERM, then killed."""
        self.close_rest()
        self._close_ready()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._child.wait(), _GRACE)
        self._child.kill(signal.SIGTERM)
        code = await self._child.end(_TERM_TIMEOUT)
        if code:
            _log.warning("the logger %s %s", self._child.command, describe_exit(code))

    def abandon(self) -> None:
        """Kill it: nothing was written to it yet."""
        self._child.kill()
        self.close_rest()
        self._close_ready()

    def _close_ready(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
