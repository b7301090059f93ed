"""The logs of sandboxes that have ended: a guest's console, how it started, what it was.

They are taken out of the run directory just before it is removed, whoever removes it, and the
oldest make way for the newest.  Nothing here may keep a tear-down from going on.

Imports nothing heavy, since `delete` runs it.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

CONSOLE = "console.log"
LEDGER = "ledger.json"
SANDBOX = "sandbox.json"

LIMIT = 1 << 20
"""Bytes that are kept of each file: a boot with all the kernel's messages has about 40 KiB."""


class Place(NamedTuple):
    """Where logs are kept, and of at most how many sandboxes; 0 keeps none."""

    path: str
    most: int


def keep(place: Place, name: str, directory: str, facts: Mapping[str, Any]) -> None:
    """Copy what is worth keeping from a run directory to `<place>/<name>`, and drop the oldest.

    `facts` become sandbox.json.  Whatever goes wrong, a full disk for one, leaves no partial copy
    and is nobody's concern: the sandbox has to go.
    """
    if place.most <= 0 or not {CONSOLE, LEDGER}.intersection(os.listdir(directory)):
        return
    fresh = os.path.join(place.path, f".{name}.{os.getpid()}")
    with suppress(OSError):
        try:
            os.makedirs(place.path, mode=0o700, exist_ok=True)
            os.mkdir(fresh, mode=0o700)
            for file in (CONSOLE, LEDGER):
                with suppress(FileNotFoundError):
                    _write(os.path.join(fresh, file), _end_of(os.path.join(directory, file)))
            told = json.dumps({**facts, "ended_at": time.time()}).encode()
            _write(os.path.join(fresh, SANDBOX), told)
            _remove(os.path.join(place.path, name))
            os.rename(fresh, os.path.join(place.path, name))
        except OSError:
            _remove(fresh)
            raise
        for old in names(place.path)[place.most :]:
            _remove(os.path.join(place.path, old))


def names(path: str) -> list[str]:
    """Return the names of the sandboxes whose logs are kept below `path`, the latest first."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(path):
            with suppress(FileNotFoundError):  # dropped meanwhile
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [name for _, name in sorted(found, reverse=True)]


def save_ledger(record: Mapping[str, Any], directory: str) -> None:
    """Write a start's ledger into `directory`, if that is there and takes it."""
    with suppress(OSError):
        _write(os.path.join(directory, LEDGER), json.dumps(record).encode())


def _end_of(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, LIMIT, max(0, size - LIMIT))
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes) -> None:
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
    ) as f:
        f.write(data)


def _remove(directory: str) -> None:
    """Remove a directory of files, which may be gone."""
    with suppress(FileNotFoundError):
        for entry in os.listdir(directory):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, entry))
        os.rmdir(directory)
