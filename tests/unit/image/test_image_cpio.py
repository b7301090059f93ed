"""The cpio writer, read back by a reader of its own."""

import io
import stat
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.image.cpio import (
    CharacterDevice,
    Directory,
    File,
    HardLink,
    Node,
    Symlink,
    write,
)

pytestmark = pytest.mark.unit


class Entry(NamedTuple):
    name: str
    inode: int
    mode: int
    owner: tuple[int, int]
    links: int
    time: int
    device: tuple[int, int]
    data: bytes


def packed(nodes: dict[str, Node]) -> bytes:
    stream = io.BytesIO()
    size = write(stream, nodes)
    assert size == len(stream.getvalue())
    return stream.getvalue()


def read(archive: bytes) -> list[Entry]:
    """Read newc as Linux's buffer-format.rst lays it out: 6 bytes of magic, 13 hex fields."""
    entries, at = [], 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, links, time, size, _, _, major, minor, name_size, check = fields
        assert check == 0
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        data_at = (at + 110 + name_size + 3) & ~3
        data = archive[data_at : data_at + size]
        at = (data_at + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert set(archive[at:]) <= {0}
            assert len(archive) % 512 == 0
            return entries
        entry = Entry(
            name[:-1].decode(), inode, mode, (uid, gid), links, time, (major, minor), data
        )
        entries.append(entry)


def test_every_kind_of_node_is_written_in_order() -> None:
    nodes: dict[str, Node] = {
        "usr/bin/b": HardLink("usr/bin/a"),
        "usr/bin/a": File(b"program", 0o755),
        "link": Symlink("usr/bin/a"),
        "dev/console": CharacterDevice(5, 1),
        "tmp": Directory(0o1777),
    }
    entries = read(packed(nodes))
    assert [
        (entry.name, entry.inode, entry.mode, entry.links, entry.device, entry.data)
        for entry in entries
    ] == [
        ("dev", 1, stat.S_IFDIR | 0o755, 2, (0, 0), b""),
        ("dev/console", 2, stat.S_IFCHR | 0o600, 1, (5, 1), b""),
        ("link", 3, stat.S_IFLNK | 0o777, 1, (0, 0), b"usr/bin/a"),
        ("tmp", 4, stat.S_IFDIR | 0o1777, 2, (0, 0), b""),
        ("usr", 5, stat.S_IFDIR | 0o755, 2, (0, 0), b""),
        ("usr/bin", 6, stat.S_IFDIR | 0o755, 2, (0, 0), b""),
        ("usr/bin/a", 7, stat.S_IFREG | 0o755, 2, (0, 0), b""),
        ("usr/bin/b", 7, stat.S_IFREG | 0o755, 2, (0, 0), b"program"),
    ]
    assert {entry.owner for entry in entries} == {(0, 0)}
    assert {entry.time for entry in entries} == {0}


@pytest.mark.parametrize("path", ["", "/", "/etc", "a//b", "../a", "a/../b", "a/", "."])
def test_a_path_that_leaves_the_archive_is_refused(path: str) -> None:
    stream = io.BytesIO()
    with pytest.raises(ValueError, match="no relative path"):
        write(stream, {path: File(b"")})
    assert stream.getvalue() == b""


@pytest.mark.parametrize("target", ["missing", "folder", "link"])
def test_a_hard_link_to_no_file_is_refused(target: str) -> None:
    nodes: dict[str, Node] = {"link": HardLink(target), "folder": Directory()}
    with pytest.raises(ValueError, match="hard link"):
        packed(nodes)


_NAMES = st.text("abc", min_size=1, max_size=3)
_TREES = st.dictionaries(_NAMES, st.binary(max_size=9), max_size=8)


@given(_TREES, st.randoms())
def test_the_order_of_adding_does_not_count(tree: dict[str, bytes], random: object) -> None:
    shuffled = list(tree)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    first = packed({name: File(data) for name, data in tree.items()})
    assert packed({name: File(tree[name]) for name in shuffled}) == first
    assert {entry.name: entry.data for entry in read(first)} == tree
