"""What is mounted where an open file lies, as the kernel's table of mounts has it.

The table is /proc/self/mountinfo (proc_pid_mountinfo(5)): that of the calling process's namespace.
"""

import re
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One mount: `root` is the directory of its file system that is seen at `point`."""

    id: int
    device: tuple[int, int]
    root: str
    point: str
    fstype: str


def find(descriptor: int) -> MountEntry | None:
    """Return the mount that an open file lies on; None when it is not in our namespace."""
    wanted = mount_id(descriptor)
    return next((entry for entry in _entries() if entry.id == wanted), None)


def find_at(point: str, device: tuple[int, int]) -> MountEntry | None:
    """Return the topmost mount of a file system's device at exactly `point`, if there is one."""
    found = None
    for entry in _entries():
        if entry.point == point and entry.device == device:
            found = entry
    return found


def has_below(path: str) -> bool:
    """Tell whether something is mounted below a path."""
    return any(entry.point.startswith(path.rstrip("/") + "/") for entry in _entries())


def mount_id(descriptor: int) -> int:
    """Return the number of the mount that an open file lies on."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def _entries() -> list[MountEntry]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [_parse(line) for line in lines]


def _parse(line: str) -> MountEntry:
    fields, _, rest = line.partition(" - ")
    number, _, device, root, point, *_ = fields.split(" ")
    major, _, minor = device.partition(":")
    return MountEntry(
        int(number), (int(major), int(minor)), _plain(root), _plain(point), rest.split(" ")[0]
    )


def _plain(text: str) -> str:
    r"""Undo the spelling of spaces and the like, which is `\040`."""
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), text)
