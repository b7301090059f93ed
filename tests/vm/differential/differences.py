"""The differences that are meant, each with its reason, and the comparison that allows no other.

`python tests/vm/differential/differences.py > docs/differences.md` writes the page for users.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

ABSENT: Final = "absent"
PROCESSORS: Final = 2
"""Processors of the test's guest: for two containers at a time."""

Spec = dict[str, Any]


def _always(_: Spec) -> bool:
    return True


def _without_limit(kind: str) -> Callable[[Spec], bool]:
    return lambda spec: kind not in {each["type"] for each in spec["process"]["rlimits"]}


def _without_resource(controller: str, *names: str) -> Callable[[Spec], bool]:
    def unset(spec: Spec) -> bool:
        given = spec["linux"].get("resources", {}).get(controller, {})
        return not any(given.get(name) for name in names)

    return unset


def _repeats_groups(spec: Spec) -> bool:
    groups = spec["process"]["user"].get("additionalGids", [])
    return len(set(groups)) < len(groups)


def _masks(spec: Spec) -> bool:
    return "/proc/kcore" in spec["linux"]["maskedPaths"]


def _everywhere() -> bool:
    return True


def has_cgroup1() -> bool:
    """Tell whether this machine's cgroups have the older shape; the guest's never have."""
    return not Path("/sys/fs/cgroup/cgroup.controllers").exists()


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: patterns (`*`, `?`) of the field and of what each side has there.

    `of` tells which specifications it may show in, and `here` whether it must on this machine.
    """

    field: str
    runc: str
    ours: str
    why: str
    of: Callable[[Spec], bool] = _always
    here: Callable[[], bool] = _everywhere

    def allows(self, spec: Spec, field: str, runc: str, ours: str) -> bool:
        """Tell whether this is the difference that was found."""
        return (
            fnmatchcase(field, self.field)
            and fnmatchcase(runc, self.runc)
            and fnmatchcase(ours, self.ours)
            and self.of(spec)
        )


_KERNEL: Final = "The guest has a kernel of its own, built with other options."
_MACHINE: Final = "The kernel's default follows the size of the machine, and the guest is smaller."
_SHARE: Final = "Files of the host come through the sandbox's share."
_UNIFIED: Final = "The guest has the unified hierarchy (cgroup v2), whatever the host has."
_POD: Final = (
    "The virtual machine is the pod: its containers share the guest's {}, as they share a pod's."
)

DIFFERENCES: Final = (
    Difference("kernel release", "*", "*", "The guest has a kernel of its own: that is the point."),
    Difference(
        "scheduler processors",
        "*",
        "*",
        "The guest has as many processors as `default_vcpus` says, not those of the host.",
        here=lambda: len(os.sched_getaffinity(0)) != PROCESSORS,
    ),
    Difference("limits Max processes", "*", "*", _MACHINE, of=_without_limit("RLIMIT_NPROC")),
    Difference(
        "limits Max pending signals", "*", "*", _MACHINE, of=_without_limit("RLIMIT_SIGPENDING")
    ),
    Difference(
        "limits Max open files",
        "*",
        "1048576 1048576",
        "What a specification leaves out, runc passes on from whoever called it; the guest has no "
        "caller, and takes the kernel's largest number.",
        of=_without_limit("RLIMIT_NOFILE"),
    ),
    Difference(
        "ids additional",
        "*",
        "*",
        "A group that is listed twice is set once, as by runc until 1.1; later ones set it twice.",
        of=_repeats_groups,
    ),
    Difference("namespaces ipc", "own", "initial", _POD.format("System V and POSIX IPC")),
    Difference("namespaces uts", "own", "initial", _POD.format("host name")),
    Difference("names host", "*", "differential", _POD.format("host name")),
    Difference(
        "namespaces cgroup",
        "initial",
        "own",
        "A container never sees the guest's other cgroups, even when it asks for no namespace.",
    ),
    Difference(
        "cgroup paths",
        "/kata-differential/*",
        "/",
        "A container never sees the guest's other cgroups, even when it asks for no namespace.",
    ),
    Difference("shares * type", "*", "virtiofs", _SHARE),
    Difference("shares * source", "*", "*", _SHARE),
    Difference("shares * root", "*", "*", _SHARE),
    Difference("shares * data *", "*", "*", _SHARE + " The options are those of its file system."),
    Difference(
        "shares * flags nodev",
        "absent",
        "present",
        "Device files of an image name devices of the host; in the guest they do not open. "
        "Devices of the specification are made below `/dev`, where they do.",
    ),
    Difference(
        "content /srv/null",
        "b''",
        "EACCES",
        "A device of the specification outside of `/dev` lies on the share, which is `nodev`.",
    ),
    Difference(
        "shares * propagation",
        "*master",
        "*",
        "A mount in the guest has no peer in the kernel of the host.",
    ),
    Difference("mounts * data inode64", "absent", "present", _KERNEL),
    Difference("mounts /proc/kcore", "absent", "present", _KERNEL, of=_masks),
    Difference("shares /proc/kcore", "absent", "present", _KERNEL, of=_masks),
    Difference("mounts /proc/sysrq-trigger", "absent", "present", _KERNEL),
    Difference("devices core", "absent", "l* -> /proc/kcore", _KERNEL),
    Difference("files /proc/kcore", "ENOENT", "c* 1,3", _KERNEL + " What is there is masked."),
    Difference("content /proc/kcore", "ENOENT", "b''", _KERNEL + " What is there is masked."),
    Difference(
        "mounts /sys data r?",
        "*",
        "*",
        "sysfs has one instance for each network namespace, and the pod has one of those; whether "
        "a container may write to it is in the flags of its mount.",
    ),
    Difference(
        "status Cap*",
        "*",
        "0000000000000000",
        "Without `process.capabilities` runc hands on all of its own; ours gives none.",
        of=lambda spec: spec["process"]["capabilities"] is None,
    ),
    Difference("mounts /sys/fs/cgroup source", "tmpfs", "cgroup2", _UNIFIED, here=has_cgroup1),
    Difference("mounts /sys/fs/cgroup type", "tmpfs", "cgroup2", _UNIFIED, here=has_cgroup1),
    Difference("mounts /sys/fs/cgroup data *", "*", "*", _UNIFIED, here=has_cgroup1),
    Difference("mounts /sys/fs/cgroup flags r?", "*", "*", _UNIFIED, here=has_cgroup1),
    Difference("mounts /sys/fs/cgroup/*", "present", "absent", _UNIFIED, here=has_cgroup1),
    Difference("cgroup high", "absent", "max", _UNIFIED, here=has_cgroup1),
    Difference(
        "cgroup reservation",
        "max",
        "0",
        _UNIFIED + " No reservation is spelled 0 there.",
        of=_without_resource("memory", "reservation"),
        here=has_cgroup1,
    ),
    Difference(
        "cgroup weight",
        "39",
        "100",
        _UNIFIED + " Its default weight is another.",
        of=_without_resource("cpu", "shares"),
        here=has_cgroup1,
    ),
    Difference(
        "outcome",
        "refused",
        "runs",
        "A mount of the type `bind` is a bind mount, also without the option `bind`.",
        of=lambda spec: any(
            each["type"] == "bind" and not {"bind", "rbind"} & set(each["options"])
            for each in spec["mounts"]
        ),
    ),
    Difference(
        "outcome",
        "runs",
        "refused",
        "runc ignores letters of a device rule's access that mean nothing; ours says so.",
        of=lambda spec: any(
            set(each.get("access", "")) - set("rwm")
            for each in spec["linux"].get("resources", {}).get("devices", ())
        ),
    ),
)

_PAGE: Final = """# Differences from runc

