"""Disks that were plugged into the machine: how they are found, and how a specification names them.

The host says which disk it means by its serial number (virtio-blk), by its path on the PCI bus as
upstream's does ("02/01": slots from the root on), or by its node.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections.abc import Iterable
from typing import Any

from kata_agent.uevents import Uevents
from kata_api.agent.agent_pb2 import Device
from kata_api.agent.oci_pb2 import LinuxDevice, Mount, Spec
from ttrpc import RpcError, StatusCode

TYPES = ("blk",)

MODULES = ("virtio_blk",)

# A disk is there 0.2 s after the host has added it, under TCG, and later on a busy host.
_WAIT_SECONDS = 10.0

_PCI_PATH = re.compile(r"[0-9a-f]{2}(\.[0-7])?(/[0-9a-f]{2}(\.[0-7])?)*")


async def find(identity: str, sys: str = "/sys") -> str:
    """Wait for a disk and return its node.

    Raises ``RpcError`` NOT_FOUND when it does not appear within 10 s.
    """
    with Uevents(_WAIT_SECONDS) as announced:
        in_time = True
        while not (node := _find(identity, sys)):
            if not in_time:
                raise RpcError(
                    StatusCode.NOT_FOUND,
                    f"no disk {identity!r} has appeared within {_WAIT_SECONDS:g} s; the guest has "
                    f"{', '.join(sorted(os.listdir(f'{sys}/block'))) or 'none'}",
                )
            in_time = await announced.wait("add")
        return node


def _find(identity: str, sys: str) -> str:
    if identity.startswith("/dev/"):
        return identity if os.path.exists(identity) else ""
    if _PCI_PATH.fullmatch(identity):
        slots = (slot if "." in slot else f"{slot}.0" for slot in identity.split("/"))
        below = "/".join(f"0000:??:{slot}" for slot in slots)
        for path in glob.glob(f"{sys}/devices/pci0000:00/{below}/virtio*/block/*"):
            return f"/dev/{os.path.basename(path)}"
        return ""
    for path in glob.glob(f"{sys}/block/*/serial"):
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read().strip() == identity:
                return f"/dev/{os.path.basename(os.path.dirname(path))}"
    return ""


async def give(devices: Iterable[Device], spec: Spec) -> None:
    """Have a specification mean the disks of the guest where it lists those of the host.

    Raises ``RpcError`` INVALID_ARGUMENT for a device of another type, or one that is not listed.
    """
    numbers: dict[tuple[int, int], tuple[int, int]] = {}
    for device in devices:
        listed = next((d for d in spec.Linux.Devices if d.Path == device.container_path), None)
        if device.type not in TYPES or listed is None:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"device {device.container_path!r} of type {device.type!r}: the types are "
                f"{', '.join(TYPES)}, and linux.devices has to list the path",
            )
        node = await find(device.id or device.vm_path)
        number = os.stat(node).st_rdev
        numbers[listed.Major, listed.Minor] = os.major(number), os.minor(number)
        if not listed.Path.startswith("/dev/"):
            # The root file system opens no devices: show the guest's own node there.
            os.chmod(node, listed.FileMode & 0o777 or 0o666)
            os.chown(node, listed.UID, listed.GID)
            _show(spec, node, listed)
    for closed in [d for d in spec.Linux.Devices if _is_closed(d)]:
        if not closed.Path.startswith("/dev/"):
            _show(spec, _node_of_none(closed), closed)
    _renumber(spec, numbers)
    bound = {mount.destination for mount in spec.Mounts if mount.source.startswith("/dev/")}
    for listed in [d for d in spec.Linux.Devices if d.Path in bound]:
        spec.Linux.Devices.remove(listed)


def _is_closed(listed: LinuxDevice) -> bool:
    """Tell whether a device stands for a disk that the container may not open, and is not given."""
    return (listed.Type, listed.Major, listed.Minor) == ("b", 0, 0)


def _node_of_none(listed: LinuxDevice) -> str:
    """Return a node that leads to no disk: the shared root file system may not be able to hold one."""
    mode = listed.FileMode & 0o777 or 0o666
    node = f"/dev/no-disk-{mode:o}-{listed.UID}-{listed.GID}"
    with contextlib.suppress(FileExistsError):  # for another container, which has the same
        os.mknod(node, stat.S_IFBLK, os.makedev(0, 0))
        os.chmod(node, mode)
        os.chown(node, listed.UID, listed.GID)
    return node


def _show(spec: Spec, node: str, listed: LinuxDevice) -> None:
    bind = Mount(destination=listed.Path, source=node, type="bind", options=["bind"])
    spec.Mounts.append(bind)


def _renumber(spec: Spec, numbers: dict[tuple[int, int], tuple[int, int]]) -> None:
    """Replace numbers of the host's disks, all at once: one's old number may be another's new."""
    block = spec.Linux.Resources.BlockIO
    entries: list[Any] = [
        *(device for device in spec.Linux.Devices if device.Type == "b"),
        *(rule for rule in spec.Linux.Resources.Devices if rule.Type == "b"),
        *block.WeightDevice,
        *block.ThrottleReadBpsDevice,
        *block.ThrottleWriteBpsDevice,
        *block.ThrottleReadIOPSDevice,
        *block.ThrottleWriteIOPSDevice,
    ]
    for entry in entries:
        entry.Major, entry.Minor = numbers.get(
            (entry.Major, entry.Minor), (entry.Major, entry.Minor)
        )
