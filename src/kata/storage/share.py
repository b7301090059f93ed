"""The directory that a sandbox shares with its guest.

On the host it is a tree of mount points, `<root>/<sandbox>/rw`, with one folder per container.
What is served to the guest is `ro`, a read-only bind of it: mounts made later below `rw` appear
below `ro` with their own rights, while the folders between them cannot be written by the guest.
"""

import os
import stat
from collections.abc import Sequence

from kata.host import libc, mounts

HOST_ROOT = "/run/kata-containers/shared/sandboxes"
GUEST_ROOT = "/run/kata-containers/shared/containers"
"""Where the agent mounts the share; both paths are upstream's."""

TAG = "kataShared"


def containers(name: str, root: str = HOST_ROOT) -> list[str]:
    """Return the ids of the containers that have something on a sandbox's share, in order.

    Raises `FileNotFoundError` when there is no such share.
    """
    return sorted(os.listdir(os.path.join(root, name, "rw")))


class Share:
    """A sandbox's shared directory, from `create` to `destroy`."""

    def __init__(self, name: str, root: str = HOST_ROOT) -> None:
        self._base = os.path.join(root, name)
        self._writable = os.path.join(self._base, "rw")
        self.served = os.path.join(self._base, "ro")
        self._mounted: dict[str, list[str]] = {}

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

    def add_bind(
        self,
        container_id: str,
        name: str,
        source: int,
        *,
        recursive: bool,
        read_only: bool,
        read_only_below: bool = False,
        propagation: int = libc.MS_PRIVATE,
    ) -> str:
        """Bind the file or directory behind a descriptor under `name`; return its path in the guest.

        Raises `OSError`.
        """
        relative = os.path.join(container_id, name)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            target = self._make_directory(relative)
        else:
            target = os.path.join(self._writable, relative)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._mounted.setdefault(container_id, []).append(target)
        mounts.bind(
            f"/proc/self/fd/{source}",
            target,
            recursive=recursive,
            read_only=read_only,
            read_only_below=read_only_below,
            attributes=mounts.UNTRUSTED,
            propagation=propagation,
        )
        return os.path.join(GUEST_ROOT, relative)

    def _make_directory(self, relative: str) -> str:
        path = os.path.join(self._writable, relative)
        os.makedirs(path, mode=0o700)
        return path

    def remove(self, container_id: str) -> None:
        """Unmount and remove all that was added for a container; may be called again.

        Raises `OSError`; a repetition goes on where it stopped.
        """
        for target in reversed(self._mounted.get(container_id, [])):
            mounts.unmount(target)
        self._mounted.pop(container_id, None)  # not before: one that failed is tried again
        mounts.prune(os.path.join(self._writable, container_id))

    def destroy(self) -> None:
        """Unmount and remove everything; may be called again."""
        for container_id in list(self._mounted):
            self.remove(container_id)
        mounts.unmount(self.served)
        mounts.prune(self._base)
