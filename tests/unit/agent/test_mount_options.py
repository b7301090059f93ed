"""Option words and the bits they become."""

from __future__ import annotations

import pytest

from kata_agent import syscalls as sc
from kata_agent.mount_options import parse

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("words", "flags", "propagation", "data"),
    [
        ([], 0, (), ""),
        (["defaults"], 0, (), ""),
        (["nosuid", "nodev", "noexec"], sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC, (), ""),
        (["ro", "rw"], 0, (), ""),
        (["rw", "ro"], sc.MS_RDONLY, (), ""),
        (["rbind", "rprivate"], sc.MS_BIND | sc.MS_REC, (sc.MS_PRIVATE | sc.MS_REC,), ""),
        (["mode=755", "size=65536k", "strictatime"], sc.MS_STRICTATIME, (), "mode=755,size=65536k"),
        (["noatime", "atime"], 0, (), ""),
        (["", "trans=virtio", "version=9p2000.L"], 0, (), "trans=virtio,version=9p2000.L"),
        (["slave", "rshared"], 0, (sc.MS_SLAVE, sc.MS_SHARED | sc.MS_REC), ""),
    ],
)
def test_parse(words: list[str], flags: int, propagation: tuple[int, ...], data: str) -> None:
    assert parse(words) == (flags, propagation, data, 0, 0, False)


@pytest.mark.parametrize(
    ("words", "attributes", "cleared"),
    [
        (["rro"], sc.MOUNT_ATTR_RDONLY, sc.MOUNT_ATTR_RDONLY),
        (["rro", "rrw"], 0, sc.MOUNT_ATTR_RDONLY),
        # The kernel takes one kind of access times for another, never a part of them.
        (["rnoatime"], sc.MOUNT_ATTR_NOATIME, sc.MOUNT_ATTR__ATIME),
        (["rnoatime", "rstrictatime"], sc.MOUNT_ATTR_STRICTATIME, sc.MOUNT_ATTR__ATIME),
        (["ratime"], 0, sc.MOUNT_ATTR__ATIME),
        (["rnodev", "rnodiratime"], 0x84, 0x84),
    ],
)
def test_what_holds_for_all_below(words: list[str], attributes: int, cleared: int) -> None:
    options = parse(["rbind", "ro", *words])
    assert (options.set_below, options.clear_below) == (attributes, cleared)
    assert (options.flags, options.data) == (sc.MS_BIND | sc.MS_REC | sc.MS_RDONLY, "")
