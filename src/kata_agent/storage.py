"""File systems the host asks the guest to mount: drivers, and a ledger of what is mounted.

A storage is named by its mount point. Two requests for one mount point share the mount, and the last
release undoes it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

from kata_agent import mount_options
from kata_agent import syscalls as sc
from kata_api.agent.agent_pb2 import Storage
from ttrpc import RpcError, StatusCode

# driver -> (file system, kernel modules, options when the request has none)
_DRIVERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "virtio-fs": ("virtiofs", ("virtiofs",), ()),
    "9p": ("9p", ("9p", "9pnet_virtio"), ("trans=virtio", "version=9p2000.L")),
    "ephemeral": ("tmpfs", (), ()),
    "overlayfs": ("overlay", ("overlay",), ()),
    "bind": ("bind", (), ("rbind",)),
    "local": ("", (), ()),
}

DRIVERS = tuple(_DRIVERS)

# A hotplugged device is there a while after the host has added it (0.28 s measured under TCG);
# until then virtiofs answers EINVAL for its tag and 9p ENOENT. Upstream waits 3 s for a device.
_HOTPLUGGED = {"virtio-fs": errno.EINVAL, "9p": errno.ENOENT}
_HOTPLUG_WAIT_SECONDS = 3.0
_HOTPLUG_STEP_SECONDS = 0.01


class Storages:
    """Every storage of a sandbox. ``load_module`` loads a kernel module or does nothing."""

    def __init__(self, load_module: Callable[[str], None]) -> None:
        self._load_module = load_module
        self._turn = asyncio.Lock()  # two requests for one mount point come one after the other
        self._users: dict[str, int] = {}
        self._drivers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<storages, {', '.join(self._users) or 'none'}>"

    async def add(self, storage: Storage) -> str:
        """Mount ``storage`` unless it is, and return its mount point, to be released later.

        Raises ``RpcError`` INVALID_ARGUMENT for an unknown driver, INTERNAL when the kernel refuses;
        nothing is mounted then.
        """
        point = _check(storage)
        async with self._turn:
            if point not in self._users:
                try:
                    await self._mount(storage, point)
                except OSError as error:
                    raise RpcError(
                        StatusCode.INTERNAL,
                        f"cannot mount {storage.driver} {storage.source} at {point} with options "
                        f"{','.join(storage.options)!r}: {error.strerror}",
                    ) from error
                self._drivers[point] = storage.driver
            self._users[point] = self._users.get(point, 0) + 1
        return point

    def release(self, point: str) -> None:
        """Give back one use of ``point``; the last one unmounts it. Harmless for an unknown one."""
        users = self._users.get(point, 0)
        if users > 1:
            self._users[point] = users - 1
        elif users:
            del self._users[point]
            if self._drivers.pop(point) != "local":
                try:
                    sc.umount(point, sc.MNT_DETACH)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOENT):  # it is gone already
                        raise

    def release_all(self) -> None:
        """Unmount everything, the newest first."""
        for point in list(reversed(self._users)):
            self._users[point] = 1
            self.release(point)

    def resize(self, storage: Storage) -> None:
        """Remount the tmpfs at a storage's mount point with new options, such as ``size=1G``.

        Raises ``RpcError`` NOT_FOUND for a mount point that is no ephemeral storage of ours.
        """
        point = os.path.normpath(storage.mount_point)
        if self._drivers.get(point) != "ephemeral":
            raise RpcError(StatusCode.NOT_FOUND, f"no ephemeral storage is mounted at {point}")
        options = mount_options.parse(storage.options)
        sc.mount("tmpfs", point, "tmpfs", options.flags | sc.MS_REMOUNT, options.data)

    async def _mount(self, storage: Storage, point: str) -> None:
        fstype, modules, defaults = _DRIVERS[storage.driver]
        for module in modules:
            self._load_module(module)
        _make_mount_point(storage, point)
        if storage.driver == "local":
            _prepare_directory(storage, point)
            return
        words = list(storage.options) or list(defaults)
        if storage.driver == "bind" and not mount_options.parse(words).bind:
            words.append("rbind")
        # A group option of our own; tmpfs would refuse it.
        groups = [word.partition("=")[2] for word in words if word.startswith("fsgid=")]
        options = mount_options.parse(w for w in words if not w.startswith("fsgid="))
        await self._attach(storage, point, fstype, options)
        try:
            mount_options.adjust(point, options)
            for group in groups:
                _give_to_group(point, int(group))
            if storage.HasField("fs_group") and storage.driver == "ephemeral":
                _give_to_group(point, storage.fs_group.group_id)
        except BaseException:
            sc.umount(point, sc.MNT_DETACH)
            raise

    async def _attach(
        self, storage: Storage, point: str, fstype: str, options: mount_options.MountOptions
    ) -> None:
        waited = 0.0
        while True:
            try:
                mount_options.attach(storage.source or fstype, point, fstype, options)
            except OSError as error:
                if error.errno != _HOTPLUGGED.get(storage.driver) or waited > _HOTPLUG_WAIT_SECONDS:
                    raise
            else:
                return
            await asyncio.sleep(_HOTPLUG_STEP_SECONDS)
            waited += _HOTPLUG_STEP_SECONDS


def _check(storage: Storage) -> str:
    point = os.path.normpath(storage.mount_point)
    if storage.driver not in _DRIVERS or not os.path.isabs(point):
        raise RpcError(
            StatusCode.INVALID_ARGUMENT,
            f"storage driver {storage.driver!r} at {storage.mount_point!r}: the drivers are "
            f"{', '.join(_DRIVERS)}, and a mount point is an absolute path",
        )
    if mount_options.COPY_UP in storage.options:
        raise RpcError(
            StatusCode.INVALID_ARGUMENT,
            f"storage at {storage.mount_point!r}: {mount_options.COPY_UP} is for mounts of a "
            "container; leave it out",
        )
    return point


def _make_mount_point(storage: Storage, point: str) -> None:
    if storage.driver == "bind" and not os.path.isdir(storage.source):
        os.makedirs(os.path.dirname(point), exist_ok=True)
        open(point, "ab").close()
    else:
        os.makedirs(point, exist_ok=True)


def _prepare_directory(storage: Storage, point: str) -> None:
    for word in storage.options:
        name, _, value = word.partition("=")
        if name == "mode":
            os.chmod(point, int(value, 8))
        elif name == "fsgid":
            _give_to_group(point, int(value))
    if storage.HasField("fs_group"):
        _give_to_group(point, storage.fs_group.group_id)


def _give_to_group(path: str, group: int) -> None:
    os.chown(path, -1, group)
    os.chmod(path, os.stat(path).st_mode | 0o2070)  # files made here stay the group's
