"""Memory that the containers of a pod share as files: emptyDir of medium Memory, and /dev/shm.

On the host each is a tmpfs that kubelet or containerd has mounted.  In the guest it is another, of the
same size, mode and owner, that lives as long as the sandbox: the host's holds nothing.
"""

import os
import stat
from dataclasses import dataclass

from kata.host import mount_table
from kata.storage import kubelet

GUEST_SHM = "/run/kata-containers/sandbox/shm"
GUEST_EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
"""Where the guest has them; both paths are upstream's."""

_SHM = "/dev/shm"

POD_SHM_SIZE = 64 << 20
"""Bytes of a pod's /dev/shm where nothing is mounted for it on the host: containerd's figure."""


class HugePagesError(Exception):
    """An emptyDir of huge pages, which the guest has none of."""


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A tmpfs of the guest: where it is, and the options that it is made with."""

    mount_point: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A directory below a tmpfs of the guest, with the mode it is made with; "" is the tmpfs itself."""

    tmpfs: Tmpfs
    path: str = ""
    mode: int = 0o755


def of_pod(destination: str, fstype: str) -> Tmpfs | None:
    """Return the pod's memory for a tmpfs that is a container's own /dev/shm; None for another mount."""
    if fstype != "tmpfs" or os.path.normpath(destination) != _SHM:
        return None
    return Tmpfs(GUEST_SHM, ("mode=1777", f"size={POD_SHM_SIZE}"))


def recognise(path: str, destination: str, descriptor: int) -> Part | None:
    """Return what a container gets for a bind of `path`, open at `descriptor`; None for another kind.

    Raises `HugePagesError`.
    """
    mount = mount_table.find(descriptor)
    status = os.fstat(descriptor)
    if mount is None or not stat.S_ISDIR(status.st_mode):
        return None
    if mount.fstype == "hugetlbfs":
        raise HugePagesError
    if mount.fstype != "tmpfs":
        return None
    if kubelet.is_empty_dir(path):
        return Part(_of_empty_dir(path, status)) if mount.point == path else None
    if volume := kubelet.empty_dir_of_subpath(path):
        whole = mount_table.find_at(volume, mount.device)
        if whole is None or whole.fstype != "tmpfs":
            return None
        below = os.path.relpath(mount.root, whole.root)
        below = os.path.normpath(os.path.join(below, os.path.relpath(path, mount.point)))
        return Part(_of_empty_dir(volume, os.stat(volume)), below, stat.S_IMODE(status.st_mode))
    if os.path.normpath(destination) == _SHM and mount.point == path:
        own = path != _SHM  # that of the host is as large as the host
        return Part(Tmpfs(GUEST_SHM, ("mode=1777", *([_size(path)] if own else []))))
    return None


def _of_empty_dir(path: str, status: os.stat_result) -> Tmpfs:
    options = (
        f"mode={stat.S_IMODE(status.st_mode):04o}",
        f"uid={status.st_uid}",
        f"gid={status.st_gid}",
        _size(path),
    )
    return Tmpfs(os.path.join(GUEST_EPHEMERAL, os.path.basename(path)), options)


def _size(path: str) -> str:
    room = os.statvfs(path)
    return f"size={room.f_blocks * room.f_frsize}"
