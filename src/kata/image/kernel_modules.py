"""The guest's kernel modules: which ones, with what they depend on, and their indexes.

Names, dependencies and aliases come out of the modules' own `.modinfo` sections (Linux,
include/linux/module.h and moduleparam.h), the text indexes are those of depmod's modules.dep(5).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kata.image.compression import decompress, is_compressed
from kata.image.elf import ElfFile
from kata.image.errors import ImageError

# What a guest may meet, each with its reason. Not here: xfs (4 MB of every guest's memory for a
# root filesystem that no snapshotter makes by default), veth and bridge (the pod's interfaces
# live on the host), netfilter (60 modules; `kernel_modules` of an own image may add them).
WANTED: Mapping[str, str] = {
    "virtio_pci": "the bus of every device below",
    "virtio_console": "the agent's channel where the host has no vhost-vsock, and its console",
    "vmw_vsock_virtio_transport": "the agent's channel where it has",
    "virtio_rng": "entropy from the host, needed after a restore",
    "virtio_balloon": "memory given back to the host",
    "virtio_mem": "memory added while running",
    "virtio_net": "the pod's interfaces; brings failover",
    "virtio_blk": "volumes and block snapshotters",
    "virtio_scsi": "volumes beyond the number of PCI slots",
    "sd_mod": "disks on virtio_scsi",
    "9p": "shared_fs = virtio-9p",
    "9pnet_virtio": "the transport of 9p",
    "virtiofs": "shared_fs = virtio-fs; brings fuse",
    "overlay": "a writable layer over a read-only root filesystem",
    "ext4": "what the devmapper and blockfile snapshotters make",
    "erofs": "what the erofs snapshotter makes",
    "crc32c_generic": "checksums of ext4, asked for by name and thus in nobody's dependencies",
}
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module: its name, its path below `/lib/modules/<release>`, its uncompressed bytes."""

    name: str
    path: str
    data: bytes = field(repr=False)
    depends: tuple[str, ...]
    aliases: tuple[str, ...]
    softdeps: tuple[str, ...]


def select(directory: str, wanted: Iterable[str]) -> list[Module]:
    """Read the wanted modules and all that they depend on, sorted by path.

    `directory` is a package's `/lib/modules/<release>`. Names count `-` as `_`, as the kernel
    does; what is built into the kernel is left out. Raises `ImageError` for a name that the
    kernel has neither as a module nor built in.
    """
    files = _files_by_name(directory)
    builtin = {_name_of(line) for line in _builtin_paths(directory)}
    chosen: dict[str, Module] = {}
    waiting = [_normal(name) for name in wanted]
    while waiting:
        name = waiting.pop()
        if name in chosen or name in builtin:
            continue
        if name not in files:
            raise ImageError(
                f"the kernel in {directory} has no module {name!r}",
                "use the distribution's generic kernel; its cloud kernel leaves drivers out",
            )
        chosen[name] = _read(directory, files[name])
        waiting.extend(chosen[name].depends)
    return sorted(chosen.values(), key=lambda module: module.path)


def indexes(modules: Iterable[Module], directory: str) -> dict[str, bytes]:
    """Return the index files by name: modules.dep, .alias, .softdep and .builtin.

    `directory` is the package's `/lib/modules/<release>`, whose modules.builtin is taken over.
    A line of modules.dep is ordered so that loading from its end to its beginning works.
    """
    by_name = {module.name: module for module in modules}
    dependencies, aliases, softdeps = [], [], []
    for module in by_name.values():
        below = [by_name[name].path for name in _load_order(module, by_name)]
        dependencies.append(f"{module.path}:{''.join(' ' + path for path in reversed(below))}")
        aliases += [f"alias {alias} {module.name}" for alias in module.aliases]
        softdeps += [f"softdep {module.name} {text}" for text in module.softdeps]
    return {
        "modules.dep": _text(dependencies),
        "modules.alias": _text(aliases),
        "modules.softdep": _text(softdeps),
        "modules.builtin": _text(_builtin_paths(directory)),
    }


def _load_order(module: Module, by_name: Mapping[str, Module]) -> list[str]:
    """List what must be loaded before a module, deepest first, each once."""
    order: list[str] = []
    for name in module.depends:
        if name in by_name:
            order += [*_load_order(by_name[name], by_name), name]
    return list(dict.fromkeys(order))


def _read(directory: str, path: str) -> Module:
    with open(os.path.join(directory, path), "rb") as stream:
        data = stream.read()
    if is_compressed(data):
        data = decompress(data, path)
    tags: dict[str, list[str]] = {}
    for entry in ElfFile(data, path).section(".modinfo").split(b"\0"):
        key, _, value = entry.decode().partition("=")
        tags.setdefault(key, []).append(value)
    depends = [name for line in tags.get("depends", []) for name in line.split(",") if name]
    return Module(
        name=_name_of(path),
        path=path[: path.index(".ko") + 3],
        data=data,
        depends=tuple(sorted(map(_normal, depends))),
        aliases=tuple(sorted(tags.get("alias", []))),
        softdeps=tuple(sorted(tags.get("softdep", []))),
    )


def _files_by_name(directory: str) -> dict[str, str]:
    return {
        _name_of(name): os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(os.path.join(directory, "kernel"))
        for name in names
        if name.endswith(_SUFFIXES)
    }


def _builtin_paths(directory: str) -> list[str]:
    with open(os.path.join(directory, "modules.builtin"), encoding="utf-8") as stream:
        return sorted(stream.read().split())


def _name_of(path: str) -> str:
    return _normal(os.path.basename(path).split(".ko")[0])


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _text(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in sorted(lines)).encode()
