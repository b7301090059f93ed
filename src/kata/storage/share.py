"""The directory that a sandbox shares with its guest.

On the host it is a tree of mount points, `<root>/<sandbox>/rw`, with one folder per container and
one for the volumes.  A volume that several containers have is there once: its files are the same
inodes for all of them, which is what connects the two ends of a socket or FIFO in it.  What is served to the guest is `ro`, a read-only bind of it: mounts made later below `rw` appear
below `ro` with their own rights, while the folders between them cannot be written by the guest.
"""

import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kata.host import libc, mount_table, mounts

HOST_ROOT = "/run/kata-containers/shared/sandboxes"
GUEST_ROOT = "/run/kata-containers/shared/containers"
"""Where the agent mounts the share; both paths are upstream's."""

TAG = "kataShared"

_VOLUMES = ".volumes"
"""The folder of the volumes; no container's id begins with a dot."""


def containers(name: str, root: str = HOST_ROOT) -> list[str]:
    """Return the ids of the containers that have something on a sandbox's share, in order.

    Raises `FileNotFoundError` when there is no such share.
    """
    return sorted(set(os.listdir(os.path.join(root, name, "rw"))) - {_VOLUMES})


class BindRights(NamedTuple):
    """How a directory or file of the host is bound on the share.

    `read_only` is about the mount itself, `read_only_below` about those below it too; `propagation`
    is how later mounts of the host reach it.
    """

    recursive: bool
    read_only: bool
    read_only_below: bool = False
    propagation: int = libc.MS_PRIVATE


@dataclass(slots=True)
class _Volume:
    """A bind on the share, and the containers that have it."""

    relative: str
    users: set[str]


class Share:
    """A sandbox's shared directory, from `create` to `destroy`."""

    def __init__(self, name: str, root: str = HOST_ROOT) -> None:
        self._root = root
        self._take_name(name)
        self._mounted: dict[str, list[str]] = {}
        self._volumes: dict[tuple[int, int, int, BindRights], _Volume] = {}
        self._numbers = itertools.count()

    def _take_name(self, name: str) -> None:
        self._base = os.path.join(self._root, name)
        self._writable = os.path.join(self._base, "rw")
        self.served = os.path.join(self._base, "ro")

    def rename(self, name: str) -> None:
        """Give the tree another name, before anything was added to it; raises `OSError`.

        It stays served: whoever has it open follows the directories, not their names.
        """
        os.rename(self._base, os.path.join(self._root, name))
        self._take_name(name)

    @property
    def base(self) -> str:
        """The directory that holds everything on the host."""
        return self._base

    def create(self) -> None:
        """Make the tree; raises `OSError` and leaves at most empty directories."""
        os.makedirs(self._writable, mode=0o700)
        os.makedirs(self.served, mode=0o700)
        mounts.bind(self._writable, self.served)
        libc.mount(
            "", self.served, "", libc.MS_BIND | libc.MS_REMOUNT | libc.MS_RDONLY | libc.MS_NODEV
        )

    def add_root(self, container_id: str, layers: Sequence[mounts.Mount]) -> str:
        """Mount a container's root filesystem and return its path in the guest."""
        relative = os.path.join(container_id, "rootfs")
        target = self._make_directory(relative)
        self._mounted.setdefault(container_id, []).append(target)
        mounts.mount_root(layers, target)
        return os.path.join(GUEST_ROOT, relative)

    def add_volume(self, container_id: str, name: str, source: int, rights: BindRights) -> str:
        """Bind the file or directory behind a descriptor, and return its path in the guest.

        One that another container has with the same rights is that one's.  `name` is a part of the
        path, for whoever looks at it.  Raises `OSError`.
        """
        # A file system has its number, and a file its, for as long as it is mounted here.  That of the
        # mount it came by, which has options, can be another's once the host has unmounted it.
        found = os.fstat(source)
        key = (mount_table.mount_id(source), found.st_dev, found.st_ino, rights)
        volume = self._volumes.get(key)
        if volume is None:
            # In a folder of its own, since only folders are pruned.
            relative = os.path.join(_VOLUMES, f"{next(self._numbers):03d}", name)
            target = self._make_point(relative, found.st_mode)
            volume = self._volumes[key] = _Volume(relative, {container_id})
            mounts.bind(
                f"/proc/self/fd/{source}",
                target,
                recursive=rights.recursive,
                read_only=rights.read_only,
                read_only_below=rights.read_only_below,
                attributes=mounts.UNTRUSTED,
                propagation=rights.propagation,
            )
        volume.users.add(container_id)
        return os.path.join(GUEST_ROOT, volume.relative)

    def _make_point(self, relative: str, mode: int) -> str:
        if stat.S_ISDIR(mode):
            return self._make_directory(relative)
        target = os.path.join(self._writable, relative)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return target

    def _make_directory(self, relative: str) -> str:
        path = os.path.join(self._writable, relative)
        os.makedirs(path, mode=0o700)
        return path

    def remove(self, container_id: str) -> None:
        """Unmount and remove all that was added for a container and no other has.

        May be called again.  Raises `OSError`; a repetition goes on where it stopped.
        """
        for key, volume in list(self._volumes.items()):
            if volume.users <= {container_id}:
                target = os.path.join(self._writable, volume.relative)
                mounts.unmount(target)
                mounts.prune(os.path.dirname(target))
                del self._volumes[key]
            volume.users.discard(container_id)
        for target in reversed(self._mounted.get(container_id, [])):
            mounts.unmount(target)
        self._mounted.pop(container_id, None)  # not before: one that failed is tried again
        mounts.prune(os.path.join(self._writable, container_id))

    def destroy(self) -> None:
        """Unmount and remove everything; may be called again."""
        users = (user for volume in self._volumes.values() for user in volume.users)
        for container_id in {*self._mounted, *users}:
            self.remove(container_id)
        mounts.unmount(self.served)
        mounts.prune(self._base)
