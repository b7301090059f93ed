"""The mounts of an OCI specification, as the guest must see them, each by its kind.

A bind of a host's path goes through the share, unless it is memory (`tmpfs_volume`), a volume that
kubelet replaces (`watched_volume`), or a device (`block_volume`, and below for character devices).
Everything else (proc, devpts, …) is made by the agent from the guest's own kernel.
"""

import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from kata.host import devices, libc, mount_table
from kata.storage import block_volume, disk_rules, kubelet, tmpfs_volume, watched_volume
from kata.storage.block_volume import BlockFileSystem, BlockNode
from kata.storage.share import BindRights, Share
from kata.storage.tmpfs_volume import Part, Tmpfs
from kata.storage.watched_volume import Watched
from kata_api import oci

_log = logging.getLogger(__name__)

_GUEST_FILES = ("/etc/hostname", "/etc/resolv.conf")
"""What the agent writes of the pod; with a pause container, containerd does."""


class VolumeError(Exception):
    """A mount that cannot be given to the guest; the text names it and says why."""


@dataclass(slots=True)
class Volumes:
    """What a container's mounts come to: those of its specification, and what they need before."""

    mounts: list[oci.Mount] = field(default_factory=list)
    tmpfs: list[Tmpfs] = field(default_factory=list)
    parts: list["GuestPart"] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    file_systems: list[BlockFileSystem] = field(default_factory=list)
    devices: list[oci.Device] = field(default_factory=list)
    nodes: list[BlockNode] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """The nodes of disks that the container may not open, and is not given."""


@dataclass(frozen=True, slots=True)
class GuestPart:
    """A directory `path` below `top` of the guest, shown at `mount_point`; made with `mode`."""

    top: str
    path: str
    mount_point: str
    mode: int


def translate(
    container_id: str,
    requested: tuple[oci.Mount, ...],
    share: Share,
    *,
    standalone: bool = False,
    read_only: bool = False,
    rules: Sequence[oci.DeviceCgroup] = (),
) -> Volumes:
    """Return the mounts for the guest; binds of host paths are added to `share`.

    `rules` say which disks the container may open, of those whose nodes are bound.
    In a `standalone` pod nobody has made what all containers have on the host: a tmpfs at /dev/shm is
    the pod's then, and files in /etc that no mount is for are the guest's.
    Raises `VolumeError`; what was added until then goes with `share.remove(container_id)`.
    """
    volumes = Volumes()
    for number, mount in enumerate(requested):
        translation = _Translation(container_id, number, mount, share, volumes, rules)
        if is_bind(mount):
            translation.bind()
        elif standalone and (memory := tmpfs_volume.of_pod(mount.destination, mount.type)):
            translation.share_memory(memory)
        else:
            translation.mount()
    if standalone:
        volumes.mounts += _files_of_guest(requested, read_only=read_only)
    return volumes


def _files_of_guest(requested: tuple[oci.Mount, ...], *, read_only: bool) -> list[oci.Mount]:
    given = {os.path.normpath(mount.destination) for mount in requested}
    options = ("rbind", "rprivate", "ro" if read_only else "rw")
    return [
        oci.Mount(destination=path, source=path, type="bind", options=options)
        for path in _GUEST_FILES
        if path not in given
    ]


def is_bind(mount: oci.Mount) -> bool:
    """Tell whether a mount shows another path, by its type or its options as runc does."""
    return mount.type in ("bind", "rbind") or any(o in ("bind", "rbind") for o in mount.options)


