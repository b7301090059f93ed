"""The disks of the host that a machine has been given, each once, for as long as a container uses it.

Nothing of them is left on the host when the shim dies: the machine holds a descriptor, and ends with it.
"""

import asyncio
import logging
import os
from dataclasses import dataclass, field

from kata.agent_client.agent import GuestStorage
from kata.host import devices
from kata.hypervisor.port import Disk, HypervisorError, VirtualMachine
from kata.sandbox.errors import InvalidRequestError
from kata.storage.block_volume import BlockFileSystem, disk_name

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plugged:
    """A disk in the machine, and the containers that use it."""

    disk: Disk
    exclusive: bool
    """Whether it was opened so that the host cannot mount it."""
    users: set[str] = field(default_factory=set)
    mounts: list[tuple[str, BlockFileSystem]] = field(default_factory=list)
    """Which containers have its file system, and as what the first of them had it mounted."""


class Disks:
    """The disks of one machine."""

    def __init__(self, machine: VirtualMachine) -> None:
        self._machine = machine
        self._plugged: dict[int, _Plugged] = {}
        self._turn = asyncio.Lock()  # two containers that want one disk come one after the other

    def __repr__(self) -> str:
        return f"<Disks {', '.join(each.disk.name for each in self._plugged.values()) or 'none'}>"

    async def plug(
        self, container_id: str, number: int, *, read_only: bool, exclusive: bool
    ) -> str:
        """Give the machine the host's disk `number` (st_rdev), unless it has it; return its serial.

        An exclusive one is not mounted on the host.  Raises `InvalidRequestError` with the reason
        when the disk is not to be had so, and `HypervisorError`; the machine does not have it then.
        """
        name = disk_name(number)
        async with self._turn:
            known = self._plugged.get(number)
            if known is None:
                known = await self._add(number, name, read_only=read_only, exclusive=exclusive)
            elif known.disk.read_only and not read_only:
                raise InvalidRequestError(
                    f"disk {os.major(number)}:{os.minor(number)} is in the sandbox read-only, for "
                    f"{', '.join(sorted(known.users))}; let all of its containers write to it, or none"
                )
            elif exclusive and not known.exclusive:  # the machine's own would not be in the way
                os.close(_opened(number, read_only=read_only, exclusive=True))
            known.users.add(container_id)
        return name

    async def mount(self, container_id: str, wanted: BlockFileSystem) -> GuestStorage:
        """Give the machine the disk of a file system; return it as the guest is to mount it.

        That is as the first of the containers which have it wanted it.  Raises `InvalidRequestError`
        for one that cannot be had as they have it, and what `plug` raises.
        """
        number, read_only = wanted.number, wanted.read_only
        serial = await self.plug(container_id, number, read_only=read_only, exclusive=not read_only)
        mounts = self._plugged[number].mounts
        holder, found = mounts[0] if mounts else (container_id, wanted)
        if contradiction := wanted.contradiction(found):
            raise InvalidRequestError(
                f"container {container_id} cannot have the {wanted.fstype} of disk "
                f"{os.major(number)}:{os.minor(number)} mounted with "
                f"{','.join(dict.fromkeys((*wanted.options, *wanted.own))) or 'defaults'}: it is mounted "
                f"{contradiction} for container {holder}, and these options hold for the whole "
                "sandbox; ask for the same in each, or begin with the container that writes"
            )
        mounts.append((container_id, found))
        return GuestStorage("blk", serial, found.fstype, found.mount_point, found.options)

    async def _add(self, number: int, name: str, *, read_only: bool, exclusive: bool) -> _Plugged:
        descriptor = _opened(number, read_only=read_only, exclusive=exclusive)
        try:
            disk = Disk(name, descriptor, read_only)
            await self._machine.plug(disk)
        finally:
            os.close(descriptor)
        self._plugged[number] = _Plugged(disk, exclusive)
        return self._plugged[number]

    async def release(self, container_id: str) -> None:
        """Take from the machine what no other container uses; may be called again.

        A disk that the guest does not let go of stays in the machine until that ends, with a warning.
        """
        async with self._turn:
            for number, known in list(self._plugged.items()):
                if container_id not in known.users:
                    continue
                known.users.discard(container_id)
                known.mounts = [each for each in known.mounts if each[0] != container_id]
                if known.users:
                    continue
                try:
                    await self._machine.unplug(known.disk)
                except HypervisorError as error:
                    # It is in no container; should one want it again, it is there.
                    _log.warning("a disk stays in the machine: %s", error)
                else:
                    del self._plugged[number]


def _opened(number: int, *, read_only: bool, exclusive: bool) -> int:
    try:
        return devices.open_block(number, read_only=read_only, exclusive=exclusive)
    except OSError as error:
        raise InvalidRequestError(
            f"cannot open disk {os.major(number)}:{os.minor(number)} of the host: {error}"
            + ("; is it mounted there?" if exclusive else "")
        ) from error