<!-- Generated: python tests/vm/differential/differences.py > docs/differences.md -->

A container under Kata sees what it would see under runc, but for this list. A test runs more than a
hundred specifications under both and compares what a program inside can see: it fails on a difference
that is not here, and on one that is here and no longer shows. `*` stands for anything; a mount or
file that only one of them has is *present* there and *absent* in the other.

| field | runc | ours | why |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page about them."""
    rows = [
        f"| `{each.field}` | `{each.runc}` | `{each.ours}` | {each.why}"
        + (" Only where the host has cgroup v1." if each.here is has_cgroup1 else "")
        + " |\n"
        for each in DIFFERENCES
    ]
    return _PAGE + "".join(rows)


def found(runc: dict[str, Any], ours: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield field, runc's and our value where two reports differ.

    What only one side has is one difference, however much there is to say of it.
    """
    runc, ours = _sorted_out(runc, ours), _sorted_out(ours, ours)
    points = [name for name in runc["mounts"] if name in ours["mounts"]]
    order = [name for name in ours["mounts"] if name in runc["mounts"]]
    if points != order:
        yield "mounts order", " ".join(points), " ".join(order)
    yield from _compare("", runc, ours)


def _sorted_out(report: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the mounts that come to our guest through its share as `shares`."""
    shared = {point for point, each in ours["mounts"].items() if each["type"] in ("virtiofs", "9p")}
    mounts = report["mounts"]
    return report | {
        "mounts": {point: each for point, each in mounts.items() if point not in shared},
        "shares": {point: each for point, each in mounts.items() if point in shared},
    }


def _compare(prefix: str, runc: Any, ours: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(runc, dict) and isinstance(ours, dict):
        for name in sorted({*runc, *ours}):
            yield from _compare(
                f"{prefix} {name}".strip(), runc.get(name, ABSENT), ours.get(name, ABSENT)
            )
    elif runc != ours:
        yield prefix, _word(runc), _word(ours)


def _word(value: Any) -> str:
    return "present" if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
