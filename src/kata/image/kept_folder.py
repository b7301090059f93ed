"""A folder that is made once and kept under the digest of everything that decides it."""

import os
import shutil
import tempfile
from collections.abc import Callable


def is_kept(cache: str, key: str) -> bool:
    """Tell whether `keep` would find the folder and make nothing."""
    return os.path.isdir(os.path.join(cache, key))


def keep(cache: str, key: str, make: Callable[[str], None]) -> str:
    """Return the folder `cache/key`, calling `make` with an empty folder to fill if it is missing.

    The folder appears whole or not at all. Once a new one has been made, those of other keys are
    removed: a cache holds one of a kind.
    """
    folder = os.path.join(cache, key)
    if is_kept(cache, key):
        return folder
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as work:
        new = os.path.join(work, key)
        os.mkdir(new)
        make(new)
        os.rename(new, folder)
    for other in os.listdir(cache):
        if other != key:
            shutil.rmtree(os.path.join(cache, other))
    return folder
