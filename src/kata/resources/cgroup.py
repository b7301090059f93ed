"""Control groups of the host, in which a sandbox's processes are accounted.

On a host with cgroup v1 a group is one directory in each controller's hierarchy, with v2 it is one
directory.  Nothing is limited here: the limits are those of the pod's group above.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
"""Empty in a new group of cgroup v1, which takes no process until they are set."""

OVERHEAD = "kata_overhead"
"""The group above those of the shims' own processes, which the last of them takes along."""

_ATTEMPTS = 10
"""How often another sandbox may remove a group above in the moment in which we go below it."""

_ROUNDS = 10
"""How often a group is emptied whose processes fork while they are moved, 1 ms apart."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where a tree of groups is mounted, and the directory of our own group in it."""

    mount_point: str
    own: str
    controllers: frozenset[str]
    unified: bool


def hierarchies(
    mountinfo: str = "/proc/self/mountinfo", membership: str = "/proc/self/cgroup"
) -> list[Hierarchy]:
    """Return the hierarchies that account for something: v1's with a controller, else v2's."""
    own_paths: dict[frozenset[str], str] = {}
    with open(membership) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            own_paths[frozenset(filter(None, controllers.split(",")))] = path
    first: list[Hierarchy] = []
    second: list[Hierarchy] = []
    with open(mountinfo) as file:
        for line in file:
            before, _, after = line.partition(" - ")
            root, mount_point = before.split()[3:5]
            fstype, _, options = after.split()[:3]
            if fstype not in ("cgroup", "cgroup2"):
                continue
            mounted = set(options.split(","))
            for names, path in own_paths.items():
                if bool(names) != (fstype == "cgroup") or not names <= mounted:
                    continue
                if any(name.startswith("name=") for name in names):
                    continue  # it knows processes and accounts for nothing
                own = os.path.normpath(os.path.join(mount_point, os.path.relpath(path, root)))
                found = Hierarchy(mount_point, own, names, unified=not names)
                (first if names else second).append(found)
    return first or second


@dataclass(slots=True)
class HostCgroup:
    """A group of our own, the same in every hierarchy; `parent` is a path of the specification.

    An absolute parent counts from the root of each hierarchy, a relative one from our own group, as
    in runc.
    """

    parent: str
    name: str
    trees: Sequence[Hierarchy]
    _made: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The directories of the group."""
        return [os.path.join(self._above(tree), self.name) for tree in self.trees]

    def _above(self, tree: Hierarchy) -> str:
        base = tree.mount_point if self.parent.startswith("/") else tree.own
        return os.path.normpath(os.path.join(base, self.parent.strip("/")))

    def create(self, record: Callable[[str], None]) -> None:
        """Make the group, and those above it that are missing; `record` is told of each before.

        Raises `OSError`; `remove` takes away what was made until then.
        """
        for tree, path in zip(self.trees, self.paths, strict=True):
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self._make(tree, path, record)
                    break
                except FileNotFoundError:  # another sandbox has just removed a group above
                    if not left:
                        raise

    def _make(self, tree: Hierarchy, path: str, record: Callable[[str], None]) -> None:
        missing = [path]
        while _is_shared(above := os.path.dirname(missing[-1])) or not os.path.exists(above):
            missing.append(above)
        for each in reversed(missing):
            if each not in self._made:
                record(each)
                self._made.append(each)
            with suppress(FileExistsError):  # another sandbox was faster
                os.mkdir(each, mode=0o755)
            if "cpuset" in tree.controllers:
                _inherit_cpuset(each)
            if tree.unified:
                _pass_controllers_on(os.path.dirname(each))

    def enter(self) -> None:
        """Move the calling process into the group, and with it what it starts from now on."""
        _move_into(self.paths)

    def take(self, pid: int) -> None:
        """Move another process into the group; one that has ended is no error."""
        with suppress(ProcessLookupError):
            _move_into(self.paths, str(pid))

    def leave(self) -> None:
        """Move the calling process back to where it was, or to the root of what has gone since."""
        for tree in self.trees:
            try:
                _move_into([tree.own])
            except OSError:
                with suppress(OSError):
                    _move_into([tree.mount_point])

    def remove(self, strike: Callable[[str], None]) -> None:
        """Remove the group, and those above it that are empty; `strike` is told of each.

        What still runs in the group moves to the one above.  Raises `OSError` when the group itself
        cannot be removed.
        """
        own = set(self.paths)
        self._made.sort(key=len)  # a group above may have been made anew after one below it
        while self._made:
            path = self._made[-1]
            if path in own:
                remove_group(path)
            else:
                remove_empty(path)
            self._made.pop()
            strike(path)

    async def remove_in_time(self, strike: Callable[[str], None], patience: float) -> None:
        """Remove the group as `remove` does, waiting `patience` seconds at most until it is empty.

        A process that was killed is in it, and cannot be moved, until its memory is given back: that
        of virtiofsd's inner process is the guest's.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self.remove(strike)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.01)


