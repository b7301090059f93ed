"""Disks of the host that a container is to have: as a node, or as the file system on them.

A disk is told by its number (st_rdev).  It is plugged into the machine under a name that follows from
that number, by which the guest finds it.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from kata.storage import disk_rules
from kata_api import oci

GUEST_FILE_SYSTEMS = "/run/kata-containers/sandbox/disks"

_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "erofs", "squashfs", "vfat", "iso9660")
"""File systems that lie on a disk; the guest's kernel says which of them it has."""

_RIGHTS = ("suid", "dev", "exec", "atime", "diratime", "relatime", "strictatime", "symfollow")
_PROPAGATION = ("private", "shared", "slave", "unbindable")

OF_A_MOUNT = frozenset(
    (
        *("ro", "rw", "rro", "rrw"),
        *(f"{each}{word}" for word in _RIGHTS for each in ("", "no", "r", "rno")),
        *(f"{each}{word}" for word in _PROPAGATION for each in ("", "r")),
    )
)
"""Options that each mount of a file system has for itself; see mount(8)."""

_WITHOUT_EFFECT = frozenset({"", "defaults", "async", "loud", "silent"})
"""Options that change nothing of a file system which has no others."""

_ANY = {None, -1}
"""How a device rule says that it is about every number."""


@dataclass(frozen=True, slots=True)
class BlockNode:
    """A node of the container at `path`, for the host's disk `number`."""

    path: str
    number: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class BlockFileSystem:
    """The file system on the host's disk `number`, as the guest mounts it once for all containers.

    `options` are those of the file system; a container has it with `own` options.
    """

    number: int
    fstype: str
    options: tuple[str, ...]
    mount_point: str
    own: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        """Tell whether nothing is written to the disk."""
        return "ro" in self.options

    def contradiction(self, other: "BlockFileSystem") -> str:
        """Return what `other`, which is mounted, has otherwise; "" if it serves this one, too."""
        if self.fstype != other.fstype:
            return f"as {other.fstype}"
        if other.read_only and not self.read_only:
            return "read-only"
        theirs = self._lasting(other)
        if self._lasting(self) != theirs:
            return f"with {', '.join(sorted(theirs)) or 'no such options'}"
        return ""

    @staticmethod
    def _lasting(one: "BlockFileSystem") -> set[str]:
        return set(one.options) - _WITHOUT_EFFECT - {"ro"}


def disk_name(number: int) -> str:
    """Return the name of a disk in the machine, and its serial number: at most 20 characters."""
    return f"blk{os.major(number)}-{os.minor(number)}"


def bound_node(mount: oci.Mount, status: os.stat_result, *, may_open: bool) -> oci.Device:
    """Return the device of a specification that a bind of a disk's node comes to.

    One that the container `may_open` is that disk; any other is a node and no more.
    """
    number = status.st_rdev if may_open else disk_rules.NOWHERE
    return oci.Device(
        path=os.path.normpath(mount.destination),
        type="b",
        major=os.major(number),
        minor=os.minor(number),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def file_system(mount: oci.Mount) -> BlockFileSystem | None:
    """Return the file system that a mount of a disk comes to; None for any other mount.

    Raises `OSError` when the source cannot be looked at.
    """
    if mount.type not in _LOCAL or not mount.source.startswith("/"):
        return None
    status = os.stat(mount.source)
    if not stat.S_ISBLK(status.st_mode):
        return None
    point = os.path.join(GUEST_FILE_SYSTEMS, disk_name(status.st_rdev))
    own = tuple(word for word in mount.options if word in OF_A_MOUNT)
    options = tuple(word for word in mount.options if word not in OF_A_MOUNT)
    said = [word for word in own if word in ("ro", "rw")]
    if said[-1:] == ["ro"]:
        options = ("ro", *options)
    return BlockFileSystem(status.st_rdev, mount.type, options, point, own)


def listed_nodes(
    devices: Sequence[oci.Device], rules: Sequence[oci.DeviceCgroup]
) -> list[BlockNode]:
    """Return the nodes of disks that a specification lists, unless they are just the host's.

    A privileged container is given all devices of the host by containerd, under their own names.  A
    node of a disk that the host has not is no more than a node, as under runc.
    """
    everything = any(
        rule.allow and rule.type in ("a", "") and {rule.major, rule.minor} <= _ANY for rule in rules
    )
    return [
        BlockNode(device.path, number, not _may_write(device, rules))
        for device in devices
        if device.type == "b"
        and (number := os.makedev(device.major, device.minor))
        and host_has(device)
        and not (everything and _is_host_s(device.path, number))
    ]


def host_has(device: oci.Device) -> bool:
    """Tell whether the host has the disk of a device that a specification lists."""
    return os.path.exists(f"/sys/dev/block/{device.major}:{device.minor}")


def _is_host_s(path: str, number: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISBLK(found.st_mode) and found.st_rdev == number


def _may_write(device: oci.Device, rules: Sequence[oci.DeviceCgroup]) -> bool:
    return any(
        rule.allow
        and "w" in rule.access
        and rule.type in ("a", "b", "")
        and rule.major in {*_ANY, device.major}
        and rule.minor in {*_ANY, device.minor}
        for rule in rules
    )
