"""Out-of-memory kills, as the kernel counts them in the ``memory.events`` of containers."""

from __future__ import annotations

import asyncio
import os
import struct

from kata_agent import syscalls as sc
from kata_agent.cgroup import Cgroup

_EVENT = struct.Struct("iIII")  # struct inotify_event without its name, which a file has none of
_READ_SIZE = 64 * _EVENT.size


def kills(cgroup: Cgroup) -> int | None:
    """Return how many processes the kernel has killed for memory; None where it does not count."""
    for line in cgroup.read("memory.events").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return None


class OomEvents:
    """The containers that the kernel has killed a process of, each reported once per kill seen.

    Needs no descriptor while no container with memory accounting is watched.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._watched: dict[int, tuple[str, Cgroup]] = {}
        self._kills: dict[str, int] = {}
        self._queue: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<oom events, {len(self._watched)} watched, {self._queue.qsize()} not yet taken>"

    def watch(self, container_id: str, cgroup: Cgroup) -> None:
        """Begin to watch a container. Without the memory controller nothing happens, ever."""
        path = os.path.join(cgroup.directory, "memory.events")
        if not os.path.exists(path):
            return
        if self._fd < 0:
            self._fd = sc.inotify_init()
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        descriptor = sc.inotify_add_watch(self._fd, path, sc.IN_MODIFY)
        self._watched[descriptor] = (container_id, cgroup)
        self._kills[container_id] = 0

    def unwatch(self, container_id: str) -> None:
        """Forget a container, after a last look: its end may be what there is to report."""
        for descriptor, (watched, _) in list(self._watched.items()):
            if watched == container_id:
                self._look(descriptor)
                # The kernel drops the watch itself when the cgroup goes.
                del self._watched[descriptor]
                del self._kills[container_id]

    async def take(self) -> tuple[str, int]:
        """Wait for the next kill; return its container's id and how many it has had so far."""
        return await self._queue.get()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        data = os.read(self._fd, _READ_SIZE)
        # Descriptors in order of their first event; many events need one look only.
        for descriptor in dict.fromkeys(fields[0] for fields in _EVENT.iter_unpack(data)):
            self._look(descriptor)

    def _look(self, descriptor: int) -> None:
        if descriptor not in self._watched:
            return
        container_id, cgroup = self._watched[descriptor]
        count = kills(cgroup) or 0
        if count > self._kills[container_id]:
            self._kills[container_id] = count
            self._queue.put_nowait((container_id, count))
