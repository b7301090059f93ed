"""A process that a child of ours has started, watched through a pidfd: nobody tells us how it ended."""

import asyncio
import os
import signal
from contextlib import suppress

_DEATH_TIMEOUT = 3.0
"""Seconds from SIGKILL to the end: more for one that the kernel holds, as on storage that is gone."""


class Grandchild:
    """A process that outlives our child, if that one is killed.

    Raises `ProcessLookupError` when there is no such process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def __repr__(self) -> str:
        return f"<grandchild {self.pid}>"

    async def end(self, grace: float) -> bool:
        """Wait `grace` seconds for the process to end by itself, then kill it; to be called once.

        Tells whether it has ended; the kernel may hold one that was killed.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), grace)
        except BaseException as error:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if not isinstance(error, TimeoutError):
                raise
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _DEATH_TIMEOUT)
        finally:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        return ended.is_set()
