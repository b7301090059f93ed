"""Hashes of a sandbox's files, which a pod may name: what it is run with is then what it expects.

Reading a guest takes a good part of a restore's time, so a file that has not changed is read once
after each boot of the host.  Whoever can write to these files, or as root to the cache, is trusted
anyway: it is the operator.
"""

from __future__ import annotations

import os

from kata.config.errors import ConfigError

CACHE = "/run/kata-containers/digests"
"""Where the hashes of unchanged files are kept, one file for each: root's alone, gone at a boot."""

DIGITS = 128
"""Hexadecimal digits of a SHA-512 hash."""

_SETTLED = 2 * 10**9
"""Nanoseconds after which a later change of a file shows in its times, however coarse they are."""


def verify(path: str, wanted: str, annotation: str) -> None:
    """Compare the SHA-512 hash of a file with the one that an annotation names.

    Raises `ConfigError` when it is another one or the file cannot be read.
    """
    try:
        found = _digest(path)
    except OSError as error:
        raise ConfigError(
            f"annotation {annotation}: {path} cannot be read: {error.strerror}",
            "an operator has to install it, or the pod to do without the annotation",
        ) from error
    if found != wanted.lower():
        raise ConfigError(
            f"annotation {annotation}: {path} has the SHA-512 hash {found}, not {wanted.lower()}",
            "the pod expects another file: name the right hash, or have the operator install that file",
        )


def _digest(path: str) -> str:
    import hashlib
    import time

    with open(path, "rb") as file:
        before = _identity(file.fileno())
        kept = os.path.join(CACHE, hashlib.sha256(os.path.abspath(path).encode()).hexdigest())
        if known := _read(kept, before):
            return known
        digest = hashlib.file_digest(file, "sha512").hexdigest()
        after = _identity(file.fileno())
        changed = max(os.fstat(file.fileno()).st_ctime_ns, os.fstat(file.fileno()).st_mtime_ns)
    if before == after and time.time_ns() - changed > _SETTLED:
        _keep(kept, f"{after} {digest}")
    return digest


def _identity(descriptor: int) -> str:
    """Return what changes when a file is replaced or written; no one can put the ctime back."""
    found = os.fstat(descriptor)
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return ":".join(map(str, numbers))


def _read(kept: str, identity: str) -> str:
    """Return the hash that was kept for a file of this identity, or nothing."""
    try:
        with open(kept, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return ""
            then, _, digest = file.read(1024).strip().partition(" ")
    except (OSError, ValueError):
        return ""
    return digest if then == identity and len(digest) == DIGITS else ""


def _keep(kept: str, text: str) -> None:
    """Keep a hash; one that cannot be kept is computed again."""
    draft = f"{kept}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        with open(draft, "x", encoding="ascii") as file:
            file.write(text)
        os.rename(draft, kept)
    except OSError:
        return
