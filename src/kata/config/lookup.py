"""Where the configuration is looked for, and the drop-in files beside it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping

from kata.config.document import Document
from kata.config.errors import ConfigError

ENVIRONMENT = "KATA_CONF_FILE"
SYSTEM_FILE = "/etc/kata-containers/configuration.toml"
SHIPPED_NAMES = ("configuration-qemu.toml", "configuration.toml")
DROP_INS = "config.d"


def installed_prefix() -> str:
    """Return the prefix this installation lives in: the folder above a `venv`, else Python's."""
    head, tail = os.path.split(sys.prefix)
    return head if tail == "venv" else sys.prefix


def shipped_files(prefix: str) -> list[str]:
    """Return the paths of the configuration that an install below `prefix` ships."""
    folder = os.path.join(prefix, "share/defaults/kata-containers")
    return [os.path.join(folder, name) for name in SHIPPED_NAMES]


def default_files() -> list[str]:
    """Return the paths tried when nobody names a file, best first."""
    files = [SYSTEM_FILE, *shipped_files(installed_prefix()), *shipped_files("/opt/kata")]
    return list(dict.fromkeys(files))


def find(path: str | None, environ: Mapping[str, str]) -> str:
    """Return the base file with symbolic links resolved.

    A path given here or by the environment is the only one tried. Raises `ConfigError` that lists
    what was tried.
    """
    named = path or environ.get(ENVIRONMENT)
    tried = [named] if named else default_files()
    for candidate in tried:
        if os.path.isfile(candidate):
            return os.path.realpath(candidate)
    if named and os.path.exists(named):
        raise ConfigError(f"{named}: not a regular file", "name a configuration file")
    source = "the given path" if path else ENVIRONMENT if named else "the default paths"
    raise ConfigError(
        f"no configuration file at {source}: tried {', '.join(tried)}",
        f"install kata-containers, or name a file in {ENVIRONMENT}",
    )


def documents(base: str) -> Iterator[Document]:
    """Read the base file, then each file of `config.d` beside it, in the order of their names.

    Raises `ConfigError` for a file that cannot be read and an entry that is not a regular file.
    """
    yield Document.read(base)
    folder = os.path.join(os.path.dirname(base), DROP_INS)
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{folder}: {error.strerror}"
        raise ConfigError(message, "it has to be a directory of drop-in files") from error
    for rank, name in enumerate(names, start=1):
        path = os.path.join(folder, name)
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            message = f"{path}: {error.strerror}"
            raise ConfigError(message, "remove the broken drop-in") from error
        if not regular:
            raise ConfigError(f"{path}: not a regular file", f"keep only files in {DROP_INS}")
        yield Document.read(path, rank)
