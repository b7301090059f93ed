"""What kubelet's paths say of a volume.

`<root>/pods/<pod>/volumes/kubernetes.io~<plugin>/<volume>` is a volume's directory, and
`<root>/pods/<pod>/volume-subpaths/<volume>/<container>/<number>` is where kubelet binds a part of one
for a container that mounts it by subPath.
"""

import re

_PLUGIN = re.compile(r"/volumes/kubernetes\.io~([^/]+)/[^/]+$")
_SUBPATH = re.compile(r"(?P<pod>.*/pods/[^/]+)/volume-subpaths/(?P<volume>[^/]+)/[^/]+/\d+$")

EMPTY_DIR = "empty-dir"

_WRITTEN_BY_KUBELET = ("configmap", "downward-api", "projected", "secret")


def _plugin(path: str) -> str:
    found = _PLUGIN.search(path)
    return found[1] if found else ""


def is_empty_dir(path: str) -> bool:
    """Tell whether a path is the directory of an emptyDir volume."""
    return _plugin(path) == EMPTY_DIR


def is_updated(path: str) -> bool:
    """Tell whether a path is a volume whose files kubelet writes, and replaces when they change."""
    return _plugin(path) in _WRITTEN_BY_KUBELET


def empty_dir_of_subpath(path: str) -> str:
    """Return the emptyDir that a path is a part of, if it is kubelet's bind for a subPath.

    Only the name tells, which a volume of another kind may have, too; empty for all other paths.
    """
    found = _SUBPATH.match(path)
    if not found:
        return ""
    return f"{found['pod']}/volumes/kubernetes.io~{EMPTY_DIR}/{found['volume']}"
