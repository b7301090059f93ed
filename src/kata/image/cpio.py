"""A deterministic writer of initramfs archives in the "newc" cpio format.

The format is Linux's Documentation/driver-api/early-userspace/buffer-format.rst. The same nodes
give the same bytes: sorted by path, times 0, owner root, inode numbers in order of first use.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
# The archive's end is padded as cpio and gen_init_cpio do.
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; its permission bits."""

    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; its bytes and permission bits."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; where it points."""

    target: str


@dataclass(frozen=True, slots=True)
class HardLink:
    """Another name of a regular file; that file's path in the archive."""

    to: str


@dataclass(frozen=True, slots=True)
class CharacterDevice:
    """A character device; its numbers and permission bits."""

    major: int
    minor: int
    mode: int = 0o600


Node: TypeAlias = Directory | File | Symlink | HardLink | CharacterDevice


def write(stream: BinaryIO, nodes: Mapping[str, Node]) -> int:
    """Write an archive of nodes by relative path and return its size in bytes.

    Paths have no leading slash. Missing parent directories are added with mode 755. Raises
    `ValueError`, before a byte is written, for a path that is empty, absolute or leaves the
    archive, and for a hard link to anything but a file of the archive.
    """
    tree = _with_parents(nodes)
    names = _names_of_files(tree)
    written = inode = 0
    inodes: dict[str, int] = {}
    for path in sorted(tree):
        node = tree[path]
        target = node.to if isinstance(node, HardLink) else path
        if target not in inodes:
            inode += 1
            inodes[target] = inode
        links = names.get(target, [path])
        # A linked file's data goes with its last name: the kernel writes there to the inode
        # that the names before it have made.
        data_here = path == links[-1]
        written += stream.write(
            _record(path, tree[target], inodes[target], len(links), data_here=data_here)
        )
    written += stream.write(_header(_TRAILER, 0, 0, 1, b""))
    written += stream.write(b"\0" * (-written % _BLOCK_BYTES))
    return written


def _with_parents(nodes: Mapping[str, Node]) -> dict[str, Node]:
    tree: dict[str, Node] = dict(nodes)
    for path in nodes:
        parts = path.split("/")
        if not all(part not in ("", ".", "..") for part in parts):
            raise ValueError(f"{path!r} is no relative path inside the archive")
        for depth in range(1, len(parts)):
            tree.setdefault("/".join(parts[:depth]), Directory())
    return tree


def _names_of_files(tree: Mapping[str, Node]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for path in sorted(tree):
        node = tree[path]
        if isinstance(node, HardLink):
            links_a_file = isinstance(tree.get(node.to), File)
            if not links_a_file:
                raise ValueError(f"{path!r} is a hard link to {node.to!r}, which is no file here")
            names.setdefault(node.to, []).append(path)
        elif isinstance(node, File):
            names.setdefault(path, []).append(path)
    return names


def _record(path: str, node: Node, inode: int, links: int, *, data_here: bool) -> bytes:
    match node:
        case Directory(mode):
            # The kernel counts a directory's links itself; 2 is what an empty one has.
            return _header(path, inode, stat.S_IFDIR | mode, 2, b"")
        case File(data, mode):
            return _header(path, inode, stat.S_IFREG | mode, links, data if data_here else b"")
        case Symlink(target):
            return _header(path, inode, stat.S_IFLNK | 0o777, 1, target.encode())
        case CharacterDevice(major, minor, mode):
            return _header(path, inode, stat.S_IFCHR | mode, 1, b"", (major, minor))
        case HardLink():
            raise ValueError(f"{path!r} is a hard link to a hard link")


def _header(
    path: str, inode: int, mode: int, links: int, data: bytes, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return b"".join((head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)))
