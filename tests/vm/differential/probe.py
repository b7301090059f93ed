"""What a program in a container can see of how it was set up: prints one Python literal.

Runs in the container with an interpreter of the container's own and imports almost nothing: an
emulated processor takes a second for `json` alone. The words on its command line ask for more than
it always tells: `path:/x`, `xattrs:/x`, `write:/x`, `open:/x`, `sysctl:net.x`, `run:/program`,
`calls`, `ioprio`.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

# Inode numbers of the namespaces that a kernel starts with (linux/proc_ns.h).
_INITIAL = {
    "ipc": 0xEFFFFFFF,
    "uts": 0xEFFFFFFE,
    "user": 0xEFFFFFFD,
    "pid": 0xEFFFFFFC,
    "cgroup": 0xEFFFFFFB,
    "time": 0xEFFFFFFA,
}
_STATUS: tuple[str, ...] = (
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
)
_STATUS += ("Seccomp_filters", "Umask", "SigBlk", "SigIgn", "NSpid")
_CGROUP = "/sys/fs/cgroup"
_UNLIMITED_V1 = 1 << 62  # bytes; cgroup v1 spells no limit as the largest page count


Report = dict[str, dict[str, Any]]
"""What was found, by subject and name."""


def attempt(action: Callable[[], Any]) -> Any:
    """Return what an action returns, or the name of its error."""
    try:
        return action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def text(path: str) -> str:
    """Return the content of a file, or the name of the error."""

    def read() -> str:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            parts = []
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
            return b"".join(parts).decode(errors="backslashreplace")
        finally:
            os.close(descriptor)

    return str(attempt(read)).rstrip("\n")


def described(path: str, *, follow: bool = True) -> Any:
    """Return type, mode, owner, and what is special about a file."""

    def look() -> str:
        found = os.stat(path, follow_symlinks=follow)
        words = [stat.filemode(found.st_mode), f"{found.st_uid}:{found.st_gid}"]
        if stat.S_ISLNK(found.st_mode):
            words.append("-> " + os.readlink(path))
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            words.append(f"{os.major(found.st_rdev)},{os.minor(found.st_rdev)}")
        if stat.S_ISREG(found.st_mode):
            words.append(f"{found.st_size} bytes, {found.st_nlink} links")
        return " ".join(words)

    return attempt(look)


def mounts() -> Report:
    """Return each mount by its mount point, the second on one point as `/x#2`."""
    found: dict[str, Any] = {}
    for line in text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, point, flags, *peers = left.split(" ")
        kind, source, data = right.split(" ", 2)
        name = point
        while name in found:
            stem, _, number = name.partition("#")
            name = f"{stem}#{int(number or 1) + 1}"
        found[name] = {
            "type": kind,
            "source": source,
            "root": root,
            "flags": dict.fromkeys(flags.split(","), "present"),
            "data": dict.fromkeys(data.split(","), "present"),
            "propagation": " ".join(word.partition(":")[0] for word in peers) or "private",
        }
    return {"mounts": found}


def limit(value: str) -> str:
    """Spell a limit of either version of cgroups in one way."""
    if value.lstrip("-").isdigit() and (int(value) < 0 or int(value) >= _UNLIMITED_V1):
        return "max"
    return value


def first(*paths: str) -> str:
    """Return the content of the first of some files that is there."""
    for path in paths:
        content = text(f"{_CGROUP}/{path}")
        if content not in ("ENOENT", "ENOTDIR"):
            return content
    return "absent"


def cgroup() -> Report:
    """Return the limits of the cgroup, in the spelling of version 2 whichever there is."""
    paths = {
        line.split(":", 2)[2] for line in text("/proc/self/cgroup").splitlines() if ":" in line
    }
    quota = limit(first("cpu/cpu.cfs_quota_us"))
    if quota != "absent":
        bandwidth = f"{quota} {first('cpu/cpu.cfs_period_us')}"
    else:
        bandwidth = first("cpu.max")
    shares = first("cpu/cpu.shares")
    weight = first("cpu.weight")
    if shares.isdigit():  # by the formula of the kernel's documentation of the change
        weight = str(1 + (int(shares) - 2) * 9999 // 262142)
    memory = limit(first("memory/memory.limit_in_bytes", "memory.max"))
    total = limit(first("memory/memory.memsw.limit_in_bytes"))
    swap = limit(first("memory.swap.max"))
    if total != "absent":
        swap = "max" if "max" in (total, memory) else str(int(total) - int(memory))
    limits = {
        "paths": " ".join(sorted(paths)),
        "memory": memory,
        "swap": swap,
        "reservation": limit(first("memory/memory.soft_limit_in_bytes", "memory.low")),
        "cpu": bandwidth,
        "weight": weight,
        "pids": first("pids/pids.max", "pids.max"),
        "high": first("memory.high"),
        "idle": first("cpu/cpu.idle", "cpu.idle"),
    }
    return {"cgroup": limits}


def _own_signals(mask: str) -> str:
    """Return a set of signals without 32 and 33, which are glibc's own: GNU make leaves them ignored."""
    return f"{int(mask, 16) & ~(0b11 << 31):016x}"


