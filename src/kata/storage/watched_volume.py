"""Volumes that kubelet writes and later replaces: ConfigMap, Secret, projected, downwardAPI.

The guest gets a copy in its memory.  Changes made by the host to a share raise no inotify events in a
guest; those of a copy do, and they come in the order in which kubelet makes them.
"""

import os
from contextlib import suppress
from dataclasses import dataclass

from kata.storage import kubelet

GUEST_WATCHABLE = "/run/kata-containers/sandbox/watchable"

MOST_ENTRIES = 1024
MOST_BYTES = 8 << 20
"""What is copied at most: an object of Kubernetes has 1 MiB, and a projected volume shows several."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A directory of the host, its path on the share as the guest sees it, and that of the copy."""

    path: str
    source: str
    mount_point: str


def is_copied(path: str) -> bool:
    """Tell whether a volume is one that kubelet replaces, and small enough for a copy.

    Raises `OSError`.
    """
    return kubelet.is_updated(path) and os.path.isdir(path) and _is_small(path)


def _is_small(path: str) -> bool:
    entries = size = 0
    for folder, names, files in os.walk(path):
        entries += len(names) + len(files)
        for name in files:
            with suppress(FileNotFoundError):  # kubelet replaces them just now
                size += os.lstat(os.path.join(folder, name)).st_size
        if entries > MOST_ENTRIES or size > MOST_BYTES:
            return False
    return True
