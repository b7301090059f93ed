"""Checks of containerd: whether it is there, finds the shim, and knows the runtime."""

import glob
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

from kata.checks.finding import Finding, Level
from kata.checks.program import ProgramError, first_line

CONFIGURATION = "/etc/containerd/config.toml"
SHIM = "containerd-shim-kata-v2"
RUNTIME = "io.containerd.kata.v2"


def checks() -> Iterator[Finding]:
    """Yield a finding for each part."""
    yield daemon()
    yield shim()
    yield registration()


def daemon() -> Finding:
    """Check that a containerd is installed."""
    path = shutil.which("containerd")
    if path is None:
        return Finding(
            "containerd", Level.WARN, f"not in PATH ({_path()})", "install containerd 1.6 or later"
        )
    try:
        return Finding("containerd", Level.OK, f"{path}: {first_line(path)}")
    except ProgramError as error:
        return Finding("containerd", Level.WARN, str(error), "reinstall containerd")


def shim() -> Finding:
    """Check that a containerd with this process's PATH would find the shim."""
    if path := shutil.which(SHIM):
        return Finding("shim", Level.OK, path)
    told, remedy = f"{SHIM} is not in PATH ({_path()})", "install kata-containers"
    if own := installed_shim():
        remedy = f"ln -s {own} /usr/local/bin/, or add its folder to containerd's PATH"
    return Finding("shim", Level.WARN, told, remedy)


def registration(path: str = CONFIGURATION) -> Finding:
    """Check that pods can ask for the runtime; `ctr --runtime` needs no entry."""
    try:
        names = sorted(runtimes(path))
    except FileNotFoundError:
        names, why = [], f"there is no {path}"
    except (OSError, ValueError) as error:
        names, why = [], f"{path} cannot be read: {error}"
    else:
        why = f"no runtime in {path} has runtime_type {RUNTIME}"
    if names:
        return Finding("runtime class", Level.OK, f"{path} has {', '.join(names)}")
    return Finding(
        "runtime class",
        Level.WARN,
        f"{why}: ctr can start containers, pods cannot",
        "add a table runtimes.kata with "
        f'runtime_type = "{RUNTIME}" to the CRI plugin\'s containerd table and restart containerd',
    )


def installed_shim() -> str | None:
    """Return the shim of the installation that this interpreter belongs to, or None."""
    for folder in (os.path.join(os.path.dirname(sys.prefix), "bin"), "/opt/kata/bin"):
        path = os.path.join(folder, SHIM)
        if os.access(path, os.X_OK):
            return path
    return None


def runtimes(path: str) -> set[str]:
    """Return the names of the runtimes that are ours in containerd's configuration.

    Its `imports` are followed. Raises `OSError`, and `ValueError` when a file is not TOML.
    """
    found: set[str] = set()
    waiting, seen = [path], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        with open(current, "rb") as file:
            tree = tomllib.load(file)
        for pattern in tree.get("imports") or []:
            waiting += glob.glob(os.path.join(os.path.dirname(current), pattern))
        found |= _ours(tree)
    return found


def _ours(tree: dict[str, Any]) -> set[str]:
    """Return the keys of the tables, at whatever depth, that have our runtime type.

    The depth differs between the versions of the file.
    """
    found = set()
    for name, value in tree.items():
        if isinstance(value, dict):
            if str(value.get("runtime_type", "")).startswith("io.containerd.kata"):
                found.add(name)
            found |= _ours(value)
    return found


def _path() -> str:
    return os.environ.get("PATH", "")
