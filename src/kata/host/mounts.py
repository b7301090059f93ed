"""Mounts of the host: option strings, layered root filesystems, propagation.

Option words are those of mount(8), as containerd writes them into `Mount.options`.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from kata.host import libc

_SET_FLAGS = {
    "bind": libc.MS_BIND,
    "dirsync": libc.MS_DIRSYNC,
    "lazytime": libc.MS_LAZYTIME,
    "mand": libc.MS_MANDLOCK,
    "noatime": libc.MS_NOATIME,
    "nodev": libc.MS_NODEV,
    "nodiratime": libc.MS_NODIRATIME,
    "noexec": libc.MS_NOEXEC,
    "nosuid": libc.MS_NOSUID,
    "rbind": libc.MS_BIND | libc.MS_REC,
    "relatime": libc.MS_RELATIME,
    "remount": libc.MS_REMOUNT,
    "ro": libc.MS_RDONLY,
    "strictatime": libc.MS_STRICTATIME,
    "sync": libc.MS_SYNCHRONOUS,
}
_CLEAR_FLAGS = {
    "async": libc.MS_SYNCHRONOUS,
    "atime": libc.MS_NOATIME,
    "dev": libc.MS_NODEV,
    "diratime": libc.MS_NODIRATIME,
    "exec": libc.MS_NOEXEC,
    "nomand": libc.MS_MANDLOCK,
    "norelatime": libc.MS_RELATIME,
    "nostrictatime": libc.MS_STRICTATIME,
    "rw": libc.MS_RDONLY,
    "suid": libc.MS_NOSUID,
}
_PAGE = 4096
"""Bytes of option text that mount(2) takes."""

_LAYER_KEYS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")

UNTRUSTED = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | libc.MOUNT_ATTR_NOEXEC
"""Of a mount whose files a guest writes; what they mean inside the guest is up to its kernel."""

_ONE_MOUNT = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as containerd asks for it; `target` is a path below the root filesystem."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> tuple[int, str]:
    """Split mount(8) option words into the flag bits and the data string of mount(2)."""
    flags = 0
    data: list[str] = []
    for option in options:
        if option in _SET_FLAGS:
            flags |= _SET_FLAGS[option]
        elif option in _CLEAR_FLAGS:
            flags &= ~_CLEAR_FLAGS[option]
        elif option not in ("defaults", "loop"):
            data.append(option)
    return flags, ",".join(data)


def mount_root(layers: Sequence[Mount], target: str) -> None:
    """Apply `layers` in order on `target`, which is made when it is missing.

    What is mounted is for a guest: the host runs nothing in it and opens no device of it, whatever
    the guest puts there.  Raises `OSError`; what was mounted until then is unmounted again.
    """
    os.makedirs(target, mode=0o711, exist_ok=True)
    try:
        for number, layer in enumerate(layers):
            if not layer.target.strip("/"):
                _mount(layer, target)
            elif number:
                _mount_below(layer, target)
            else:
                raise OSError(errno.EINVAL, "the first mount must be the root itself", layer.target)
    except OSError:
        unmount(target)  # and with it all that is mounted below
        raise


def _mount_below(layer: Mount, root: str) -> None:
    """Apply a layer at its target, whose path leads nowhere outside of `root`.

    What lies at `root` comes from an image: a symbolic link in it must not choose a place on the
    host.
    """
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
    flags = os.O_PATH | os.O_DIRECTORY
    names = [name for name in layer.target.split("/") if name]
    top = place
    try:
        for count, name in enumerate(names, 1):
            path = "/".join(names[:count])
            try:
                following = libc.openat2(path, flags, resolve, dir_fd=top)
            except FileNotFoundError:
                os.mkdir(name, mode=0o711, dir_fd=place)
                following = libc.openat2(path, flags, resolve, dir_fd=top)
            if place != top:
                os.close(place)
            place = following
        _mount(layer, f"/proc/self/fd/{place}")
    finally:
        for descriptor in {top, place}:
            os.close(descriptor)


def _mount(layer: Mount, target: str) -> None:
    flags, data = parse_options(layer.options)
    if layer.type in ("bind", "rbind") or flags & libc.MS_BIND:
        bind(
            layer.source,
            target,
            read_only=bool(flags & libc.MS_RDONLY),
            attributes=UNTRUSTED,
            propagation=libc.MS_PRIVATE,
        )
        return
    flags |= libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
    if len(data) < _PAGE:
        libc.mount(layer.source, target, layer.type, flags, data)
        return
    _mount_by_descriptors(layer, target, flags)


def _mount_by_descriptors(layer: Mount, target: str, flags: int) -> None:
    """Mount an overlay whose options exceed a page, its directories named by descriptors.

    mount(2) takes no more than one page, which 40 layers exceed.  In the directory /proc/self/fd the
    number of a descriptor is a path, of three digits for any length.  The caller's working
    directory is restored.
    """
    with ExitStack() as undo:

        def number(path: str) -> str:
            plain = re.sub(r"\\(.)", r"\1", path)
            descriptor = os.open(plain, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            return str(descriptor)

        def shortened(option: str) -> str:
            key, _, value = option.partition("=")
            if key not in _LAYER_KEYS:
                return option
            # Colons within a path are escaped; nothing between two is part of the syntax.
            paths = re.split(r"(?<!\\):", value)
            return f"{key}={':'.join(path and number(path) for path in paths)}"

        _, data = parse_options(map(shortened, layer.options))
        if len(data) >= _PAGE:
            raise OSError(
                errno.E2BIG, f"mount options take {len(data)} bytes, the kernel {_PAGE}", target
            )
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, before)
        undo.callback(os.fchdir, before)
        os.chdir("/proc/self/fd")
        libc.mount(layer.source, target, layer.type, flags, data)


def bind(
    source: str,
    target: str,
    *,
    recursive: bool = True,
    read_only: bool = False,
    read_only_below: bool = False,
    attributes: int = 0,
    propagation: int = 0,
) -> None:
    """Bind `source` on an existing `target`.

    `read_only` concerns the top mount, `read_only_below` those below it too; `attributes` are
    `MOUNT_ATTR_*` bits for all of them.  The mount has its flags before it is attached: the copies
    that propagation makes of it, such as the one that is served to a guest, learn of no change that
    comes later.  Needs Linux 5.12.
    """
    tree = libc.open_tree(source, recursive=recursive)
    try:
        everywhere = attributes | (libc.MOUNT_ATTR_RDONLY if read_only_below else 0)
        if everywhere or propagation:
            libc.mount_setattr(tree, everywhere, propagation, recursive=True)
        if read_only and not read_only_below:
            libc.mount_setattr(tree, libc.MOUNT_ATTR_RDONLY, recursive=False)
        libc.move_mount(tree, target)
    finally:
        os.close(tree)


def unmount(target: str) -> None:
    """Detach every mount stacked on `target`; a path that is no mount point is left alone."""
    while True:
        try:
            libc.umount(target, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def below(path: str) -> list[str]:
    """Return the mount points at and below `path` in our mount namespace, the deepest first."""
    prefix = path.rstrip("/")
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # Spaces and the like are written in octal, as `\\040`.
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4])
            if point == prefix or point.startswith(prefix + "/"):
                found.append(point)
    return found[::-1]


def isolate() -> None:
    """Give the calling process a mount namespace that sees the host's mounts but shows it none.

    Slave first, so that our mounts stay here; then shared, so that they reach virtiofsd's
    namespace, which is made from this one.
    """
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("", "/", "", libc.MS_SLAVE | libc.MS_REC)
    libc.mount("", "/", "", libc.MS_SHARED | libc.MS_REC)


def freeze(covered: Iterable[str], kept: Iterable[str]) -> None:
    """Give the calling process a mount namespace whose files it can only read, and few devices.

    All mounts become read-only and `nodev`.  The directories `covered` then hold nothing but what
    exists of the paths `kept`, of which character devices can be opened.  Descriptors that the
    process has keep their rights.  Later mounts of the namespace it came from arrive with rights of
    their own, below a kept directory and wherever nothing is covered; unmounts arrive everywhere,
    so that nothing of the host is held.  Sockets that are not covered take connections as before.
    Raises `OSError`; the namespace is not fit for use then.
    """
    libc.unshare(libc.CLONE_NEWNS)
    _limit("/", libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NODEV, libc.MS_SLAVE)
    covers = [path for path in covered if os.path.isdir(path) and not os.path.islink(path)]
    with ExitStack() as undo:
        undo.callback(os.umask, os.umask(0o022))  # whoever the process becomes finds its way
        trees: dict[str, int] = {}
        links: dict[str, str] = {}
        for path in kept:
            real = os.path.realpath(path)
            if real in trees or not os.path.exists(real):
                continue
            device = stat.S_ISCHR(os.stat(real).st_mode)
            if device or real.startswith(tuple(f"{cover}/" for cover in covers)):
                tree = trees[real] = libc.open_tree(real, recursive=True)
                undo.callback(os.close, tree)
                if device:
                    libc.mount_setattr(tree, 0, clear=libc.MOUNT_ATTR_NODEV, recursive=False)
            if real != path:
                links[path] = real
        for path in covers:
            flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
            libc.mount("tmpfs", path, "tmpfs", flags, "mode=755")
        for path, tree in trees.items():
            if not os.path.lexists(path):
                _make_point(path, directory=stat.S_ISDIR(os.fstat(tree).st_mode))
            libc.move_mount(tree, path)
        for path, real in links.items():
            if not os.path.lexists(path):
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                os.symlink(real, path)
    for path in covers:
        _limit(path, libc.MOUNT_ATTR_RDONLY)


def _limit(path: str, attributes: int, propagation: int = 0) -> None:
    """Set attributes of the mount at `path`; with a propagation, of all below it too."""
    top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.mount_setattr(top, attributes, propagation, recursive=bool(propagation))
    finally:
        os.close(top)


def _make_point(path: str, *, directory: bool) -> None:
    """Make something to mount on, and the directories above it."""
    if directory:
        os.makedirs(path, mode=0o755)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def prune(path: str) -> None:
    """Remove a tree of empty mount points: directories and empty files, on one mount.

    Raises `OSError` (ENOTEMPTY, EXDEV) instead of removing a file that holds data or entering what
    is still mounted there, be it of the same file system; a missing `path` is fine.
    """
    parent, name = os.path.split(path.rstrip("/"))
    try:
        above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _prune(above, name, path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise
    finally:
        os.close(above)


def _prune(above: int, name: str, path: str) -> None:
    """Remove the directory `name` of descriptor `above`; `path` is for messages."""
    try:
        here = libc.openat2(name, os.O_RDONLY | os.O_DIRECTORY, _ONE_MOUNT, dir_fd=above)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EXDEV, "something is still mounted", path) from error
        raise
    try:
        for child in os.listdir(here):
            status = os.stat(child, dir_fd=here, follow_symlinks=False)
            below = os.path.join(path, child)
            if stat.S_ISDIR(status.st_mode):
                _prune(here, child, below)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(child, dir_fd=here)
            else:
                raise OSError(errno.ENOTEMPTY, "not an empty mount point", below)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=above)
