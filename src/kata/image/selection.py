"""The selection of packages: what of the distribution a guest is made of.

Dependencies are followed only as far as the guest needs them: the kernel's own packages, and the
shared libraries of Python. What packages need for being installed (debconf, initramfs-tools) is
left out, because nothing is installed.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kata.image.apt import Package, PrivateApt
from kata.image.digests import sha256_of_file
from kata.image.errors import ImageError

# The distributions' names of their generic kernel: the cloud ones have no 9p.
_KERNELS = {
    ("debian", "x86_64"): "linux-image-amd64",
    ("debian", "aarch64"): "linux-image-arm64",
    ("ubuntu", "x86_64"): "linux-image-generic",
    ("ubuntu", "aarch64"): "linux-image-generic",
}
_KERNEL_PARTS = re.compile(r"linux-(image|modules)-\d")
_LIBRARIES = re.compile(r"lib|zlib1g")
# What protobuf's extension links to besides the C library.
_EXTENSION_LIBRARIES = ("libstdc++6",)
# What the agent opens at run time, by the package that brings it: no file names it as needed.
OPENED_LATE = {"libseccomp2": "libseccomp.so.2"}
_INTERPRETER = re.compile(r"python3\.\d+-minimal")


@dataclass(frozen=True, slots=True)
class Selection:
    """The packages of a guest, by what becomes of them, and the release that they are of."""

    distribution: str
    kernel: tuple[Package, ...]
    python: tuple[Package, ...]
    busybox: Package

    @property
    def packages(self) -> tuple[Package, ...]:
        """All packages, sorted by name."""
        return tuple(sorted((*self.kernel, *self.python, self.busybox), key=lambda p: p.name))

    @classmethod
    def from_builtins(cls, plain: dict[str, Any]) -> "Selection":
        """Restore a selection from what `dataclasses.asdict` made of it, once through JSON."""
        return cls(
            plain["distribution"],
            tuple(Package(**package) for package in plain["kernel"]),
            tuple(Package(**package) for package in plain["python"]),
            Package(**plain["busybox"]),
        )


def code_digest() -> str:
    """Return the SHA-256 of the code that chooses."""
    return sha256_of_file(os.path.abspath(__file__))


def select_packages(apt: PrivateApt) -> Selection:
    """Choose the newest packages that the indexes offer.

    arm64 is chosen for likewise but has not been tried. Raises `ImageError` for another machine,
    and if a package is not in the indexes.
    """
    machine = os.uname().machine
    kernel = _KERNELS.get((apt.release.id, machine))
    if kernel is None:
        raise ImageError(f"no guest kernel is known for {machine}", "build on x86_64 or aarch64")
    interpreter = _closure(apt, ["python3-minimal"], _INTERPRETER)[-1]
    if not _INTERPRETER.fullmatch(interpreter.name):
        raise ImageError(f"python3-minimal of {apt.release.codename} depends on no interpreter")
    library = f"lib{interpreter.name.removesuffix('-minimal')}-stdlib"
    return Selection(
        distribution=f"{apt.release.id} {apt.release.codename}",
        kernel=_closure(apt, [kernel], _KERNEL_PARTS)[1:],
        python=_closure(
            apt, [interpreter.name, library, *_EXTENSION_LIBRARIES, *OPENED_LATE], _LIBRARIES
        ),
        busybox=_closure(apt, ["busybox-static"], re.compile("$^"))[0],
    )


def _closure(apt: PrivateApt, names: Sequence[str], follow: re.Pattern[str]) -> tuple[Package, ...]:
    """Describe packages and those that they depend on whose names match, in order of finding."""
    found: dict[str, Package] = {}
    waiting: Iterable[str] = names
    while missing := [name for name in dict.fromkeys(waiting) if name not in found]:
        described = apt.describe(missing)
        found.update((package.name, package) for package in described)
        # A dependency that only virtual packages meet is no library; one that is asked for must
        # exist.
        absent = set(names) - set(found)
        if absent:
            raise ImageError(
                f"{apt.release.codename} has no package {' or '.join(sorted(absent))}",
                "check the host's apt sources",
            )
        waiting = [name for package in described for name in package.depends if follow.match(name)]
        waiting = [name for name in waiting if name not in found]
        if not described:
            break
    return tuple(found.values())