def process() -> Report:
    """Return what /proc and the calls say of this process."""
    fields = {
        name: value.strip()
        for name, _, value in (
            line.partition(":") for line in text("/proc/self/status").splitlines()
        )
    }
    mask = os.umask(0)
    os.umask(mask)
    return {
        "status": {name: fields.get(name, "absent") for name in _STATUS}
        | {name: _own_signals(fields[name]) for name in ("SigBlk", "SigIgn") if name in fields},
        "ids": {
            "users": os.getresuid(),
            "groups": os.getresgid(),
            "additional": os.getgroups(),
        },
        "process": {
            "pid": os.getpid(),
            "session": (os.getsid(0), os.getpgrp()),
            "umask": oct(mask),
            "cwd": attempt(os.getcwd),
            "arguments": sys.orig_argv[1:],
            "oom_score_adj": text("/proc/self/oom_score_adj"),
            "personality": text("/proc/self/personality"),
            "timerslack": text("/proc/self/timerslack_ns"),
        },
        "scheduler": {
            "policy": os.sched_getscheduler(0),
            "priority": os.sched_getparam(0).sched_priority,
            "nice": attempt(lambda: os.getpriority(os.PRIO_PROCESS, 0)),
            "processors": len(os.sched_getaffinity(0)),
        },
        "limits": {
            line[:26].strip(): " ".join(line[26:68].split())
            for line in text("/proc/self/limits").splitlines()[1:]
        },
    }


def namespaces() -> Report:
    """Return which namespaces are those that the kernel has started with."""
    found = {}
    for kind, number in _INITIAL.items():
        inode = attempt(lambda kind=kind: os.stat(f"/proc/self/ns/{kind}").st_ino)  # type: ignore[misc]
        known = "initial" if inode == number else "own"
        found[kind] = inode if isinstance(inode, str) else known
    return {"namespaces": found}


def environment() -> Report:
    """Return the environment, and the order of its names."""
    found = {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace")
        for name, value in os.environb.items()
    }
    return {"environment": found, "process": {"environment": list(found)}}


def descriptors() -> Report:
    """Return what is open, and the terminal's size if there is one."""
    listed = attempt(lambda: sorted(map(int, os.listdir("/proc/self/fd"))))
    report: dict[str, Any] = {"open": listed[:-1] if isinstance(listed, list) else listed}
    for number in range(3):
        found = attempt(lambda number=number: stat.filemode(os.fstat(number).st_mode)[0])  # type: ignore[misc]
        report[str(number)] = found
    if os.isatty(0):
        size = os.get_terminal_size(0)
        report["terminal"] = (attempt(lambda: os.ttyname(0)), size.lines, size.columns)
        report["console"] = described("/dev/console")
    return {"descriptors": report}


def machine() -> Report:
    """Return what containers may share with others: names, network, kernel."""
    name = os.uname()
    return {
        "kernel": {"release": name.release, "machine": name.machine},
        "names": {"host": name.nodename, "domain": text("/proc/sys/kernel/domainname")},
        "network": {
            "interfaces": attempt(lambda: sorted(os.listdir("/sys/class/net"))),
            "loopback": text("/sys/class/net/lo/flags"),
        },
    }


