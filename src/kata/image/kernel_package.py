"""The kernel's share of an image, made once of a kernel's packages and then kept.

A kernel package unpacks to 400 MB; the guest takes a sixth of it, an image and some modules.
"""

import glob
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from kata.image import kernel, kernel_modules
from kata.image.apt import unpack
from kata.image.cpio import File, Node
from kata.image.digests import sha256_of_file, sha256_of_parts
from kata.image.errors import ImageError

# The modules whose code decides what is made of a package.
_DECIDING = ("compression", "elf", "kernel", "kernel_modules", "kernel_package")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An uncompressed kernel and its modules, in a folder of the cache."""

    folder: str

    @property
    def image(self) -> str:
        """The path of the uncompressed kernel."""
        return os.path.join(self.folder, "kernel")

    @property
    def release(self) -> str:
        """The kernel's release, as `uname -r` says it in the guest."""
        return os.listdir(os.path.join(self.folder, "modules"))[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules, sorted."""
        names = [os.path.basename(path) for path in self.nodes()]
        return tuple(sorted(name[:-3] for name in names if name.endswith(".ko")))

    def nodes(self) -> dict[str, Node]:
        """Return the modules and their indexes as files of `/usr/lib/modules/<release>`."""
        top = os.path.join(self.folder, "modules")
        found: dict[str, Node] = {}
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as stream:
                    found[f"usr/lib/modules/{os.path.relpath(path, top)}"] = File(stream.read())
        return found


def prepare(debs: Sequence[str], folder: str) -> None:
    """Fill an empty folder with what the guest takes from a kernel's package files.

    Raises `ImageError` if they hold no usable kernel.
    """
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as root:
        for deb in debs:
            unpack(deb, root)
        _make(root, folder)


def code_digest() -> str:
    """Return the SHA-256 of the code that decides what `prepare` makes of a package."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.join(here, f"{name}.py") for name in _DECIDING]
    return sha256_of_parts(sha256_of_file(path).encode() for path in paths)


def _make(root: str, folder: str) -> None:
    images = glob.glob(f"{root}/boot/vmlinu[xz]-*")
    trees = glob.glob(f"{root}/lib/modules/*") or glob.glob(f"{root}/usr/lib/modules/*")
    if len(images) != 1 or len(trees) != 1:
        raise ImageError("the kernel's packages hold no kernel, or more than one")
    with open(images[0], "rb") as stream:
        plain = kernel.uncompressed_kernel(stream.read())
    with open(os.path.join(folder, "kernel"), "wb") as out:
        out.write(plain)
    modules = kernel_modules.select(trees[0], kernel_modules.WANTED)
    files = kernel_modules.indexes(modules, trees[0])
    files.update((module.path, module.data) for module in modules)
    for name, data in files.items():
        path = os.path.join(folder, "modules", os.path.basename(trees[0]), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.write(data)
