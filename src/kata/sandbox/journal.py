"""What a sandbox holds on the host, on disk, for whoever has to clean up after a dead shim.

One JSON file in the sandbox's run directory, replaced by a rename at every change.

Theory of operation.  A shim holds a lock on its run directory for as long as it lives, and the
kernel lets go of it however the shim ends: a directory that can be locked is a dead sandbox's, and
whoever holds the lock is the only one to clean it.

Everything is recorded before it is made and struck off after it is gone.  For a path that is plain.
A process records itself: between fork and exec the child, which is still our code and dies with the
shim, writes down its pid and start time, and only then becomes QEMU or virtiofsd.  So there is no
moment in which either runs and is not in the journal; a record of what was never made is harmless,
because a process counts only while both its numbers agree, and only in the boot that wrote them.

Mounts are not recorded: they live in the shim's mount namespace and end with its last process.  One
that is seen below the share all the same is unmounted.

A journal that cannot be read (half written when the power went) does not keep anything: what it
should say follows from the sandbox's name then, see `Journal.assumed`.

Imports nothing heavy, since `delete` runs it.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Any

from kata.host import mounts, netns, proc
from kata.host.unix_socket import is_served
from kata.sandbox import facts, history, identity
from kata.sandbox.identity import SOCKET_DIRECTORY

RUN_ROOT = identity.RUN_ROOT

FILE = "journal.json"

_SEIZE_WAIT = 0.1
"""Seconds for which a look at the lock (`Journal.is_alive`) may be taken for a living shim."""

_KILL_WAIT = 3.0
"""Seconds to see killed processes end; containerd gives `delete` 5 in all."""

_CGROUP_WAIT = 1.0
"""Seconds for all cgroups together to become empty after their last process has ended."""


class Kind(StrEnum):
    """What is at a recorded path, and so how it is removed."""

    SHARE = "share"
    """A tree of mount points; a file that holds data is never removed with it."""

    SOCKET = "socket"
    """A unix socket; it stays while somebody serves it."""

    NETWORK = "network namespace"
    """A pod's, whose links are connected with the guest; they are the host's again then."""

    CGROUP = "cgroup"
    """The sandbox's own; what still runs in it moves to the one above."""

    CGROUP_ABOVE = "cgroup above"
    """One that other sandboxes may use too; it goes if it is empty, and is nobody's otherwise."""


@dataclass(frozen=True, slots=True)
class OwnedProcess:
    """A process, identified by pid and start time together (pids are used again)."""

    name: str
    pid: int
    start_time: int

    def is_running(self) -> bool:
        """Tell whether this very process still runs."""
        return proc.is_running(self.pid, self.start_time)

    def kill(self) -> None:
        """Send SIGKILL to this very process, if it still runs."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                # Through a descriptor: the pid may become another's between look and signal.
                if self.is_running():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something at a path of the host."""

    kind: Kind
    path: str


@dataclass(frozen=True, slots=True)
class Holding:
    """One thing that is still there, in words, and how it goes."""

    words: str
    remove: Callable[[], None]

    def __str__(self) -> str:
        return self.words


