"""File systems the host asks the guest to mount: drivers, and a ledger of what is mounted.

A storage is named by its mount point. Two requests for one mount point share the mount, and the last
release undoes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
from collections.abc import Callable

from kata_agent import disks, mount_options
from kata_agent import syscalls as sc
from kata_agent.uevents import Uevents
from kata_agent.watched_copy import WatchedCopy, is_small
from kata_api.agent.agent_pb2 import Storage
from ttrpc import RpcError, StatusCode

# driver -> (file system, kernel modules, options when the request has none)
_DRIVERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "virtio-fs": ("virtiofs", ("virtiofs",), ()),
    "9p": ("9p", ("9p", "9pnet_virtio"), ("trans=virtio", "version=9p2000.L")),
    "ephemeral": ("tmpfs", (), ()),
    "overlayfs": ("overlay", ("overlay",), ()),
    "bind": ("bind", (), ("rbind",)),
    "blk": ("", disks.MODULES, ()),
    "local": ("", (), ()),
    "watchable-bind": ("bind", (), ("rbind",)),
}

# What a file system needs that it asks for by name only.
_ALSO = {"ext4": ("crc32c_generic",)}

_HOST_TELLS = "events=host"  # our shim says when a watchable bind has changed; others do not

DRIVERS = tuple(_DRIVERS)

# A hotplugged device is there a while after the host has added it (0.28 s measured under TCG); until
# then virtiofs answers EINVAL for its tag and 9p ENOENT. On a busy host it takes longer.
_HOTPLUGGED = {
    "virtio-fs": ("virtiofs", errno.EINVAL),
    "9p": ("9pnet_virtio", errno.ENOENT),
}
_HOTPLUG_WAIT_SECONDS = 10.0

_VIRTIO = "/sys/bus/virtio/drivers"


class Storages:
    """Every storage of a sandbox. ``load_module`` loads a kernel module or does nothing."""

    def __init__(self, load_module: Callable[[str], None]) -> None:
        self._load_module = load_module
        self._turn = asyncio.Lock()  # two requests for one mount point come one after the other
        self._users: dict[str, int] = {}
        self._drivers: dict[str, str] = {}
        self._copies: dict[str, WatchedCopy] = {}

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
            if point in self._copies:
                self._copies.pop(point).close()
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

    def update(self, storage: Storage) -> None:
        """Remount a tmpfs with new options, such as ``size=1G``, or renew a copy that is watched.

        Raises ``RpcError`` NOT_FOUND for a mount point that is neither, and ``OSError``.
        """
        point = os.path.normpath(storage.mount_point)
        if point in self._copies:
            self._copies[point].renew()
        elif self._drivers.get(point) == "ephemeral":
            options = mount_options.parse(storage.options)
            sc.mount("tmpfs", point, "tmpfs", options.flags | sc.MS_REMOUNT, options.data)
        elif self._drivers.get(point) != "watchable-bind":  # one that is no copy needs nothing
            raise RpcError(
                StatusCode.NOT_FOUND, f"no ephemeral storage and no copy is mounted at {point}"
            )

    async def _mount(self, storage: Storage, point: str) -> None:
        fstype, modules, defaults = _DRIVERS[storage.driver]
        fstype = fstype or storage.fstype
        for module in modules:
            self._load_module(module)
        if storage.driver == "watchable-bind" and self._copy(storage, point):
            return
        source = storage.source
        held = -1
        if storage.driver == "blk":
            for module in (*_ALSO.get(fstype, ()), fstype):
                self._load_module(module)
            source = await disks.find(storage.source)
        elif within := _driver_option(storage, "within"):
            held = _open_within(within, source, int(_driver_option(storage, "mode") or "755", 8))
            source = f"/proc/self/fd/{held}"
        try:
            _make_mount_point(storage, source, point)
            if storage.driver == "local":
                _prepare_directory(storage, point)
                return
            words = list(storage.options) or list(defaults)
            if fstype == "bind" and not mount_options.parse(words).bind:
                words.append("rbind")
            await self._attach_whole(storage, source, point, fstype, words)
        finally:
            if held >= 0:
                os.close(held)

    def _copy(self, storage: Storage, point: str) -> bool:
        """Make a copy that is watched; False when the source is too large to be looked at."""
        told = _HOST_TELLS in storage.driver_options
        if not (os.path.isdir(storage.source) if told else is_small(storage.source)):
            return False
        os.makedirs(point, exist_ok=True)
        copy = WatchedCopy(storage.source, point)
        copy.make(poll=not told)
        self._copies[point] = copy
        return True

    async def _attach_whole(
        self, storage: Storage, source: str, point: str, fstype: str, words: list[str]
    ) -> None:
        # A group option of our own; tmpfs would refuse it.
        groups = [word.partition("=")[2] for word in words if word.startswith("fsgid=")]
        options = mount_options.parse(w for w in words if not w.startswith("fsgid="))
        await self._attach(storage.driver, source or fstype, point, fstype, options)
        try:
            mount_options.adjust(point, options)
            for group in groups:
                _give_to_group(point, int(group))
            if storage.HasField("fs_group") and storage.driver in ("ephemeral", "blk"):
                _give_to_group(point, storage.fs_group.group_id)
        except BaseException:
            sc.umount(point, sc.MNT_DETACH)
            raise

    async def _attach(
        self,
        driver: str,
        source: str,
        point: str,
        fstype: str,
        options: mount_options.MountOptions,
    ) -> None:
        attach = functools.partial(mount_options.attach, source, point, fstype, options)
        served_by = _HOTPLUGGED.get(driver)
        if served_by is None:
            attach()
        elif not _attached(attach, *served_by):
            with Uevents(_HOTPLUG_WAIT_SECONDS) as announced:
                while not _attached(attach, *served_by):
                    if not await announced.wait("bind"):
                        attach()  # the kernel says what is missing
                        return


def _attached(attach: Callable[[], None], module: str, missing: int) -> bool:
    """Mount, unless the device is not there yet.

    A look at the driver's devices comes first, so that nothing is tried which has to fail.
    """
    with contextlib.suppress(FileNotFoundError):  # a kernel without the driver says so itself
        if not any(name.startswith("virtio") for name in os.listdir(f"{_VIRTIO}/{module}")):
            return False
    try:
        attach()
    except OSError as error:
        if error.errno != missing:
            raise
        return False
    return True


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


def _make_mount_point(storage: Storage, source: str, point: str) -> None:
    if storage.driver in ("bind", "watchable-bind") and not os.path.isdir(source):
        os.makedirs(os.path.dirname(point), exist_ok=True)
        open(point, "ab").close()
    else:
        os.makedirs(point, exist_ok=True)


def _driver_option(storage: Storage, name: str) -> str:
    for word in storage.driver_options:
        key, _, value = word.partition("=")
        if key == name:
            return value
    return ""


def _open_within(top: str, path: str, mode: int) -> int:
    """Open ``path`` below ``top``, made as directories of ``mode`` where it is missing.

    Containers write there: a symbolic link on the way is refused (ELOOP).
    """
    here = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in filter(None, path.split("/")):
        made = False
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=here)
                made = True
            following = sc.open_in_root(here, name, os.O_PATH, sc.RESOLVE_NO_SYMLINKS)
        finally:
            os.close(here)
        here = following
        if made:
            os.chmod(f"/proc/self/fd/{here}", mode)  # whatever the umask is
    return here


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
