"""What a container may do, tried from inside: runs with the host's Python, in the container.

Reads from argv[1] JSON: ``calls``, system calls as lists of a number and arguments, and ``devices``,
lists of type, major and minor, and ``nodes``, paths. Each call is tried in a child of its own; the
outcomes, errno's names or what ended the child, are printed as JSON.
"""

import ctypes
import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_MODES = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}


def outcome(attempt: Callable[[], str]) -> str:
    """Run an attempt in a child and return its word, or how the child ended without one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, attempt().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        word = pipe.read()
    _, status = os.waitpid(child, 0)
    return f"SIG{os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else word


def call(number: int, *arguments: int) -> str:
    """Make a system call and say how it failed."""
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    words = [ctypes.c_ulong(argument) for argument in arguments]
    if _libc.syscall(ctypes.c_long(number), *words) == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def device(kind: str, major: int, minor: int) -> dict[str, str]:
    """Make a node and open it in each mode."""
    path = f"/dev/probe-{kind}-{major}-{minor}"
    mode = (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o666

    def opened(flags: int) -> str:
        try:
            os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "done"

    try:
        os.mknod(path, mode, os.makedev(major, minor))
    except OSError as error:
        return {"m": errno.errorcode[error.errno or 0]}
    return {"m": "done"} | {word: opened(flags) for word, flags in _MODES.items()}


def node(path: str) -> list[int]:
    """Return mode, owner, group and device number of a file."""
    found = os.lstat(path)
    return [found.st_mode, found.st_uid, found.st_gid, found.st_rdev]


def status() -> dict[str, str]:
    """Return the lines of /proc/self/status that tell of confinement."""
    with open("/proc/self/status", encoding="ascii") as lines:
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kept = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: fields[name] for name in (*kept, "Seccomp_filters", "Uid")}


def main() -> None:
    """Try all that is asked for and print the outcomes."""
    wanted = json.loads(sys.argv[1])
    report = {
        "status": status(),
        "calls": [outcome(lambda words=words: call(*words)) for words in wanted.get("calls", [])],
        "nodes": [node(path) for path in wanted.get("nodes", [])],
        "devices": [device(*words) for words in wanted.get("devices", [])],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
