"""Releases of containerd: those on this machine, and those unpacked beside it.

A release is the set of programs one private daemon uses: containerd, its own `ctr`, the runc shim
of the same build, a runc that starts on this machine, and the CNI plugins. Nothing is installed.
"""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.command import LabError, run
from lab.debian import Suite

_VERSION: Final = re.compile(r"\b(\d+)\.(\d+)\.(\d+)")
_CONTAINERD_PACKAGES: Final = ("containerd", "runc")
# The oldest suite whose runc understands both releases' features query (runc 1.1), and whose C
# library is old enough to run on every Debian that we support.
_YARDSTICK_SUITE: Final = "bookworm"
_RUNC_PACKAGES: Final = ("runc", "containernetworking-plugins")


@dataclass(frozen=True, slots=True)
class Line:
    """One release line of containerd that we promise to work with."""

    name: str
    version: re.Pattern[str]
    suites: tuple[str, ...]


LINES: Final = {
    line.name: line
    for line in (
        Line("1.6", re.compile(r"1\.6\."), ("bookworm",)),
        Line("2.x", re.compile(r"2\."), ("testing", "sid")),
    )
}


@dataclass(frozen=True, slots=True)
class Release:
    """The programs of one containerd release; all paths are absolute."""

    line: str
    version: str
    containerd: Path
    ctr: Path
    runc: Path
    cni_plugins: Path

    @property
    def loses_output(self) -> bool:
        """Whether it throws away what it has not read yet when a container ends."""
        return self.line == "1.6"

    @property
    def search_path(self) -> tuple[Path, ...]:
        """Folders in which the daemon and its shims look for programs, in order.

        runc comes first: the folder of containerd may hold one that does not start here.
        """
        return (self.runc.parent, self.containerd.parent)


def find_release(name: str) -> Release:
    """Return a release of a line: the machine's own where it fits, else a private one.

    `name` is a key of `LINES`. Raises `LabError` when no suite of the machine's mirror has one.
    """
    line = LINES[name]
    return _installed(line) or _unpacked(line)


def _installed(line: Line) -> Release | None:
    containerd = shutil.which("containerd")
    ctr, runc = shutil.which("ctr"), shutil.which("runc")
    if containerd is None or ctr is None or runc is None:
        return None
    version = version_of(Path(containerd))
    if version is None or not line.version.match(version):
        return None
    plugins = next(filter(Path.is_dir, map(Path, ("/opt/cni/bin", "/usr/lib/cni"))), None)
    plugins = plugins or _yardstick() / "usr" / "lib" / "cni"
    return Release(line.name, version, Path(containerd), Path(ctr), Path(runc), plugins)


def _unpacked(line: Line) -> Release:
    found = []
    for suite in line.suites:
        tree = Suite(suite).unpack(_CONTAINERD_PACKAGES)
        containerd = tree / "usr" / "bin" / "containerd"
        version = version_of(containerd)
        found.append(f"{suite}: {version or 'does not start here'}")
        if version is not None and line.version.match(version):
            yardstick = _yardstick()
            return Release(
                line.name,
                version,
                containerd,
                containerd.with_name("ctr"),
                _first_that_starts([tree / "usr/sbin/runc", yardstick_runc()]),
                yardstick / "usr" / "lib" / "cni",
            )
    raise LabError(f"no containerd {line.name} that starts on this machine ({'; '.join(found)})")


def yardstick_runc() -> Path:
    """Return a runc that is the same on every machine: what tests compare with has a version."""
    return _yardstick() / "usr/sbin/runc"


def _yardstick() -> Path:
    return Suite(_YARDSTICK_SUITE).unpack(_RUNC_PACKAGES)


def _first_that_starts(programs: Sequence[Path]) -> Path:
    for program in programs:
        if version_of(program) is not None:
            return program
    raise LabError(f"none of these starts on this machine: {', '.join(map(str, programs))}")


def version_of(program: Path) -> str | None:
    """Return the version a program reports, None when it does not start (too old a C library)."""
    if not os.access(program, os.X_OK):
        return None
    result = run([program, "--version"], check=False, timeout_s=20)
    match = _VERSION.search(result.stdout)
    return match[0] if result.code == 0 and match else None
