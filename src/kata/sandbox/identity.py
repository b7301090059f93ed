"""Names of sandboxes: which sandbox a container belongs to, and where its things lie.

Imports nothing heavy, since `start` and `delete` use it.
"""

import os
import re
from collections.abc import Mapping

RUN_ROOT = "/run/kata"
"""Where the run directories of sandboxes lie."""

SOCKET_DIRECTORY = "/run/containerd/s"
"""Where shims listen; fixed in containerd before 2.3, wherever its own state lies."""

STANDBY_PREFIX = "_standby-"
"""What the names of run directories begin with whose guests stand by; no sandbox's id does."""

_SANDBOX_ID_KEYS = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")

_LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,75}")
"""containerd's rule for identifiers, at most 76 characters."""


def sandbox_id(container_id: str, annotations: Mapping[str, str]) -> str:
    """Return the id of the sandbox that a container belongs to: its own outside of a pod.

    Raises `ValueError` when that is no legal identifier: it becomes part of paths.
    """
    found = next((annotations[k] for k in _SANDBOX_ID_KEYS if k in annotations), container_id)
    if not _LEGAL.fullmatch(found):
        raise ValueError(
            f"{found!r} is no sandbox id: letters, digits, dots, dashes and underscores, at most 76"
        )
    return found


def is_of_pod(annotations: Mapping[str, str]) -> bool:
    """Tell whether a container is part of a Kubernetes pod."""
    return any(key in annotations for key in _SANDBOX_ID_KEYS)


def directory_name(sandbox: str, socket_path: str) -> str:
    """Return the name of a sandbox's directories.

    Ids are unique within one namespace of one containerd only; the shim's socket, whose name is a
    hash of all three, is unique on the machine.
    """
    return f"{sandbox}-{os.path.basename(socket_path)[:8]}"
