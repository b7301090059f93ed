"""The install tree that tests and `make run` use, laid out as an installed Kata is.

`build/opt/kata` gets what a node would get: a venv with the locked runtime dependencies and our
wheel, launchers under the names that containerd looks for, the guest, and the configuration. Each
part has a key; a part whose key did not change costs a hash of its sources and nothing else.
"""

import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.command import run, run_in_view
from lab.freshness import Stamp, digest, digest_tree
from lab.paths import (
    CACHE,
    CHECKOUT,
    CONFIGURATION,
    DROP_INS,
    GUEST,
    GUEST_KERNEL,
    PREFIX,
    SANDBOX_LOGS,
    TEMPLATES,
)
from lab.progress import step

_SOURCES: Final = CHECKOUT / "src"
_LOCK: Final = CHECKOUT / "requirements" / "run.txt"
_PYTHON: Final = PREFIX / "venv" / "bin" / "python"
# Isolated from the caller's PYTHON* variables and user packages, and never writing bytecode (the
# installer compiled it): containerd starts these with whatever environment it was started with.
_LAUNCHER: Final = """\
#!{python} -IB
import sys

from {module} import main

sys.exit(main())
"""
_LAUNCHERS: Final = {
    "containerd-shim-kata-v2": "kata.shim.main",
    "containerd-shim-kata-qemu-v2": "kata.shim.main",
    "kata-ctl": "kata.cli.ctl",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the tree: what it is made from, what it leaves, and how it is made."""

    name: str
    title: str
    needs: tuple[Path, ...]
    key: Callable[[], str]
    outputs: tuple[Path, ...]
    make: Callable[[], None]

    @property
    def missing_sources(self) -> tuple[Path, ...]:
        """The sources this checkout does not hold (yet); the part cannot be made without them."""
        return tuple(path for path in self.needs if not path.exists())

    def bring_up_to_date(self) -> None:
        """Make the part unless it is fresh; an interrupted one is made again next time."""
        stamp, key = Stamp(self.name), self.key()
        if stamp.matches(key, self.outputs):
            return
        stamp.forget()
        with step(self.title):
            self.make()
        stamp.remember(key)


def parts() -> tuple[Part, ...]:
    """Return the parts of the tree in the order in which they build on each other."""
    package = _SOURCES / "kata"
    return (
        Part(
            name="prefix-venv",
            title="runtime dependencies (build/opt/kata/venv)",
            needs=(_LOCK,),
            key=_venv_key,
            outputs=(_PYTHON,),
            make=_make_venv,
        ),
        Part(
            name="prefix-packages",
            title="our packages, as a wheel",
            needs=(CHECKOUT / "pyproject.toml",),
            key=lambda: _venv_key() + digest_tree(_SOURCES, CHECKOUT / "pyproject.toml"),
            outputs=(_PYTHON,),
            make=_install_packages,
        ),
        Part(
            name="prefix-launchers",
            title="launchers",
            needs=(package,),
            key=lambda: digest(str(PREFIX), _LAUNCHER, *_LAUNCHERS, *_LAUNCHERS.values()),
            outputs=tuple(PREFIX / "bin" / name for name in _LAUNCHERS),
            make=_write_launchers,
        ),
        Part(
            name="prefix-manual",
            title="man pages and shell completions",
            needs=(package / "cli" / "manual.py",),
            key=lambda: digest(str(PREFIX)) + digest_tree(package / "cli"),
            outputs=(PREFIX / "share" / "man" / "man1" / "kata-ctl.1",),
            make=_write_manual,
        ),
        Part(
            name="prefix-guest",
            title="guest kernel and image",
            needs=(package / "cli" / "ctl.py", package / "image", _SOURCES / "kata_agent"),
            key=lambda: digest_tree(
                *(package / "image", _SOURCES / "kata_agent", _SOURCES / "kata_api"),
                *(_SOURCES / "ttrpc", _SOURCES / "rtnetlink", _LOCK),
            ),
            outputs=(GUEST_KERNEL,),
            make=_build_guest,
        ),
        Part(
            name="prefix-configuration",
            title="configuration-qemu.toml",
            needs=(package / "config" / "__main__.py",),
            key=lambda: digest(str(PREFIX), "2") + digest_tree(package / "config"),
            outputs=(CONFIGURATION, DROP_INS / "40-lab.toml"),
            make=_write_configuration,
        ),
    )


def _venv_key() -> str:
    return digest(sys.version, str(PREFIX), _LOCK.read_bytes())


def _pip(*words: str | Path) -> None:
    # The target has no pip of its own: an installed Kata has no use for one.
    run([sys.executable, "-m", "pip", "--quiet", "--python", _PYTHON, *words])


def _make_venv() -> None:
    Stamp("prefix-packages").forget()
    shutil.rmtree(PREFIX / "venv", ignore_errors=True)
    PREFIX.mkdir(parents=True, exist_ok=True)
    run(["/usr/bin/python3", "-m", "venv", "--without-pip", PREFIX / "venv"])
    _pip("install", "--require-hashes", "--no-deps", "-r", _LOCK)


def _install_packages() -> None:
    # From a copy: setuptools would leave its own folders in the checkout, and put modules that
    # were deleted meanwhile into the next wheel.
    with tempfile.TemporaryDirectory(prefix="kata-wheel-") as scratch:
        copy = Path(scratch)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(_SOURCES, copy / "src", ignore=ignored)
        shutil.copy(CHECKOUT / "pyproject.toml", copy)
        backend = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
        run([sys.executable, "-c", backend, copy], cwd=copy)
        wheels = copy.glob("*.whl")
        _pip("install", "--no-deps", "--no-index", "--force-reinstall", *wheels)


def _write_launchers() -> None:
    folder = PREFIX / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in _LAUNCHERS.items():
        path = folder / name
        path.write_text(_LAUNCHER.format(python=_PYTHON, module=module))
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _build_guest() -> None:
    # Through the installed command, as a user would; what it shows on the way is for them too.
    words: list[str | Path] = ["image", "build", "--output", GUEST, "--cache", CACHE]
    run_in_view([PREFIX / "bin" / "kata-ctl", *words])


def _write_manual() -> None:
    shutil.rmtree(PREFIX / "share" / "man", ignore_errors=True)
    run([_PYTHON, "-I", "-m", "kata.cli.manual", "--share", PREFIX / "share"])


def _write_configuration() -> None:
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    run([_PYTHON, "-I", "-m", "kata.config", "--prefix", PREFIX, "--write", CONFIGURATION])
    # What is made on the way belongs to the checkout, not to the machine.
    DROP_INS.mkdir(exist_ok=True)
    lines = [
        *("[factory]", f'template_path = "{TEMPLATES}"'),
        *("[runtime]", f'sandbox_logs_path = "{SANDBOX_LOGS}"'),
    ]
    (DROP_INS / "40-lab.toml").write_text("\n".join(lines) + "\n")
