"""The guest's kernel and initrd against the manifest that lies beside them, before they boot.

`kata-ctl image build` writes the manifest. Files that have none are taken as they are.
"""

import json
import os
from typing import Any

_MANIFEST = "kata-containers-image.json"


def fault(kernel: str, initrd: str) -> str:
    """Say why these two cannot boot together; empty when nothing speaks against it.

    Compares sizes and the kernel's release, not digests: reading both files takes as long as a
    restored start. Raises `OSError` when one is missing.
    """
    releases = []
    for what, path in (("kernel", kernel), ("initrd", initrd)):
        real = os.path.realpath(path)
        manifest = _read(os.path.join(os.path.dirname(real), _MANIFEST))
        record = manifest.get("files", {}).get(os.path.basename(real))
        if not record:
            continue
        size = os.stat(real).st_size
        if size != record["size"]:
            return (
                f"the guest {what} {path} has {size} bytes and its manifest says {record['size']}: "
                "it is truncated, or of another build"
            )
        releases.append(manifest["kernel"]["release"])
    if len(set(releases)) > 1:
        return (
            f"the guest kernel {kernel} is Linux {releases[0]} and the initrd {initrd} has modules "
            f"for {releases[1]}"
        )
    return ""


def _read(path: str) -> dict[str, Any]:
    """Return a manifest; an empty one when there is none that makes sense."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        sizes = [record["size"] for record in data["files"].values()]
        if not sizes or not data["kernel"]["release"]:
            return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(data)
