"""What the kernel announces of devices, as udev hears it (lib/kobject_uevent.c)."""

from __future__ import annotations

import asyncio
import errno
import socket
from types import TracebackType
from typing import Self

_KOBJECT_UEVENT = 15  # NETLINK_KOBJECT_UEVENT in linux/netlink.h
_FROM_THE_KERNEL = 1  # the group that the kernel itself sends to
_LENGTH = 4096  # twice what an announcement may have (UEVENT_BUFFER_SIZE)


class Uevents:
    """Announcements from now on, for at most ``seconds``; a context, which stops listening at its end.

    Whoever waits for a device looks for it after this was made, and again after each announcement.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _KOBJECT_UEVENT)
        self._socket.bind((0, _FROM_THE_KERNEL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def wait(self, action: str) -> bool:
        """Wait for the next device that is announced with an action; False when the time is over."""
        begin = f"{action}@".encode()
        if self._loop.time() >= self._end:  # whatever has come since
            return False
        try:
            async with asyncio.timeout_at(self._end):
                while True:
                    said, (sender, _) = await self._loop.sock_recvfrom(self._socket, _LENGTH)
                    if not sender and said.startswith(begin):  # a container could send one, too
                        return True
                    await asyncio.sleep(0)  # however many come, others have their turn
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost, and it may be among them
                raise
            return True
