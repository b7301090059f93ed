"""Proof that a private containerd left nothing behind.

Everything that belongs to one daemon carries its token: in the namespace, in each container id, in
the folders, and in the environment that shims inherit. A census looks for that token wherever a
runtime can leave something: processes, mounts, cgroups (each v1 hierarchy and the unified one),
sockets, FIFOs, network namespaces and bundles. What other users of the machine do is not counted.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from lab import pod_cgroup, standbys
from lab.command import LabError, run

TOKEN_VARIABLE: Final = "KATA_LAB_TOKEN"
# Fixed by containerd: it serves its shims' sockets there whatever its state folder is.
SHIM_SOCKETS: Final = Path("/run/containerd/s")
# Where `ctr` makes a numbered folder for the streams of each process that it starts.
FIFOS: Final = Path("/run/containerd/fifo")
# Where containerd, its clients, and Kata keep what belongs to one container.
_RUNTIME_FOLDERS: Final = (
    FIFOS,
    *map(Path, ("/run/containerd/runc", "/run/kata-containers")),
    *map(Path, ("/run/kata", "/run/vc", "/run/netns", "/dev/shm", "/var/lib/cni")),
)
_CGROUPS: Final = Path("/sys/fs/cgroup")
_LINKS: Final = Path("/sys/class/net")
_SEARCH_DEPTH: Final = 5
_REMOVAL_ROUNDS: Final = 5


class LeftoverError(LabError):
    """Something outlived its owner; the message lists it, and it has been removed."""

    def __init__(self, owner: str, found: list["Leftover"]) -> None:
        super().__init__("\n".join([f"{owner} left behind:", *(f"  {item}" for item in found)]))
        self.found = tuple(found)


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that should be gone, and how to make it so."""

    kind: str
    what: str
    remove: Callable[[], object] = field(compare=False, repr=False)
    started: str = ""  # of a process: its start in ticks since boot

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells that two counts found one thing; a process may become another program."""
        name = self.what.partition(" ")[0] if self.started else self.what
        return self.kind, name, self.started


def taps() -> frozenset[str]:
    """Return the names of the tun and tap devices of this network namespace."""
    return frozenset(path.parent.name for path in _LINKS.glob("*/tun_flags"))


@dataclass(frozen=True, slots=True)
class Trace:
    """By what the belongings of one daemon are known."""

    token: str
    state: Path
    temporary: Path
    address: Path
    taps_before: frozenset[str]

    namespace: str = ""  # of containerd, in which containers are; the token unless given

    def shim_socket(self, container_id: str) -> Path:
        """Return the socket at which a container's shim is expected (containerd's convention)."""
        name = f"{self.address}/{self.namespace or self.token}/{container_id}"
        return SHIM_SOCKETS / hashlib.sha256(name.encode()).hexdigest()


def census(trace: Trace, container_ids: frozenset[str], spared_pid: int = 0) -> list[Leftover]:
    """Return what of a daemon's is still there, the process `spared_pid` (the daemon) excepted."""
    return [
        *_processes(trace.token, spared_pid),
        *_mounts(trace.token),
        *_cgroups(trace.token),
        *_files(trace, container_ids),
        *(
            Leftover("tap device", name, partial(run, ["ip", "link", "delete", name]))
            for name in sorted(taps() - trace.taps_before)
        ),
    ]


def wait_until_clean(owner: str, count: Callable[[], list[Leftover]], timeout_s: float) -> None:
    """Return once a census finds nothing; shims and kernels take a moment to end.

    Raises `LeftoverError` after `timeout_s` seconds; what was found is removed then.
    """
    deadline = time.monotonic() + timeout_s
    while found := count():
        if time.monotonic() > deadline:
            _remove_all(count)
            raise LeftoverError(owner, found)
        time.sleep(0.05)


def _remove_all(count: Callable[[], list[Leftover]]) -> None:
    # A killed process holds its cgroup and its mounts for a moment more: look again.
    for _ in range(_REMOVAL_ROUNDS):
        for item in count():
            with contextlib.suppress(OSError, LabError):
                item.remove()
        time.sleep(0.05)


def _processes(token: str, spared_pid: int) -> Iterator[Leftover]:
    spared = {os.getpid(), spared_pid}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in spared:
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            traces = command + (entry / "environ").read_bytes() + (entry / "cgroup").read_bytes()
            name, _, rest = (entry / "stat").read_text().rpartition(") ")
        except OSError:
            continue  # it ended meanwhile, or is a zombie whose parent has yet to look
        pid = int(entry.name)
        state, *fields = rest.split()  # of stat, from the third on (proc(5))
        # One that is becoming another program has no command line for a moment, as a zombie has none.
        if state not in "ZX" and token.encode() in traces and not standbys.is_one(pid):
            words = command.replace(b"\0", b" ").decode(errors="replace").strip()
            words = words or name.partition("(")[2]
            kill = partial(os.kill, pid, signal.SIGKILL)
            yield Leftover("process", f"{pid} {words}", kill, started=fields[18])


def _mounts(token: str) -> Iterator[Leftover]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for line in reversed(lines):
        if token in line:
            target = line.split()[4].encode().decode("unicode_escape")
            yield Leftover("mount", line, partial(run, ["umount", "-l", target]))


def _cgroups(token: str) -> Iterator[Leftover]:
    for path in groups():
        # The namespace's own cgroup is nobody's to remove: containerd never does.
        if token in str(path) and path.name.removesuffix(".slice") != token:
            yield Leftover("cgroup", str(path), path.rmdir)


def remove_namespace_cgroups(token: str) -> None:
    """Remove the empty cgroups named after a namespace that runc made and nobody owns."""
    if pod_cgroup.has_slices():
        run(["systemctl", "stop", f"{token}.slice"], check=False)
    for path in groups():
        if path.name == token:
            with contextlib.suppress(OSError):
                path.rmdir()


def groups() -> list[Path]:
    """Return every cgroup, those below before those above; os.walk recurses, however deep it is."""
    found: list[str] = []
    left = [str(_CGROUPS)]
    while left:
        # One that is gone meanwhile, or deeper than a path may be long, has nothing to tell.
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            found += below
            left += below
    return [Path(path) for path in reversed(found)]


def _files(trace: Trace, container_ids: frozenset[str]) -> Iterator[Leftover]:
    # Pods' containers have ids of their own, without the token; only those that exist are known.
    foreign = [one for one in container_ids if trace.token not in one]
    marks = (trace.token, *foreign)
    found = [path for folder in _RUNTIME_FOLDERS for path in _named(folder, marks)]
    found += [path for one in container_ids if (path := trace.shim_socket(one)).exists()]
    found += trace.state.glob(f"*.task/{trace.namespace or trace.token}/*")
    found += trace.state.glob("io.containerd.grpc.v1.cri/*/*")  # of sandboxes, containers, netns
    found += trace.temporary.iterdir() if trace.temporary.is_dir() else ()
    for path in found:
        yield Leftover("file", str(path), partial(_remove, path))


def _named(folder: Path, marks: Sequence[str], depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """Yield the topmost paths with a mark in their name; a folder just for one may be empty."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        own_folder = entry.name in marks[:1] and entry.is_dir(follow_symlinks=False)
        if any(mark in entry.name for mark in marks) and not own_folder:
            yield path
        elif depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from _named(path, marks, depth - 1)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    if path.parent.parent == FIFOS:
        path.parent.rmdir()  # fails, as it should, while another FIFO is in it
