"""SHA-256 digests, in hex, of files, trees and named parts."""

import hashlib
import os
from collections.abc import Iterable


def sha256_of_file(path: str) -> str:
    """Return the SHA-256 of a file's bytes. Raises `OSError` if it cannot be read."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_parts(parts: Iterable[bytes]) -> str:
    """Return one SHA-256 of several byte strings, each counted with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def sha256_of_tree(directories: Iterable[str], suffixes: tuple[str, ...]) -> str:
    """Return one SHA-256 of the relative names and bytes of all files with one of the suffixes.

    Where the directories are and in which order the file system lists them does not count.
    """
    parts: list[bytes] = []
    for directory in directories:
        paths = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(directory)
            for name in names
            if name.endswith(suffixes)
        ]
        for path in sorted(paths):
            parts.append(os.path.relpath(path, os.path.dirname(directory)).encode())
            with open(path, "rb") as stream:
                parts.append(stream.read())
    return sha256_of_parts(parts)
