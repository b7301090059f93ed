"""The disks of a sandbox: what several containers may have of one."""

import os
import stat
from pathlib import Path
from typing import cast

import pytest

from kata.hypervisor.port import Disk, VirtualMachine
from kata.sandbox import disks
from kata.sandbox.disks import Disks
from kata.sandbox.errors import InvalidRequestError
from kata.storage import block_volume
from kata.storage.block_volume import OF_A_MOUNT, BlockFileSystem
from kata_agent import mount_options
from kata_api import oci

pytestmark = pytest.mark.unit

_NUMBER = os.makedev(8, 1)


class _Machine:
    def __init__(self) -> None:
        self.disks: list[Disk] = []

    async def plug(self, disk: Disk) -> None:
        self.disks.append(disk)

    async def unplug(self, disk: Disk) -> None:
        self.disks.remove(disk)


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


@pytest.fixture
def plugged(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> Disks:
    monkeypatch.setattr(disks, "_opened", lambda *_, **__: os.open(os.devnull, os.O_RDWR))
    return Disks(cast("VirtualMachine", machine))


def _asked(*options: str, fstype: str = "ext4") -> BlockFileSystem:
    """Return what a mount of a disk's file system comes to."""
    mount = oci.Mount(destination="/fs", type=fstype, source="/dev/sda1", options=options)
    node = os.stat_result((stat.S_IFBLK | 0o600, *(0 for _ in range(9))), {"st_rdev": _NUMBER})
    with pytest.MonkeyPatch.context() as host:
        host.setattr(block_volume.os, "stat", lambda _path: node)
        found = block_volume.file_system(mount)
    assert found is not None
    return found


def test_the_options_are_sorted_by_what_they_hold_for() -> None:
    found = _asked("rw", "nosuid", "errors=remount-ro", "noatime", "sync", "rslave")
    assert found.options == ("errors=remount-ro", "sync")
    assert found.own == ("rw", "nosuid", "noatime", "rslave")
    assert not found.read_only
    assert _asked("nodev", "ro").options == ("ro",)
    assert _asked("nodev", "ro").own == ("nodev", "ro")
    assert not _asked("ro", "rw").read_only  # the last word counts


def test_the_guest_takes_the_same_options_for_those_of_a_mount() -> None:
    words = {*mount_options.PROPAGATION, *mount_options.RECURSIVE}
    for word in ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"):
        assert mount_options.parse([word]).flags & mount_options.REMOUNTED
        words |= {word, word.removeprefix("no")}
    words |= {f"{no}{word}" for no in ("", "no") for word in ("relatime", "strictatime")} | {"rw"}
    assert words == OF_A_MOUNT


@pytest.mark.parametrize(
    "later",
    [
        ("ro",),
        ("rw", "nosuid", "nodev", "noexec"),
        ("ro", "noatime", "rslave"),
        ("data=ordered", "defaults"),
    ],
)
async def test_each_container_has_options_of_its_own(
    plugged: Disks, machine: _Machine, later: tuple[str, ...]
) -> None:
    data = [word for word in later if "=" in word]
    first = await plugged.mount("a", _asked("rw", *data))
    assert await plugged.mount("b", _asked(*later)) == first
    assert first.options == tuple(data)
    await plugged.release("a")
    assert [disk.read_only for disk in machine.disks] == [False]
    await plugged.release("b")
    assert machine.disks == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("rw",), "with rw: it is mounted with sync for container a"),
        ((), "with defaults: it is mounted with sync for container a"),
        (("sync", "data=journal"), "with sync,data=journal: it is mounted with sync for"),
        (("ext2", "sync"), "the ext2 of disk 8:1 .* it is mounted as ext4 for"),
    ],
)
async def test_options_that_hold_for_all_containers_are_refused_where_they_differ(
    plugged: Disks, machine: _Machine, options: tuple[str, ...], says: str
) -> None:
    await plugged.mount("a", _asked("sync"))
    other = options[:1] == ("ext2",)
    later = _asked(*options[other:], fstype="ext2" if other else "ext4")
    with pytest.raises(InvalidRequestError, match=says):
        await plugged.mount("b", later)
    await plugged.release("b")
    await plugged.plug("node", _NUMBER, read_only=False, exclusive=False)
    await plugged.release("a")
    await plugged.mount("b", later)  # nobody has it mounted any more
    assert len(machine.disks) == 1


async def test_who_writes_comes_before_who_reads(plugged: Disks) -> None:
    await plugged.plug("node", _NUMBER, read_only=False, exclusive=False)
    first = await plugged.mount("reader", _asked("ro"))
    assert first.options == ("ro",)  # the disk could be written to, its file system is not
    with pytest.raises(InvalidRequestError, match="it is mounted read-only for container reader"):
        await plugged.mount("writer", _asked("rw"))
    await plugged.release("node")


async def test_a_disk_that_is_read_only_is_written_to_by_nobody(plugged: Disks) -> None:
    await plugged.mount("reader", _asked("ro"))
    with pytest.raises(InvalidRequestError, match="read-only, for reader; let all of its"):
        await plugged.mount("writer", _asked("rw"))


def test_a_mount_of_no_disk_is_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = str(tmp_path / "file")
    assert block_volume.file_system(oci.Mount("/fs", "ext4", source)) is None
