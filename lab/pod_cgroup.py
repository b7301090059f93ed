"""The cgroup of a pod, which kubelet makes before the sandbox and removes after it.

Paths are relative to each hierarchy: the v1 hierarchies of this machine, or the unified one. Where
systemd runs with the latter, the cgroup is a slice that systemd makes, as under kubelet's driver
of that name.
"""

import contextlib
from pathlib import Path
from typing import Final

from lab.command import run

_ROOT: Final = Path("/sys/fs/cgroup")
_UNIFIED: Final = "cgroup.controllers"


def is_unified() -> bool:
    """Tell whether the machine has cgroup v2 only."""
    return (_ROOT / _UNIFIED).exists()


def has_slices() -> bool:
    """Tell whether systemd makes the cgroups of pods here (sd_booted(3))."""
    return is_unified() and Path("/run/systemd/system").is_dir()


def name(namespace: str, uid: str) -> str:
    """Return the path of a pod's cgroup, of a slice below the namespace's where systemd makes it.

    A dash in a slice's name leads a level down (systemd.slice(5)).
    """
    if not has_slices():
        return f"/{namespace}/pod{uid}"
    words = [*namespace.split("-"), f"pod{uid.replace('-', '_')}"]
    return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


def hierarchies() -> list[Path]:
    """Return the roots in which a pod has a cgroup; beside v1's there is an idle unified one."""
    return [_ROOT] if is_unified() else sorted(_ROOT.iterdir())


def folders(cgroup: str) -> list[Path]:
    """Return where the cgroup is, or would be, in each hierarchy."""
    return [root / cgroup.lstrip("/") for root in hierarchies()]


def create(cgroup: str) -> None:
    """Make the cgroup in each hierarchy, able to hold processes; it may be there already."""
    if has_slices():
        run(["systemctl", "start", Path(cgroup).name])
        return
    for folder in folders(cgroup):
        folder.mkdir(parents=True, exist_ok=True)
        # A cpuset that names no CPU takes no process (cgroup-v1/cpusets).
        for name in ("cpuset.cpus", "cpuset.mems"):
            for path in (folder.parent / name, folder / name):
                if path.exists() and not is_unified() and not path.read_text().strip():
                    path.write_text((path.parent.parent / name).read_text())
        if is_unified():
            _delegate(folder)


def remove(cgroup: str) -> bool:
    """Remove the cgroup where it is empty, and tell whether nothing of it is left."""
    # What still holds something stays, for the census or for another try.
    if has_slices() and not any(list(folder.glob("*/")) for folder in folders(cgroup)):
        run(["systemctl", "stop", Path(cgroup).name])
    for folder in folders(cgroup):
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not any(folder.exists() for folder in folders(cgroup))


def _delegate(folder: Path) -> None:
    for path in (folder.parent.parent, folder.parent, folder):
        controllers = (path / _UNIFIED).read_text().split()
        wanted = " ".join(f"+{name}" for name in controllers)
        (path / "cgroup.subtree_control").write_text(wanted)
