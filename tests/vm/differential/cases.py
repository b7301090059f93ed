"""Specifications chosen by hand: each field with ordinary and with odd values."""

import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from root import PROBE, PYTHON
from sides import CGROUP

SOURCES: Final = "@sources"
"""Stands in a specification for the folder of the host that `make_sources` fills."""

HOSTNAME: Final = "differential"
CAPABILITIES: Final = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
MASKED: Final = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
)
READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NAMESPACES: Final = ("pid", "mount", "network", "ipc", "uts", "cgroup")


def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    """Return a mount as config.json spells it."""
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }


def bind(name: str, destination: str, *options: str) -> dict[str, Any]:
    """Return a bind mount of one of the sources."""
    return mount(destination, "bind", f"{SOURCES}/{name}", *options)


MOUNTS: Final = (
    mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    mount(
        "/dev/pts",
        "devpts",
        "devpts",
        *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
)
CGROUP_MOUNT: Final = mount(
    "/sys/fs/cgroup", "cgroup", "cgroup", *("nosuid", "noexec", "nodev", "relatime", "ro")
)


def capabilities(*names: str, **sets: Sequence[str]) -> dict[str, list[str]]:
    """Return capability sets: `names` in the first three, and other sets by their names."""
    common = [f"CAP_{name}" for name in names]
    given = {name: [f"CAP_{each}" for each in words] for name, words in sets.items()}
    return dict.fromkeys(("bounding", "effective", "permitted"), common) | given


def specification(
    *words: str,
    process: dict[str, Any] | None = None,
    linux: dict[str, Any] | None = None,
    mounts: Sequence[dict[str, Any]] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Return a specification that runs the probe; what is given replaces the usual fields.

    `mounts` come after the usual ones.
    """
    usual = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    return {
        "ociVersion": "1.2.0",
        "hostname": HOSTNAME,
        "domainname": "example",
        "root": {"path": "rootfs"},
        "process": {
            "args": [PYTHON, "-I", "-S", PROBE, *words],
            "env": ["PATH=/bin:/usr/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": usual,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
            "noNewPrivileges": True,
        }
        | (process or {}),
        "mounts": [*MOUNTS, *mounts],
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
        }
        | (linux or {}),
    } | fields


@dataclass(frozen=True, slots=True)
class Case:
    """One specification; `prepare` makes a layer of its own below the container's root.

    `refused` is a pattern that both runtimes' errors must hold; without one both must run it.
    """

    name: str
    spec: dict[str, Any]
    prepare: Callable[[Path], None] | None = None
    refused: str = ""

    def __str__(self) -> str:
        return self.name

    def placed(self, name: str) -> dict[str, Any]:
        """Return the specification with the cgroup of a container `name`."""
        linux = {"cgroupsPath": f"/{CGROUP}/{name}"} | self.spec["linux"]
        return self.spec | {"linux": linux}


def make_sources(folder: Path) -> None:
    """Fill the folder of the host that bind mounts show."""
    for name in ("tree/below", "tree/deep/er", "secret", "hooks"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("from the host\n")
    (folder / "tree/inside").write_text("inside\n")
    (folder / "tree/script").write_text("#!/bin/sh\necho ran\n")
    os.chmod(folder / "tree/script", 0o4755)
    os.chmod(folder / "secret", 0o700)
    os.chown(folder / "secret", 1000, 1000)
    (folder / "link").symlink_to("file")


def _user(**fields: Any) -> dict[str, Any]:
    return {"user": {"uid": 1000, "gid": 1000} | fields}


def _args(*words: str) -> list[str]:
    return [PYTHON, "-I", "-S", PROBE, *words]


def _setuid(layer: Path) -> None:
    _program(layer, "setuid", 0o6755)


def _program(layer: Path, name: str, mode: int) -> Path:
    (layer / "bin").mkdir(exist_ok=True)
    program = layer / "bin" / name
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(mode)
    return program


def _limits(*entries: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "rlimits": [
            {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, soft, hard in entries
        ]
    }


def _runs(*args: str) -> dict[str, Any]:
    return specification(process={"args": list(args)})


def _linked(layer: Path) -> None:
    (layer / "link").symlink_to("/usr/lib")


def _secret(layer: Path) -> None:
    (layer / "srv/secret").mkdir(parents=True)
    os.chmod(layer / "srv/secret", 0o700)
    os.chown(layer / "srv/secret", 1000, 1000)


def _garbage(layer: Path) -> None:
    (layer / "bin").mkdir()
    (layer / "bin/garbage").write_bytes(b"\x7fELF garbage" * 10)
    os.chmod(layer / "bin/garbage", 0o755)


def _namespaces(*without: str) -> list[dict[str, str]]:
    return [{"type": kind} for kind in _NAMESPACES if kind not in without]


def _sysctl(name: str, value: str) -> dict[str, Any]:
    return specification(f"sysctl:{name}", linux={"sysctl": {name: value}})


def _resources(**resources: Any) -> dict[str, Any]:
    return specification(linux={"resources": resources}, mounts=[CGROUP_MOUNT])


def file_capability(program: Path, bits: int) -> None:
    """Give a program permitted and effective capabilities (linux/capability.h, version 2)."""
    magic, effective = 0x02000000, 1
    value = struct.pack("<5I", magic | effective, bits & 0xFFFFFFFF, 0, bits >> 32, 0)
    os.setxattr(program, "security.capability", value)


def special_files(layer: Path) -> None:
    """Make files of every kind, with attributes."""
    tree = layer / "kinds"
    tree.mkdir()
    (tree / "plain").write_text("x")
    os.link(tree / "plain", tree / "hard")
    (tree / "soft").symlink_to("plain")
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(tree / "plain", "user.colour", b"blue")
    os.chown(tree / "plain", 1234, 5678)
    os.chmod(tree / "plain", 0o2711)
    file_capability(_program(layer, "capable", 0o755), 1 << 13)


_ANN: Final = _user()
_NONE: Final = capabilities()
_IDENTITIES: Final = (
    Case("plain", specification()),
    Case("user", specification(process=_ANN)),
    Case("user-with-groups", specification(process=_user(additionalGids=[5, 2000, 4294967294]))),
    Case("user-out-of-order-groups", specification(process=_user(additionalGids=[77, 5, 77]))),
    Case("user-nobody", specification(process=_user(uid=65534, gid=0))),
    Case("user-largest", specification(process=_user(uid=4294967294, gid=4294967294))),
    Case("group-only", specification(process=_user(uid=0, gid=4242, additionalGids=[0]))),
    Case("umask", specification("write:/tmp", process=_user(umask=0o077))),
    Case(
        "umask-none",
        specification("write:/tmp", process={"user": {"uid": 0, "gid": 0, "umask": 0}}),
    ),
    Case("no-capabilities", specification(process={"capabilities": _NONE})),
    Case("absent-capabilities", specification(process={"capabilities": None, "args": _args()})),
    Case("user-no-capabilities", specification(process=_ANN | {"capabilities": _NONE})),
    Case(
        "ambient",
        specification(
            process=_ANN
            | {
                "capabilities": capabilities(
                    "NET_RAW",
                    "KILL",
                    inheritable=["NET_RAW", "KILL"],
                    ambient=["NET_RAW"],
                )
            }
        ),
    ),
    Case(
        "inheritable",
        specification(
            process={"capabilities": capabilities("CHOWN", "KILL", inheritable=["CHOWN", "KILL"])}
        ),
    ),
    Case(
        "inheritable-unbounded",
        specification(process={"capabilities": capabilities("CHOWN", inheritable=["SYS_ADMIN"])}),
        refused="capabilities.*operation not permitted",
    ),
    Case(
        "bounding-only",
        specification(
            process={
                "capabilities": capabilities(
                    bounding=["SYS_ADMIN", "CHOWN"], effective=[], permitted=["CHOWN"]
                )
            }
        ),
    ),
    Case(
        "effective-less-than-permitted",
        specification(process={"capabilities": capabilities("CHOWN", "KILL", effective=["KILL"])}),
    ),
    Case(
        "ambient-without-inheritable",
        specification(process=_ANN | {"capabilities": capabilities("KILL", ambient=["KILL"])}),
    ),
    Case(
        "unknown-capability",
        specification(process={"capabilities": capabilities("CHOWN", "TIME_TRAVEL")}),
    ),
    Case(
        "new-privileges",
        specification("run:/bin/setuid", process=_ANN | {"noNewPrivileges": False}),
        _setuid,
    ),
    Case("no-new-privileges", specification("run:/bin/setuid", process=_ANN), _setuid),
)
_UNLIMITED: Final = 2**64 - 1
_ODD: Final = [
    "PATH=/bin",
    "A=1",
    "A=2",
    "EMPTY=",
    "SPACES= a b ",
    "EQ=a=b=c",
    "LINES=a\nb",
    "Ü=ü€\u0007",
]
_PROCESSES: Final = (
    Case("rlimits-none", specification(process={"rlimits": []})),
    Case(
        "rlimits-several",
        specification(
            process=_limits(
                ("NOFILE", 64, 128),
                ("CORE", 0, 0),
                ("NPROC", 100, 200),
                ("MEMLOCK", 65536, 131072),
                ("STACK", 1 << 23, _UNLIMITED),
                ("SIGPENDING", 10, 20),
                ("MSGQUEUE", 4096, 8192),
                ("NICE", 0, 0),
                ("RTPRIO", 0, 0),
                ("AS", _UNLIMITED, _UNLIMITED),
                ("CPU", 100, _UNLIMITED),
                ("DATA", 1 << 30, _UNLIMITED),
                ("FSIZE", 1 << 20, 1 << 30),
                ("LOCKS", 5, 6),
                ("RSS", 1 << 30, 1 << 30),
                ("RTTIME", 1000000, _UNLIMITED),
            )
        ),
    ),
    Case("rlimit-unlimited", specification(process=_limits(("CORE", _UNLIMITED, _UNLIMITED)))),
    Case(
        "rlimit-of-nobody-else",
        specification(process=_limits(("LAST", 1, 1))),
        refused="RLIMIT_LAST",
    ),
    Case(
        "rlimit-twice",
        specification(process=_limits(("NOFILE", 99, 99), ("NOFILE", 77, 88))),
    ),
    Case(
        "rlimit-soft-above-hard",
        specification(process=_limits(("NOFILE", 20, 10))),
        refused="rlimit.*invalid argument|RLIMIT_NOFILE",
    ),
    Case("oom-score", specification(process={"oomScoreAdj": 500})),
    Case("oom-score-largest", specification(process={"oomScoreAdj": 1000})),
    Case(
        "oom-score-out-of-range",
        specification(process={"oomScoreAdj": 1001}),
        refused="oom.score.adj",
    ),
    Case("cwd", specification(process={"cwd": "/usr/bin"})),
    Case("cwd-made", specification("path:/made", process=_user() | {"cwd": "/made/by/us"})),
    Case("cwd-odd", specification(process={"cwd": "/tmp/../usr//lib/./"})),
    Case("cwd-link", specification(process={"cwd": "/link"}), _linked),
    Case("cwd-relative", specification(process={"cwd": "usr"}), refused="cwd|directory"),
    Case("cwd-file", specification(process={"cwd": "/bin/busybox"}), refused="/bin/busybox"),
    Case("cwd-private", specification(process=_user() | {"cwd": "/srv/secret"}), _secret),
    Case(
        "cwd-forbidden",
        specification(
            process=_user(uid=1001) | {"cwd": "/srv/secret", "capabilities": capabilities()}
        ),
        _secret,
    ),
    Case("env-odd", specification(process={"env": _ODD})),
    Case("env-none", specification(process={"env": []})),
    Case("env-home", specification(process=_user() | {"env": ["PATH=/bin"]})),
    Case("env-home-given", specification(process={"env": ["HOME=/elsewhere"]})),
    Case("env-home-empty", specification(process=_user() | {"env": ["HOME="]})),
    Case("env-long", specification(process={"env": ["PATH=/bin", "LONG=" + "x" * 100000]})),
    Case(
        "env-without-value", specification(process={"env": ["PATH=/bin", "NOTHING"]}),
        refused="NOTHING|environment",
    ),
    Case(
        "env-without-name", specification(process={"env": ["=nothing"]}),
        refused="=nothing|environment",
    ),
    Case("arguments-odd", specification("", " ", "a\nb", "ü\u20ac", "*", "$HOME")),
    Case("program-missing", _runs("/no/such"), refused="/no/such"),
    Case("program-not-found", _runs("nowhere"), refused='nowhere.*not found in .PATH'),
    Case("program-not-executable", _runs("/etc/passwd"), refused="/etc/passwd.*denied"),
    Case("program-folder", _runs("/usr"), refused="/usr.*(is a directory|denied)"),
    Case("program-garbage", _runs("/bin/garbage"), _garbage, refused="exec format error"),
    Case("program-by-path", specification(process={"args": _args()[1:], "env": ["PATH=/bin"]}), refused='-I.*not found in .PATH'),
    Case("arguments-none", specification(process={"args": []}), refused="arg"),
)  # fmt: skip
_KERNELS: Final = (
    Case("hostname", specification(hostname="another")),
    Case("sysctl-network", _sysctl("net.ipv4.ip_forward", "1")),
    Case("sysctl-range", _sysctl("net.ipv4.ip_local_port_range", "2000\t3000")),
    Case("sysctl-ipc", _sysctl("kernel.msgmax", "4096")),
    Case("sysctl-shm", _sysctl("kernel.shm_rmid_forced", "1")),
    Case("sysctl-sem", _sysctl("kernel.sem", "100 200 300 400")),
    Case("sysctl-mqueue", _sysctl("fs.mqueue.msg_max", "20")),
    Case("sysctl-not-namespaced", _sysctl("kernel.panic", "5"), refused="kernel.panic"),
    Case("sysctl-vm", _sysctl("vm.swappiness", "5"), refused="vm.swappiness"),
    Case("sysctl-missing", _sysctl("net.no.such", "5"), refused=r"net[./]no[./]such"),
    Case("sysctl-value", _sysctl("net.ipv4.ip_forward", "x"), refused="ip_forward"),
    Case("personality", specification(linux={"personality": {"domain": "LINUX32"}})),
    Case(
        "personality-plain", specification(linux={"personality": {"domain": "LINUX"}})
    ),
    Case(
        "scheduler-batch",
        specification(process={"scheduler": {"policy": "SCHED_BATCH", "nice": 5}}),
    ),
    Case(
        "scheduler-unknown",
        specification(process={"scheduler": {"policy": "SCHED_NONE"}}),
        refused="SCHED_NONE|scheduler",
    ),
    Case(
        "io-priority",
        specification(
            "ioprio",
            process={"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}},
        ),
    ),
    Case(
        "io-priority-idle",
        specification("ioprio", process={"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}),
    ),
    Case(
        "terminal",
        specification(process={"terminal": True, "consoleSize": {"height": 40, "width": 120}}),
    ),
    Case("terminal-user", specification(process=_user() | {"terminal": True})),
    Case(
        "no-cgroup-namespace",
        specification(linux={"namespaces": _namespaces("cgroup")}),
    ),
)  # fmt: skip
_MEBI: Final = 1 << 20
_CGROUPS: Final = (
    Case("cgroup", _resources()),
    Case("memory", _resources(memory={"limit": 64 * _MEBI})),
    Case("memory-reservation", _resources(memory={"limit": 99 * _MEBI, "reservation": _MEBI})),
    Case("memory-unlimited", _resources(memory={"limit": -1})),
    Case("memory-swap", _resources(memory={"limit": 64 * _MEBI, "swap": 96 * _MEBI})),
    Case("memory-odd", _resources(memory={"limit": 64 * _MEBI + 1})),
    Case(
        "memory-swap-below-limit",
        _resources(memory={"limit": 64 * _MEBI, "swap": 32 * _MEBI}),
        refused="swap",
    ),
    Case("cpu-quota", _resources(cpu={"quota": 50000, "period": 100000})),
    Case("cpu-quota-only", _resources(cpu={"quota": 20000})),
    Case("cpu-period-only", _resources(cpu={"period": 50000})),
    Case("cpu-unlimited", _resources(cpu={"quota": -1, "period": 100000})),
    Case("cpu-shares", _resources(cpu={"shares": 512})),
    Case("cpu-shares-lowest", _resources(cpu={"shares": 2})),
    Case("cpu-shares-largest", _resources(cpu={"shares": 262144})),
    Case("pids", _resources(pids={"limit": 42})),
    Case("pids-unlimited", _resources(pids={"limit": -1})),
    Case("pids-zero", _resources(pids={"limit": 0})),
    Case("everything-limited", _resources(
        memory={"limit": 128 * _MEBI},
        cpu={"shares": 100, "quota": 150000, "period": 100000},
        pids={"limit": 100},
        devices=[{"allow": False, "access": "rwm"}],
    )),
)  # fmt: skip

ALL: Final = (*_IDENTITIES, *_PROCESSES, *_KERNELS, *_CGROUPS)