@dataclass(slots=True)
class Journal:
    """The record of one sandbox; every change is on disk when the method returns.

    `name` is that of its directories (`kata.sandbox.identity.directory_name`) and `socket` the path
    at which its shim is reached.  `facts` tell people and tools what the sandbox is, and where its logs
    are kept (`kata.sandbox.facts`).  `damage` says why the file could not be read, if so.
    """

    name: str
    socket: str = ""
    boot: str = ""
    processes: list[OwnedProcess] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    damage: str = field(default="", compare=False)
    _lock: int = field(default=-1, compare=False, repr=False)

    @property
    def directory(self) -> str:
        """The sandbox's run directory."""
        return os.path.join(RUN_ROOT, self.name)

    @property
    def kept(self) -> str:
        """The directory that the sandbox's logs go to once it has ended; it may never be there."""
        place = facts.log_place(self.facts)
        return os.path.join(place.path if place else "", self.name)

    # The life of a record

    def create(self) -> None:
        """Make the run directory and the first record.

        What a dead shim has left under the same name is cleaned up first.  Raises
        `FileExistsError` when its shim is alive, and `OSError`; no directory of ours is left then.
        """
        self.seize()
        try:
            if os.listdir(self.directory) or os.path.exists(share_of(self.name)):
                (Journal.load(self.name) or Journal.assumed(self.name)).clean(keep_directory=True)
        except BaseException:
            self.release()  # the record of what resists stays
            raise
        try:
            self.boot = _boot_id()
            self.add_process("shim", os.getpid())
            if self.socket:
                self.record(Kind.SOCKET, self.socket)
        except BaseException:
            self.discard()
            raise

    def seize(self) -> None:
        """Lock the run directory, which is made if there is none, until `discard` or our end.

        Raises `FileExistsError` when a living shim has it.
        """
        until = time.monotonic() + _SEIZE_WAIT
        while self._lock < 0:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            try:
                self._lock = _locked(self.directory)
            except FileNotFoundError:
                pass  # whoever cleaned it has just removed it
            except FileExistsError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def rename(self, name: str, socket: str, facts: dict[str, Any]) -> None:
        """Have the run directory be that of another sandbox, with its socket and its facts.

        What a dead shim has left under that name is cleaned up first.  Raises as `create` does; the
        directory has its old name then.
        """
        place = Journal(name)
        place.seize()
        try:
            if os.listdir(place.directory) or os.path.exists(share_of(name)):
                (Journal.load(name) or Journal.assumed(name)).clean(keep_directory=True)
            os.rename(self.directory, place.directory)  # onto the empty one
        finally:
            place.release()
        self.resources.remove(Resource(Kind.SOCKET, self.socket))
        self.name, self.socket, self.facts = name, socket, facts
        self.record(Kind.SOCKET, socket)

    def record(self, kind: Kind, path: str) -> None:
        """Record what is about to be made at `path`."""
        self.resources.append(Resource(kind, path))
        self._write()

    def strike(self, kind: Kind, path: str) -> None:
        """Strike off what is gone; where the disk takes no write, a stale record does no harm."""
        self.resources.remove(Resource(kind, path))
        with suppress(OSError):
            self._write()

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Replace some of the facts; where the disk takes no write, the old ones are read still."""
        self.facts = {**self.facts, **facts}
        with suppress(OSError):
            self._write()

    def add_process(self, name: str, pid: int) -> None:
        """Record a process of ours; one that is gone by now leaves nothing to record.

        Called in the process itself, before it executes a program, and then here as well: memory
        is not shared, the file is.
        """
        with suppress(ProcessLookupError):
            self.processes.append(OwnedProcess(name, pid, proc.start_time(pid)))
            self._write()

    def strike_process(self, pid: int) -> None:
        """Strike off a process that has ended."""
        self.processes = [each for each in self.processes if each.pid != pid]
        with suppress(OSError):
            self._write()

    def discard(self) -> None:
        """Remove the run directory with its files and let go of it; a missing one is fine."""
        with suppress(FileNotFoundError):
            self._empty()
            os.rmdir(self.directory)
        self.release()

    def _empty(self) -> None:
        """Remove the files of the run directory; its logs are kept elsewhere, if they are to be."""
        entries = os.listdir(self.directory)
        if entries and (place := facts.log_place(self.facts)):
            history.keep(place, self.name, self.directory, self.facts)
        # The record goes last: until then, whoever comes next knows what there was.
        for entry in sorted(entries, key=lambda entry: entry == FILE):
            os.unlink(os.path.join(self.directory, entry))

    def release(self) -> None:
        """Let go of the run directory, whatever is in it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write(self) -> None:
        path = os.path.join(self.directory, FILE)
        record = {
            "name": self.name,
            "socket": self.socket,
            "boot": self.boot,
            "processes": [[each.name, each.pid, each.start_time] for each in self.processes],
            "resources": [[each.kind, each.path] for each in self.resources],
            "facts": self.facts,
        }
        with open(path + ".new", "w") as file:
            json.dump(record, file)
        os.rename(path + ".new", path)

    # After a dead shim

    @classmethod
    def load(cls, name: str) -> "Journal | None":
        """Return the record of a sandbox, or None when there is none.

        One that cannot be read is replaced by what the names say, its `damage` set.
        """
        try:
            with open(os.path.join(RUN_ROOT, name, FILE)) as file:
                data = json.load(file)
            return cls(
                name,
                data["socket"],
                data["boot"],
                [OwnedProcess(str(n), int(pid), int(at)) for n, pid, at in data["processes"]],
                [Resource(Kind(kind), str(path)) for kind, path in data["resources"]],
                dict(data.get("facts", {})),
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return cls.assumed(name, f"{type(error).__name__}: {error}")

    @classmethod
    def abandoned(cls, name: str) -> "Journal | None":
        """Return the record of a dead shim's run directory, locked until `release` or `discard`.

        None when there is no such directory, or its shim is alive.
        """
        try:
            lock = _locked(cls(name).directory)
        except (FileExistsError, FileNotFoundError):
            return None
        record = cls.load(name) or cls.assumed(name)
        record.hold(lock)
        return record

    def hold(self, lock: int) -> None:
        """Have the run directory's lock, which is the descriptor `lock`, until `release` or `discard`."""
        self._lock = lock

    @classmethod
    def assumed(cls, name: str, damage: str = "") -> "Journal":
        """Return what a sandbox of this name would have recorded.

        Its processes are those whose command line has an argument that only we make, with the whole
        name in it.
        """
        share = share_of(name)
        marks = {f"sandbox-{name},debug-threads=on".encode(), f"source={share}/ro".encode()}
        processes = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if marks.intersection(words):
                    program = os.path.basename(words[0]).decode(errors="replace")
                    processes.append(OwnedProcess(program, pid, proc.start_time(pid)))
        resources = [Resource(Kind.SHARE, share)]
        begin = name.rpartition("-")[2]
        with suppress(FileNotFoundError):
            for entry in os.listdir(SOCKET_DIRECTORY):
                if entry.startswith(begin):
                    path = os.path.join(SOCKET_DIRECTORY, entry)
                    resources.append(Resource(Kind.SOCKET, path))
        return cls(name, "", _boot_id(), processes, resources, damage=damage)

    def is_alive(self) -> bool:
        """Tell whether a shim holds the run directory."""
        try:
            os.close(_locked(self.directory))
        except FileExistsError:
            return True
        except FileNotFoundError:
            return False
        return False

    def holdings(self) -> Iterator[Holding]:
        """Yield what of the sandbox is still there, in the order in which it can be removed."""
        yield from map(_holding, self._running())
        yield from self._paths()
        if os.path.exists(self.directory):
            yield Holding(f"directory {self.directory}", self.discard)

    def _paths(self) -> Iterator[Holding]:
        until = 0.0
        for resource in reversed(self.resources):
            if resource.kind == Kind.SHARE:
                for point in mounts.below(resource.path):
                    yield Holding(f"mount {point}", partial(mounts.unmount, point))
            if not _is_there(resource):
                continue
            if resource.kind == Kind.NETWORK and self._others_live_in(resource.path):
                continue  # what is on its links is theirs by now
            remove = partial(_unlink, resource.path)
            if resource.kind == Kind.SHARE:
                remove = partial(mounts.prune, resource.path)
            elif resource.kind == Kind.NETWORK:
                remove = partial(_disconnect, resource.path)
            elif resource.kind == Kind.CGROUP:
                until = until or time.monotonic() + _CGROUP_WAIT
                remove = partial(_remove_cgroup, resource.path, until)
            yield Holding(f"{resource.kind} {resource.path}", remove)

    def _others_live_in(self, path: str) -> bool:
        """Tell whether the shim of another sandbox lives that has the network namespace, too.

        It wrote that down before it connected a link, and took over what was on that link.
        """
        for name in os.listdir(RUN_ROOT):
            other = Journal.load(name) if name != self.name else None
            if other is None or not other.is_alive():
                continue
            for each in other.resources:
                with suppress(OSError):
                    if each.kind == Kind.NETWORK and netns.are_same(each.path, path):
                        return True
        return False

    def clean(
        self, report: Callable[[str], None] = lambda _: None, *, keep_directory: bool = False
    ) -> None:
        """Kill what still runs and remove what is left on disk; may be called again.

        `report` is told of each thing that is gone.  Raises `OSError` when something resists; all
        else is gone then, but for the record.
        """
        resisting: list[OSError] = []
        doomed = self._running()
        for process in doomed:
            process.kill()  # all at once; then each is waited for
        for holding in chain(map(_holding, doomed), self._paths()):
            try:
                holding.remove()
            except OSError as error:
                resisting.append(error)
            else:
                report(str(holding))
        self._leave_cgroups()
        if resisting:
            raise OSError("; ".join(str(error) for error in resisting))
        if not os.path.exists(self.directory):
            return
        if keep_directory:
            self._empty()
        else:
            self.discard()
            report(f"directory {self.directory}")

    def _leave_cgroups(self) -> None:
        """Remove the groups above ours that nobody uses any more."""
        above = [each.path for each in self.resources if each.kind == Kind.CGROUP_ABOVE]
        if above:
            from kata.resources.cgroup import remove_empty

            for path in sorted(above, key=len, reverse=True):
                with suppress(OSError):  # it is nothing of this sandbox's
                    remove_empty(path)

    def _running(self) -> list[OwnedProcess]:
        """Return what runs of the recorded processes: none of another boot's."""
        if self.boot != _boot_id():
            return []
        return [process for process in self.processes if process.is_running()]


def share_of(name: str) -> str:
    """Return the directory that a sandbox of this name shares with its guest."""
    from kata.storage.share import HOST_ROOT

    return os.path.join(HOST_ROOT, name)


def _locked(directory: str) -> int:
    """Return the descriptor of a directory with our lock on it.

    Raises `FileExistsError` when somebody else has it, and `FileNotFoundError` when the directory
    is not, or no more, at this path.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(directory).st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError(directory)
    except BlockingIOError:
        os.close(descriptor)
        raise FileExistsError(f"{directory} belongs to a sandbox whose shim runs") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _holding(process: OwnedProcess) -> Holding:
    return Holding(f"process {process.pid} ({process.name})", partial(_end, process))


def _end(process: OwnedProcess) -> None:
    process.kill()
    until = time.monotonic() + _KILL_WAIT
    _wait(lambda: not process.is_running(), until, f"{process.name} does not end")


def _wait(condition: Callable[[], bool], until: float, complaint: str) -> None:
    """Wait for a condition, `until` a moment of the monotonic clock."""
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(complaint)
        time.sleep(0.01)


def _remove_cgroup(path: str, until: float) -> None:
    from kata.resources.cgroup import remove_group

    def gone() -> bool:
        with suppress(OSError):
            remove_group(path)
        return not os.path.lexists(path)

    _wait(gone, until, f"the cgroup {path} still has processes")


def _disconnect(path: str) -> None:
    from kata.network import remains

    remains.remove(path)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _is_there(resource: Resource) -> bool:
    if resource.kind == Kind.CGROUP_ABOVE:
        return False  # not as a thing of the sandbox
    if resource.kind == Kind.NETWORK:
        from kata.network import remains

        return remains.exist(resource.path)
    if resource.kind == Kind.SOCKET and is_served(resource.path):
        return False  # by a successor
    return os.path.lexists(resource.path)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