def files() -> Report:
    """Return /dev whole, and the directories that every container has."""
    report: Report = {
        "files": {path: described(path) for path in ("/", "/proc", "/sys", "/dev", "/tmp")}
    }
    names = attempt(lambda: sorted(os.listdir("/dev")))
    if isinstance(names, list):
        report["devices"] = {name: described(f"/dev/{name}", follow=False) for name in names}
    return report


def hidden(path: str) -> Report:
    """Return what is at a path that may be masked or read-only."""
    names = attempt(lambda: len(os.listdir(path)))
    if isinstance(names, int):
        content = "filled" if names else "empty"
    else:
        content = attempt(lambda: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 64))
    return {"files": {path: described(path, follow=False)}, "content": {path: content}}


def xattrs(path: str) -> Report:
    """Return the extended attributes of a file."""

    def look() -> dict[str, bytes]:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}

    return {"xattrs": {path: attempt(look)}, "files": {path: described(path, follow=False)}}


def write(path: str) -> Report:
    """Try to make a file in a directory, or to open a file for writing."""

    def make() -> str:
        if os.path.isdir(path):
            os.close(os.open(f"{path}/written", os.O_CREAT | os.O_WRONLY, 0o666))
            made = described(f"{path}/written")
            os.unlink(f"{path}/written")
            return f"made {made}"
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return "opened"

    return {"write": {path: attempt(make)}}


def opened(path: str) -> Report:
    """Try to open a file to read and to write."""

    def attempted(flags: int) -> str:
        return str(attempt(lambda: os.close(os.open(path, flags | os.O_NONBLOCK))) or "opened")

    ways = {"read": os.O_RDONLY, "write": os.O_WRONLY}
    return {"open": {f"{path} to {name}": attempted(flags) for name, flags in ways.items()}}


def sysctl(name: str) -> Report:
    """Return the value of a sysctl."""
    return {"sysctl": {name: text("/proc/sys/" + name.replace(".", "/"))}}


def run(path: str) -> Report:
    """Run a program that prints its own ids and capabilities (busybox)."""
    reader, writer = os.pipe()
    words = ["busybox", "grep", "-E", "^(Uid|Gid|CapPrm|CapEff|NoNewPrivs)", "/proc/self/status"]
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writer, 1)
            os.execv(path, words)
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno or 0].encode())
        os._exit(1)
    os.close(writer)
    output = b""
    while part := os.read(reader, 4096):
        output += part
    os.waitpid(child, 0)
    return {"run": {path: output.decode()}}


def calls(_: str) -> Report:
    """Make some system calls that a profile may forbid."""
    found = {
        "mkdir": attempt(lambda: os.mkdir("/tmp/made")),
        "chmod": attempt(lambda: os.chmod("/tmp", 0o1777)),
        "getppid": attempt(os.getppid),
        "getpriority": attempt(lambda: os.getpriority(os.PRIO_PROCESS, 0)),
        "symlink": attempt(lambda: os.symlink("x", "/tmp/link")),
        "chroot": attempt(lambda: os.chroot("/")),
    }
    return {"calls": found}


def ioprio(_: str) -> Report:
    """Return the I/O priority as ioprio_get(2) gives it; `ctypes` is slow to load."""
    import ctypes

    get = 252  # the number on x86_64
    return {"scheduler": {"io": ctypes.CDLL(None).syscall(get, 1, 0)}}


_PARTS = (process, namespaces, environment, descriptors, mounts, cgroup, machine, files)
_MORE: dict[str, Callable[[str], Report]] = {
    "path": hidden,
    "xattrs": xattrs,
    "write": write,
    "open": opened,
    "sysctl": sysctl,
    "run": run,
    "calls": calls,
    "ioprio": ioprio,
}


def main() -> None:
    """Print the whole report at once."""
    reports = [part() for part in _PARTS]
    for word in sys.argv[1:]:
        name, _, argument = word.partition(":")
        if name in _MORE:
            reports.append(_MORE[name](argument))
    whole: Report = {}
    for report in reports:
        for subject, found in report.items():
            whole.setdefault(subject, {}).update(found)
    output = f"\n<<{whole!r}>>\n".encode()
    while output:
        output = output[os.write(1, output) :]


if __name__ == "__main__":
    main()