def remove_group(path: str) -> None:
    """Remove a group; what still runs in it, such as a hook's daemon, moves to the one above.

    A missing one is fine.  Raises `OSError` (EBUSY) when it does not become empty.
    """
    for left in reversed(range(_ROUNDS)):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise
            _empty(path)
            time.sleep(0.001)
        else:
            return


def remove_empty(path: str) -> None:
    """Remove a group that others may use too, unless they do; raises `OSError`."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise


def _empty(path: str) -> None:
    """Move what runs in a group to the nearest one above that takes it.

    With cgroup v2 that is none whose controllers are passed on, but for the root.
    """
    with suppress(FileNotFoundError), open(os.path.join(path, "cgroup.procs")) as file:
        for pid in file.read().split():
            above = os.path.dirname(path)
            # 0 is a process of another pid namespace here, and would be ourselves when written.
            while pid != "0" and os.path.exists(os.path.join(above, "cgroup.procs")):
                try:
                    _move_into([above], pid)
                    break
                except ProcessLookupError:
                    break
                except OSError:
                    above = os.path.dirname(above)


def _is_shared(path: str) -> bool:
    return os.path.basename(path) == OVERHEAD


def _move_into(paths: Sequence[str], pid: str = "0") -> None:
    for path in paths:
        with open(os.path.join(path, "cgroup.procs"), "w") as file:
            file.write(pid)


def _inherit_cpuset(path: str) -> None:
    for name in _CPUSET_FILES:
        with open(os.path.join(path, name), "r+") as file:
            if file.read().strip():
                continue
            with open(os.path.join(os.path.dirname(path), name)) as above:
                file.write(above.read())


def _pass_controllers_on(path: str) -> None:
    """Let the groups below `path` use its controllers; the kernel refuses where processes are."""
    with suppress(OSError), open(os.path.join(path, "cgroup.controllers")) as file:
        wanted = " ".join(f"+{name}" for name in file.read().split())
        if wanted:
            with open(os.path.join(path, "cgroup.subtree_control"), "w") as control:
                control.write(wanted)


def parent_of(cgroups_path: str) -> str:
    """Return the parent of the group that a specification names: that of the pod.

    systemd's `slice:prefix:name` is the path of its slice, whose name holds those above it.  Raises
    `ValueError` for a path that leads elsewhere.
    """
    if cgroups_path.count(":") == 2:
        stem = cgroups_path.partition(":")[0].removesuffix(".slice").strip("-")
        words = stem.split("-") if stem else []
        parts = ["-".join(words[: n + 1]) + ".slice" for n in range(len(words))]
        parent = "/" + "/".join(parts)
    else:
        parent = os.path.dirname(cgroups_path)
    if ".." in parent.split("/"):
        raise ValueError(f"cgroupsPath {cgroups_path!r} leads out of the hierarchy")
    return parent
