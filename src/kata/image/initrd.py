"""The contents of the initrd: who brings what into the guest's first file system."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kata.image.cpio import CharacterDevice, Directory, File, Node, Symlink
from kata.image.guest_python import AGENT_HOME, GuestPython, Program, guest_path

# -S spares `site`, -B the attempts to write caches, -I keeps the kernel's environment out. The
# path's first entry, a zip file that is not there, would be asked for every module.
_INIT = f"""\
#!/usr/bin/python3 -ISB
import sys
sys.path[:] = [*sys.path[1:], "/{AGENT_HOME}"]
from kata_agent.main import main
main()
"""

# The merged /usr of Debian and Ubuntu, mount points, the devices that exist before devtmpfs is
# mounted (Linux, Documentation/admin-guide/devices.txt), and a shell for the debug console.
# The kernel calls modprobe for what a mount or a socket asks for.
_SKELETON: Mapping[str, Node] = {
    "init": File(_INIT.encode(), 0o755),
    "bin": Symlink("usr/bin"),
    "sbin": Symlink("usr/sbin"),
    "lib": Symlink("usr/lib"),
    "lib64": Symlink("usr/lib64"),
    "usr/lib64": Directory(),
    "dev": Directory(),
    "dev/console": CharacterDevice(5, 1),
    "dev/null": CharacterDevice(1, 3, 0o666),
    "etc": Directory(),
    "proc": Directory(),
    "root": Directory(0o700),
    "run": Directory(),
    "sys": Directory(),
    "tmp": Directory(0o1777),
    "usr/bin/sh": Symlink("busybox"),
    "usr/sbin/modprobe": Symlink("../bin/busybox"),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of an initrd, and which Python modules are among them, of which version."""

    nodes: Mapping[str, Node]
    modules: tuple[str, ...]
    python_version: str

    def holds(self, installed: str) -> bool:
        """Tell whether a file of the agent's home is in the initrd, compiled or as it is."""
        name = f"{AGENT_HOME}/{installed}"
        return name in self.nodes or f"{name}c" in self.nodes


def gather(
    python: GuestPython,
    program: Program,
    busybox: str,
    kernel: Mapping[str, Node],
    store: str,
    progress: Callable[[float], None],
) -> Contents:
    """Gather the initrd's files: skeleton, kernel modules, interpreter, and what the agent imports.

    `busybox` is a static binary, `store` keeps byte code between builds. Raises `ImageError` if
    the agent cannot be imported or needs what no package brings.
    """
    roots = {python.root: "", program.path: AGENT_HOME}
    files = {name: path for name, path in python.modules(program).items() if path}
    sources = {
        "/" + guest_path(path, roots): path for path in files.values() if path.endswith(".py")
    }
    extensions = sorted(path for path in files.values() if not path.endswith(".py"))
    bytecode = python.compile(sources, store, progress)
    nodes: dict[str, Node] = {
        **_SKELETON,
        **kernel,
        **python.nodes(extensions),
        "usr/bin/busybox": _binary(busybox),
    }
    nodes.update((name[1:] + "c", File(code)) for name, code in bytecode.items())
    nodes.update((guest_path(path, roots), _binary(path)) for path in extensions)
    return Contents(nodes, tuple(sorted(files)), python.version())


def _binary(path: str) -> File:
    with open(os.path.realpath(path), "rb") as stream:
        return File(stream.read(), 0o755)
