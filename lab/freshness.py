"""Freshness of what a build makes: a key per output, remembered beside it.

A step is fresh when its outputs exist and the key it was made from (hashes of sources, versions,
file contents) is the one it would be made from now. Keys are compared, never times.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lab.paths import STAMPS

_IGNORED_SUFFIXES = frozenset({".pyc", ".pyo"})


def digest(*parts: bytes | str) -> str:
    """Return one hexadecimal SHA-256 over several parts, each bounded by its length."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()


def digest_tree(*roots: Path) -> str:
    """Return a hash over the names and contents of files; a root may be a file, or be missing."""
    parts: list[bytes | str] = []
    for root in roots:
        for path in sorted(_files(root)):
            parts += [str(path.relative_to(root.parent)), path.read_bytes()]
    return digest(*parts)


def _files(root: Path) -> Iterable[Path]:
    if root.is_file():
        return [root]
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in _IGNORED_SUFFIXES and ".egg-info" not in str(path)
    ]


class Stamp:
    """The key from which something was last made, kept in a file of its own."""

    def __init__(self, name: str, folder: Path = STAMPS) -> None:
        self._path = folder / name

    def matches(self, key: str, outputs: Iterable[Path]) -> bool:
        """Tell whether the outputs exist and were made from this key."""
        try:
            remembered = self._path.read_text()
        except FileNotFoundError:
            return False
        return remembered == key and all(path.exists() for path in outputs)

    def remember(self, key: str) -> None:
        """Record that the outputs now come from this key."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(key)

    def forget(self) -> None:
        """Mark the outputs as half made, so that an interrupted step is done again."""
        self._path.unlink(missing_ok=True)
