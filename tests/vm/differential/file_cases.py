"""Specifications chosen by hand about files: mounts, paths, devices, seccomp, root."""

from pathlib import Path
from typing import Any, Final

from cases import (
    MOUNTS,
    Case,
    bind,
    capabilities,
    mount,
    special_files,
    specification,
)

_TYPES: Final = {each["destination"]: each for each in MOUNTS}


def _with(*mounts: dict[str, Any], words: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return specification(*words, mounts=mounts, **more)


def _tmpfs(*options: str) -> dict[str, Any]:
    return mount("/mnt", "tmpfs", "tmpfs", *options)


def _replaced(destination: str, *options: str) -> list[dict[str, Any]]:
    return [
        each | {"options": list(options)} if each["destination"] == destination else each
        for each in MOUNTS
    ]


def _away(layer: Path) -> None:
    (layer / "away").symlink_to("/usr")
    (layer / "out").symlink_to("../../../../../../tmp")


def _device(path: str, kind: str, major: int, minor: int, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": kind, "major": major, "minor": minor} | more


def _rule(access: str, kind: str = "c", **numbers: int) -> dict[str, Any]:
    return {"allow": True, "type": kind, "access": access} | numbers


def _seccomp(default: str, *rules: tuple[str, str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    syscalls = [
        {"names": names.split(), "action": f"SCMP_ACT_{action}"} | fields
        for names, action, fields in rules
    ]
    profile = {"defaultAction": f"SCMP_ACT_{default}", "syscalls": syscalls} | more
    return specification("calls", linux={"seccomp": profile})


_LOOK: Final = ("path:/mnt", "write:/mnt")

_MOUNTS: Final = (
    Case("tmpfs", _with(_tmpfs(), words=_LOOK)),
    Case("tmpfs-size", _with(_tmpfs("size=1m", "mode=1770", "uid=5", "gid=7"), words=_LOOK)),
    Case("tmpfs-flags", _with(_tmpfs("nosuid", "nodev", "noexec", "noatime"), words=_LOOK)),
    Case("tmpfs-read-only", _with(_tmpfs("ro"), words=_LOOK)),
    Case("tmpfs-last-wins", _with(_tmpfs("ro", "rw", "noexec", "exec"), words=_LOOK)),
    Case("tmpfs-inodes", _with(_tmpfs("nr_inodes=10", "nr_blocks=20", "sync"), words=_LOOK)),
    Case("tmpfs-relatime", _with(_tmpfs("relatime", "nodiratime"), words=_LOOK)),
    Case("tmpfs-strictatime", _with(_tmpfs("strictatime", "lazytime"), words=_LOOK)),
    Case("tmpfs-nosymfollow", _with(_tmpfs("nosymfollow"), words=_LOOK)),
    Case("tmpfs-bad-option", _with(_tmpfs("colour=blue")), refused="/mnt"),
    Case("tmpfs-copy-up", _with(mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), words=("path:/etc",))),
    Case("type-unknown", _with(mount("/mnt", "nofs", "none")), refused="no such device"),
    Case("tmpfs-shared", _with(_tmpfs("shared"), words=_LOOK)),
    Case("tmpfs-slave", _with(_tmpfs("rslave"), words=_LOOK)),
    Case("tmpfs-unbindable", _with(_tmpfs("unbindable"), words=_LOOK)),
    Case("bind", _with(bind("tree", "/mnt", "rbind", "rprivate"), words=_LOOK)),
    Case("bind-plain", _with(bind("tree", "/mnt", "bind"), words=_LOOK)),
    Case("bind-by-type", _with(bind("tree", "/mnt"), words=_LOOK)),
    Case("bind-read-only", _with(bind("tree", "/mnt", "rbind", "ro"), words=_LOOK)),
    Case(
        "bind-flags",
        _with(bind("tree", "/mnt", "rbind", "nosuid", "nodev", "noexec"), words=_LOOK),
    ),
    Case("bind-noatime", _with(bind("tree", "/mnt", "bind", "noatime"), words=_LOOK)),
    Case("bind-relatime", _with(bind("tree", "/mnt", "bind", "relatime"), words=_LOOK)),
    Case("bind-nosymfollow", _with(bind("tree", "/mnt", "bind", "nosymfollow"), words=_LOOK)),
    Case(
        "bind-recursive-read-only",
        _with(bind("tree", "/mnt", "rbind", "rro"), words=(*_LOOK, "write:/mnt/below")),
    ),
    Case("bind-rslave", _with(bind("tree", "/mnt", "rbind", "rslave"), words=_LOOK)),
    Case("bind-rshared", _with(bind("tree", "/mnt", "rbind", "rshared"), words=_LOOK)),
    Case("bind-file", _with(bind("file", "/mnt/file", "bind"), words=("path:/mnt/file",))),
    Case(
        "bind-file-read-only",
        _with(bind("file", "/etc/group", "bind", "ro"), words=("write:/etc/group",)),
    ),
    Case("bind-link", _with(bind("link", "/mnt", "bind"), words=("path:/mnt",))),
    Case("bind-secret", _with(
        bind("secret", "/srv/secret", "bind"),
        words=("path:/srv/secret",),
        process={"user": {"uid": 1000, "gid": 1000}},
    )),
    Case("bind-missing", _with(bind("absent", "/mnt", "bind")), refused="absent"),
    Case("bind-through-link", _with(bind("tree", "/away/mnt", "bind"), words=("path:/usr/mnt",)), _away),
    Case("bind-out-of-root", _with(bind("tree", "/out/mnt", "bind"), words=("path:/out/mnt",)), _away),
    Case("bind-on-bind", _with(bind("tree", "/mnt", "bind"), bind("file", "/mnt/inside", "bind"),
         words=("path:/mnt/inside",))),
    Case("bind-over-etc", _with(bind("tree", "/etc", "bind", "ro"), words=("path:/etc",))),
    Case("mount-in-order", _with(_tmpfs("size=1m"), mount("/mnt/a/b", "tmpfs", "tmpfs"), _tmpfs("size=2m"))),
    Case("mount-on-file", _with(mount("/etc/passwd", "tmpfs", "tmpfs")), refused="/etc/passwd"),
    Case("mount-relative", _with(mount("mnt", "tmpfs", "tmpfs"), words=_LOOK)),
    Case("devpts-again", _with(mount("/mnt", "devpts", "devpts", "newinstance", "mode=600"), words=_LOOK)),
    Case("sysfs-writable", specification() | {"mounts": _replaced("/sys", "nosuid")}),
    Case("proc-hidepid", _with(mount("/mnt", "proc", "proc", "hidepid=2"), words=("path:/mnt/1",))),
    Case("proc-read-only", specification() | {"mounts": _replaced("/proc", "ro", "nosuid")}),
    Case("no-mounts", specification("path:/proc", "write:/dev") | {"mounts": [_TYPES["/proc"]]}),
    Case("dev-read-only", specification("write:/dev") | {"mounts": _replaced("/dev", "nosuid", "ro", "mode=755")}),
    Case("shm-only", specification() | {"mounts": [_TYPES[each] for each in ("/proc", "/dev", "/dev/shm")]}),
)  # fmt: skip

_TREE: Final = ("path:/kinds", "path:/kinds/plain", "path:/absent")
_READONLY: Final[dict[str, Any]] = {"root": {"path": "rootfs", "readonly": True}}
_KINDS: Final = [f"/kinds/{name}" for name in ("plain", "hard", "soft", "fifo", "null")]

_ROOTS: Final = (
    Case("masked-default", specification("path:/proc/kcore", "path:/proc/keys", "path:/sys/firmware")),
    Case("masked-none", specification(linux={"maskedPaths": [], "readonlyPaths": []})),
    Case("masked-own", specification(*_TREE, linux={"maskedPaths": ["/kinds", "/absent"]}), special_files),
    Case("masked-file", specification(*_TREE, linux={"maskedPaths": ["/kinds/plain"]}), special_files),
    Case("masked-link", specification(*_TREE, linux={"maskedPaths": ["/kinds/soft"]}), special_files),
    Case("masked-below-file", specification(*_TREE, linux={"maskedPaths": ["/kinds/plain/x"]}), special_files, refused="not a directory"),
    Case("masked-relative", specification("path:/etc", linux={"maskedPaths": ["etc"]})),
    Case(
        "readonly-own",
        specification("write:/kinds", "write:/kinds/plain", linux={"readonlyPaths": ["/kinds", "/absent"]}),
        special_files,
    ),
    Case("readonly-file", specification("write:/etc/passwd", "write:/etc", linux={"readonlyPaths": ["/etc/passwd"]})),
    Case("readonly-default", specification("write:/proc/sys/kernel/msgmax", "write:/proc/irq", "write:/proc/sys")),
    Case("root-read-only", specification("write:/", "write:/tmp", "write:/run", **_READONLY)),
    Case("root-writable", specification("write:/", "write:/tmp", "write:/etc/passwd")),
    *(
        Case(f"root-{word}", specification(linux={"rootfsPropagation": word}))
        for word in ("private", "rslave", "rshared", "unbindable")
    ),
    Case("root-propagation-unknown", specification(linux={"rootfsPropagation": "sideways"}), refused="sideways"),
    Case("xattrs", specification(*(f"xattrs:{path}" for path in _KINDS), "xattrs:/bin/capable"), special_files),
    Case(
        "file-capabilities",
        specification(
            "run:/bin/capable",
            process={"user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": False},
        ),
        special_files,
    ),
    Case("file-capabilities-no-new-privileges", specification(
        "run:/bin/capable", process={"user": {"uid": 1000, "gid": 1000}}), special_files),
)  # fmt: skip

_DENIED: Final = {"allow": False, "access": "rwm"}
_NAMES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_OPENS: Final = tuple(f"open:/dev/{name}" for name in (*_NAMES, "kmsg", "made"))
_MADE: Final = _device("/dev/made", "c", 1, 3, fileMode=0o640, uid=5, gid=7)


def _ruled(*rules: dict[str, Any]) -> dict[str, Any]:
    devices = [_MADE, _device("/dev/kmsg", "c", 1, 11, fileMode=0o600)]
    return specification(
        *_OPENS, linux={"devices": devices, "resources": {"devices": [_DENIED, *rules]}}
    )


_DEVICES: Final = (
    Case("device", specification(*_OPENS, linux={"devices": [_MADE]})),
    Case("device-without-rules", specification(*_OPENS, linux={"devices": [_device("/dev/kmsg", "c", 1, 11)]})),
    Case("device-default-mode", specification(linux={"devices": [_device("/dev/made", "c", 1, 5)]})),
    Case("device-block", specification(linux={"devices": [_device("/dev/disk", "b", 7, 99, fileMode=0o660)]})),
    Case("device-fifo", specification(linux={"devices": [_device("/dev/pipe", "p", 0, 0, fileMode=0o600)]})),
    Case("device-below", specification("path:/dev/net", linux={"devices": [_device("/dev/net/tun", "c", 10, 200)]})),
    Case("device-elsewhere", specification("path:/srv/null", linux={"devices": [_device("/srv/null", "c", 1, 3)]})),
    Case("device-again", specification(linux={"devices": [_device("/dev/tty", "c", 5, 0, fileMode=0o600)]})),
    Case("device-odd-type", specification(linux={"devices": [_device("/dev/made", "x", 1, 3)]}), refused="x"),
    Case("device-rules-none", _ruled()),
    Case("device-rules-read", _ruled(_rule("r", major=1, minor=11), _rule("r", major=1, minor=3))),
    Case("device-rules-all", _ruled({"allow": True, "access": "rwm"})),
    Case("device-rules-wild", _ruled(_rule("rw", major=1))),
    Case("device-rules-odd", _ruled(_rule("rwmx")), refused="access|rwmx|permission"),
)  # fmt: skip

_X86: Final = {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
_NOTHING: Final[dict[str, Any]] = {}

_PROFILES: Final = (
    Case("seccomp-allow", _seccomp("ALLOW")),
    Case("seccomp-errno", _seccomp("ALLOW", ("mkdir mkdirat", "ERRNO", _NOTHING), **_X86)),
    Case(
        "seccomp-errno-value",
        _seccomp("ALLOW", ("mkdir getpriority chroot", "ERRNO", {"errnoRet": 38})),
    ),
    Case(
        "seccomp-argument",
        _seccomp(
            "ALLOW",
            (
                "getpriority",
                "ERRNO",
                {"args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            ),
        ),
    ),
    Case("seccomp-log", _seccomp("ALLOW", ("mkdir", "LOG", _NOTHING), **_X86)),
    Case(
        "seccomp-privileges",
        _seccomp("ALLOW", ("symlink", "ERRNO", _NOTHING))
        | {
            "process": specification("calls")["process"]
            | {
                "noNewPrivileges": False,
                "user": {"uid": 1000, "gid": 1000},
                "capabilities": capabilities("CHOWN"),
            }
        },
    ),
    Case("seccomp-unknown-call", _seccomp("ALLOW", ("no_such_call", "ERRNO", _NOTHING), **_X86)),
    Case("seccomp-unknown-action", _seccomp("SHRUG"), refused="SHRUG"),
    Case(
        "seccomp-unknown-architecture",
        _seccomp("ALLOW", ("mkdir", "ERRNO", _NOTHING), architectures=["SCMP_ARCH_PDP11"]),
        refused="PDP11",
    ),
    Case("seccomp-unknown-flag", _seccomp("ALLOW", flags=["NO_FLAG"]), refused="NO_FLAG"),
)

ALL: Final = (*_MOUNTS, *_ROOTS, *_DEVICES, *_PROFILES)
