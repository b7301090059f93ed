"""What the volumes of a pod's containers need beside the share: storages of the guest, disks, news.

A container's part is there from `prepare` to `release`.
"""

import asyncio
import errno
import logging

from kata.agent_client.agent import Agent, GuestDevice, GuestStorage
from kata.host.inotify import ChangeWatch
from kata.hypervisor.port import HypervisorError, VirtualMachine
from kata.sandbox.disks import Disks
from kata.sandbox.errors import InvalidRequestError
from kata.storage.tmpfs_volume import Tmpfs
from kata.storage.volumes import GuestPart, Volumes
from kata.storage.watched_volume import Watched
from ttrpc import ConnectionClosedError, RpcError

HOST_TELLS = "events=host"
"""Tells our agent that it need not look for changes: it is told of them."""

_SETTLING = 0.05
"""Seconds that kubelet is given to finish a replacement, of which the first event tells."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOSPC)
"""What inotify says when the host has no more instances or watches for root: 128 instances by default."""

_LIMITS = "the host's limits are fs.inotify.max_user_instances and max_user_watches"

_log = logging.getLogger(__name__)


class PodVolumes:
    """The volumes of one sandbox's containers."""

    def __init__(self, machine: VirtualMachine, agent: Agent) -> None:
        self._agent = agent
        self._disks = Disks(machine)
        self._news: dict[str, list[_News]] = {}

    async def prepare(
        self, container_id: str, wanted: Volumes
    ) -> tuple[list[GuestStorage], list[GuestDevice]]:
        """Plug a container's disks and begin to watch; return what the agent has to be told of.

        Raises `InvalidRequestError`; `release` undoes what was done until then.
        """
        storages = [_tmpfs(tmpfs) for tmpfs in wanted.tmpfs]
        storages += [_part(part) for part in wanted.parts]
        devices: list[GuestDevice] = []
        try:
            for found in wanted.file_systems:
                storages.append(await self._disks.mount(container_id, found))
            for node in wanted.nodes:
                serial = await self._disks.plug(
                    container_id, node.number, read_only=node.read_only, exclusive=False
                )
                devices.append(GuestDevice(serial, node.path))
        except HypervisorError as error:
            raise InvalidRequestError(f"container {container_id}: {error}") from error
        for volume in wanted.watched:
            told = self._watch(container_id, volume)
            storages.append(_copy(volume, told=told))
        return storages, devices

    def _watch(self, container_id: str, volume: Watched) -> bool:
        """Begin to watch a volume; tell whether the host can, or else the guest has to look itself."""
        try:
            news = _News(self._agent, volume)
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise InvalidRequestError(
                    f"cannot watch {volume.path}: {error.strerror}"
                ) from error
            _log.warning(
                "%s is not watched, the guest looks for changes itself: %s; %s",
                volume.path,
                error.strerror,
                _LIMITS,
            )
            return False
        self._news.setdefault(container_id, []).append(news)
        return True

    def follow(self, container_id: str) -> None:
        """Pass on changes of a container's volumes, from those since `prepare` on."""
        for news in self._news.get(container_id, []):
            news.follow()

    async def release(self, container_id: str) -> None:
        """Give back what a container had, once the guest has removed it; may be called again."""
        for news in self._news.pop(container_id, []):
            await news.close()
        await self._disks.release(container_id)

    async def close(self) -> None:
        """Stop watching; the disks go with the machine."""
        for container_id in list(self._news):
            for news in self._news.pop(container_id):
                await news.close()


class _News:
    """The changes of one volume on the host, on their way to the guest's copy."""

    def __init__(self, agent: Agent, volume: Watched) -> None:
        self._agent = agent
        self._volume = volume
        self._changed = asyncio.Event()
        self._watch = ChangeWatch()
        try:
            self._watch.add(volume.path)
        except BaseException:
            self._watch.close()
            raise
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begin to tell the agent."""
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._see)
        self._task = asyncio.create_task(self._tell())

    def _see(self) -> None:
        if self._watch.drain():
            self._changed.set()

    async def _tell(self) -> None:
        try:
            while True:
                await self._changed.wait()
                await asyncio.sleep(_SETTLING)
                self._changed.clear()
                self._watch_anew()
                try:
                    await self._agent.renew_storage(_copy(self._volume))
                except ConnectionClosedError:
                    return
                except RpcError as error:
                    _log.warning("%s changed, its copy did not: %s", self._volume.path, error)
        except OSError as error:
            _log.warning("%s is watched no more: %s", self._volume.path, error)

    def _watch_anew(self) -> None:
        """Watch the directories that have come, too; that of the volume itself is."""
        try:
            self._watch.add(self._volume.path)
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.warning("%s is watched in part: %s; %s", self._volume.path, error, _LIMITS)

    async def close(self) -> None:
        """Stop; may be called again."""
        if self._task:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._watch.close()


def _tmpfs(tmpfs: Tmpfs) -> GuestStorage:
    return GuestStorage(
        "ephemeral", "tmpfs", "tmpfs", tmpfs.mount_point, tmpfs.options, shared=True
    )


def _part(part: GuestPart) -> GuestStorage:
    within = (f"within={part.top}", f"mode={part.mode:04o}")
    return GuestStorage("bind", part.path, "bind", part.mount_point, ("rbind",), within)


def _copy(volume: Watched, *, told: bool = True) -> GuestStorage:
    said = (HOST_TELLS,) if told else ()
    return GuestStorage("watchable-bind", volume.source, "bind", volume.mount_point, (), said)