@dataclass(frozen=True, slots=True)
class _Translation:
    """One mount on its way into the guest; what comes of it goes into `volumes`."""

    container_id: str
    number: int
    requested: oci.Mount
    share: Share
    volumes: Volumes
    rules: Sequence[oci.DeviceCgroup]

    def mount(self) -> None:
        """Take a mount that is no bind: its source may be a disk of the host."""
        try:
            found = block_volume.file_system(self.requested)
        except OSError as error:
            raise self._refused(error) from error
        if found is None:
            self.volumes.mounts.append(self.requested)
            return
        self.volumes.file_systems.append(found)
        self._add(found.mount_point, type="bind", options=("rbind", *found.own))

    def share_memory(self, memory: Tmpfs) -> None:
        """Have a tmpfs of the pod in place of the container's own, with the rights asked for."""
        self.volumes.tmpfs.append(memory)
        own = ("mode", "size", "nr_inodes", "nr_blocks", "uid", "gid")  # what a tmpfs is made with
        options = (o for o in self.requested.options if o.partition("=")[0] not in own)
        self._add(memory.mount_point, type="bind", options=("rbind", *options))

    def bind(self) -> None:
        """Take a bind of a path of the host."""
        mount = self.requested
        try:
            # Opened once: what is looked at is what is mounted, whoever renames things meanwhile.
            descriptor = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise VolumeError(
                f"cannot mount {mount.source} on {mount.destination}: the source does not exist"
            ) from error
        except OSError as error:
            raise self._refused(error) from error
        try:
            self._bind(descriptor, os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError as error:
            raise self._refused(error) from error
        finally:
            os.close(descriptor)

    def _bind(self, descriptor: int, source: str) -> None:
        mount = self.requested
        status = os.fstat(descriptor)
        for forbidden in ("/proc", "/sys"):
            if _is_within(source, forbidden):
                raise VolumeError(
                    f"cannot bind {mount.source} to {mount.destination}: {forbidden} belongs to "
                    "the host's kernel and the container has another; use the container's own"
                )
        if stat.S_ISBLK(status.st_mode):
            self._plug(source, status)
        elif stat.S_ISCHR(status.st_mode):
            self._add(_own_node(source, status))
        elif self._is_memory(descriptor, source):
            pass
        elif _is_within(source, "/dev") and stat.S_ISDIR(status.st_mode):
            self.volumes.mounts.append(mount)  # the guest's own; the host's means nothing to it
        elif watched_volume.is_copied(source):
            self._watch(descriptor, source)
        else:
            self._share(descriptor, source)

    def _plug(self, source: str, status: os.stat_result) -> None:
        mount = self.requested
        if not _is_within(source, "/dev"):
            # Whoever writes to a volume can make a node there for any disk of the host, and have it
            # bound as a subPath; under runc the device rules would keep it from being opened.
            raise VolumeError(
                f"cannot bind {mount.source} to {mount.destination}: it is the node of a disk, and "
                "lies where a pod may have made it; name the disk by its node below /dev, or list it "
                "in volumeDevices"
            )
        granted = disk_rules.access(status.st_rdev, self.rules)
        may_open = not granted.isdisjoint("rw")
        device = block_volume.bound_node(mount, status, may_open=may_open)
        self.volumes.devices.append(device)
        if may_open:
            read_only = "ro" in mount.options or "w" not in granted
            self.volumes.nodes.append(BlockNode(device.path, status.st_rdev, read_only))
            return
        self.volumes.closed.append(device.path)
        _log.warning(
            "the device rules of container %s (linux.resources.devices) do not let it open %s, which it "
            "has as %s; allow it there, or list the disk in volumeDevices",
            self.container_id,
            source,
            mount.destination,
        )

    def _is_memory(self, descriptor: int, source: str) -> bool:
        mount = self.requested
        try:
            part = tmpfs_volume.recognise(source, mount.destination, descriptor)
        except tmpfs_volume.HugePagesError as error:
            raise VolumeError(
                f"cannot mount {mount.source} on {mount.destination}: it consists of huge pages, "
                "which the guest's kernel has not set aside; use an emptyDir of medium Memory"
            ) from error
        if part is None:
            return False
        self.volumes.tmpfs.append(part.tmpfs)
        self._add(self._point_of(part))
        return True

    def _point_of(self, part: Part) -> str:
        if part.path in ("", "."):
            return part.tmpfs.mount_point
        point = self._own_point("/run/kata-containers/sandbox/parts")
        self.volumes.parts.append(GuestPart(part.tmpfs.mount_point, part.path, point, part.mode))
        return point

    def _watch(self, descriptor: int, source: str) -> None:
        shared = self.share.add_volume(
            self.container_id, self._name(), descriptor, BindRights(recursive=True, read_only=True)
        )
        point = self._own_point(watched_volume.GUEST_WATCHABLE)
        self.volumes.watched.append(Watched(source, shared, point))
        self._add(point)

    def _share(self, descriptor: int, source: str) -> None:
        options = self.requested.options
        # A pod's own directory is no less safe for being writable; who has it read-only in the
        # guest has the same inodes then, and so the sockets of who has it writable.
        own = kubelet.is_empty_dir(source)
        rights = BindRights(
            recursive="bind" not in options,
            read_only="ro" in options and not own,
            read_only_below="rro" in options and not own,
            propagation=self._propagation(),
        )
        shared = self.share.add_volume(self.container_id, self._name(), descriptor, rights)
        if rights.read_only and not rights.read_only_below and mount_table.has_below(source):
            # In the guest all of it is one file system: read-only there, it would be so below, too.
            options = tuple(word for word in options if word != "ro")
        self._add(shared, options=options)

    def _propagation(self) -> int:
        """Return how later mounts of the host reach the guest: not at all, or one way.

        The other way does not exist: a mount that the guest makes is one of its own kernel's.
        """
        options = self.requested.options
        if {"shared", "rshared"}.intersection(options):
            _log.warning(
                "%s on %s: mounts that the container makes below it stay in the guest (rshared, "
                "Bidirectional); those of the host do appear there",
                self.requested.source,
                self.requested.destination,
            )
            return libc.MS_SLAVE
        return libc.MS_SLAVE if {"slave", "rslave"}.intersection(options) else libc.MS_PRIVATE

    def _name(self) -> str:
        return os.path.basename(os.path.normpath(self.requested.destination)) or "root"

    def _own_point(self, folder: str) -> str:
        return os.path.join(folder, self.container_id, f"{self.number:03d}")

    def _add(self, source: str, **changes: object) -> None:
        self.volumes.mounts.append(
            msgspec.structs.replace(self.requested, source=source, **changes)
        )

    def _refused(self, error: OSError) -> VolumeError:
        mount = self.requested
        return VolumeError(
            f"cannot mount {mount.source} on {mount.destination}: {error.strerror or error}"
        )


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def _own_node(source: str, status: os.stat_result) -> str:
    """Return the guest's node of a character device, which has the name that the kernel gives it."""
    try:
        return f"/dev/{devices.name(status.st_rdev, block=False)}"
    except FileNotFoundError:
        return source  # a device that has no name; below /dev it may have the same path there
