"""A container's control group in the unified hierarchy: limits, freezing, killing, removal.

Interface files are those of the kernel's admin-guide/cgroup-v2.rst; device rules are a BPF program.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Iterator

from kata_agent.device_programs import DevicePrograms
from kata_agent.device_rules import compile_rules
from kata_agent.limits import io_weight, settings
from kata_api.agent.oci_pb2 import LinuxResources
from ttrpc import RpcError, StatusCode

_LOG = logging.getLogger(__name__)

_REMOVE_TRIES = 100  # at 10 ms each: the kernel empties a killed group within a few
_FREEZE_TRIES = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What the list of a group's processes fails with when the group was removed meanwhile, or is
# threaded: its processes are then in the list of a group above.
_UNLISTED = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
# Why the kernel does not take a line that is right in itself.
_ABSENT = {
    "io.max": "the guest has no such block device",
    "io.bfq.weight": "the guest has no such block device",
    "rdma.max": "the guest has no such RDMA device",
}


def relative_path(cgroups_path: str, container_id: str) -> str:
    """Return a specification's cgroupsPath as a path below the root of the hierarchy.

    A systemd triple ``slice:prefix:name`` becomes ``slice/prefix-name``; nothing becomes
    ``kata/<id>``. Raises ``RpcError`` INVALID_ARGUMENT for a path that leaves the hierarchy.
    """
    parts = cgroups_path.split(":")
    if len(parts) == 3:
        cgroups_path = f"{parts[0]}/{parts[1]}-{parts[2]}"
    path = (cgroups_path or f"kata/{container_id}").strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise RpcError(
            StatusCode.INVALID_ARGUMENT, f"cgroupsPath {cgroups_path!r} does not name a group"
        )
    return path


class Cgroup:
    """One group; `create` makes it, `remove` unmakes it with all below.

    What this object has not made it neither kills nor removes. Its devices are restricted by one of
    ``programs``.
    """

    def __init__(self, root: str, path: str, programs: DevicePrograms) -> None:
        self._root = root
        self._path = path
        self._programs = programs
        self._made = False
        self.directory = os.path.join(root, path)

    def __repr__(self) -> str:
        return f"<cgroup {self._path}>"

    def create(self, resources: LinuxResources) -> None:
        """Make the group with its parents and limits.

        Raises ``RpcError``, ALREADY_EXISTS for a group that is there; none of ours is left then.
        """
        needed = {name.partition(".")[0] for name, _ in settings(resources)}
        try:
            os.makedirs(os.path.dirname(self.directory), exist_ok=True)
            self._make()
            parent = self._root
            for part in self._path.split("/"):
                self._enable_controllers(parent, needed)
                parent = os.path.join(parent, part)
            self._restrict_devices(resources)
            self.apply(resources)
        except BaseException:
            if self._made:
                os.rmdir(self.directory)
                self._made = False
            self._remove_parents()
            raise

    def overlaps(self, other: Cgroup) -> bool:
        """Tell whether one of two groups is the other or lies below it."""
        ours, theirs = f"{self._path}/", f"{other._path}/"
        return ours.startswith(theirs) or theirs.startswith(ours)

    def apply(self, resources: LinuxResources) -> None:
        """Write limits. Raises ``RpcError`` INTERNAL naming the file; earlier ones stay written."""
        for name, value in settings(resources):
            self.limit(name, value)

    def limit(self, name: str, value: str) -> None:
        """Write one interface file. Raises ``RpcError`` INTERNAL that names it."""
        if name in ("cpuset.cpus", "cpuset.mems") and not self._has(name, value):
            _LOG.warning("%s is not bound: the guest lacks some of %s %s", self, name, value)
            return  # they are the host's, where a list of its processors was made
        try:
            self._set(name, value)
        except OSError as error:
            path, reason = os.path.join(self.directory, name), os.strerror(error.errno or 0)
            if error.errno in (errno.EINVAL, errno.ENODEV) and name in _ABSENT:
                reason += f"; {_ABSENT[name]}"
            raise RpcError(
                StatusCode.INTERNAL, f"cannot write {value!r} to {path}: {reason}"
            ) from error

    def _set(self, name: str, value: str) -> None:
        try:
            _write(os.path.join(self.directory, name), value)
        except FileNotFoundError as error:
            # Without swap accounting nothing is swapped; pages of a size that is not there, nobody uses.
            if name == "memory.swap.max" or (name.startswith("hugetlb.") and value == "0"):
                return
            if name == "io.bfq.weight" and " " not in value and self._offers("io.weight"):
                _write(os.path.join(self.directory, "io.weight"), str(io_weight(int(value))))
                return
            raise RpcError(
                StatusCode.INTERNAL,
                f"cannot limit {name} to {value}: this kernel's unified cgroup hierarchy does "
                f"not offer it; boot the guest with cgroup_no_v1=all or drop the limit",
            ) from error

    def _offers(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.directory, name))

    def _has(self, name: str, wanted: str) -> bool:
        """Tell whether the guest has every processor or memory node of a list."""
        from kata_agent.scheduling import members

        try:
            with open(os.path.join(self._root, f"{name}.effective"), encoding="ascii") as file:
                return members(name, wanted) <= members(name, file.read().strip())
        except FileNotFoundError:
            return True  # the write will say what is missing
        except ValueError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error

    def _restrict_devices(self, resources: LinuxResources) -> None:
        program = compile_rules(resources.Devices)
        if program is None:
            return
        directory = self.open()
        try:
            self._programs.attach(directory, program)
        except OSError as error:
            raise RpcError(
                StatusCode.INTERNAL,
                f"cannot enforce device rules: {error.strerror}; the guest's kernel needs "
                "CONFIG_CGROUP_BPF, or run the container privileged",
            ) from error
        finally:
            os.close(directory)

    def open(self) -> int:
        """Open the group's directory, to fork into it."""
        return os.open(self.directory, _DIRECTORY)

    def open_of(self, pid: int) -> int:
        """Open the directory of the group below this one that process ``pid`` is in.

        Raises ``OSError``, ESRCH when it is in none.
        """
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
        # Below the agent's own root, of which the hierarchy that it was given may be a part.
        _, found, below = path.partition(f"/{self._path}/")
        if not found:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), path)
        return os.open(os.path.join(self.directory, below), _DIRECTORY)

    def read(self, name: str) -> str:
        """Return the content of an interface file, or nothing where the kernel does not have it."""
        try:
            with open(os.path.join(self.directory, name), encoding="ascii") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def pids(self) -> list[int]:
        """Return every process in the group and below it."""
        found: list[int] = []
        for directory, name in _walk(self.directory):
            if name:
                continue
            try:
                fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
                with open(fd, encoding="ascii") as file:
                    found.extend(map(int, file))
            except OSError as error:
                if error.errno not in _UNLISTED:
                    raise
        return found

    def kill(self) -> None:
        """Send SIGKILL to every process in the group, atomically where the kernel can (5.14)."""
        if not self._made:
            return
        try:
            _write(os.path.join(self.directory, "cgroup.kill"), "1")
        except FileNotFoundError:
            if os.path.isdir(self.directory):
                self._kill_each()

    async def freeze(self, *, frozen: bool) -> None:
        """Freeze or thaw the group and wait until it is. Raises ``RpcError`` INTERNAL after 2 s."""
        _write(os.path.join(self.directory, "cgroup.freeze"), "1" if frozen else "0")
        wanted = f"frozen {int(frozen)}"
        for _ in range(_FREEZE_TRIES):
            if wanted in self.read("cgroup.events").splitlines():
                return
            await asyncio.sleep(0.01)
        raise RpcError(
            StatusCode.INTERNAL,
            f"{self._path} did not become {'frozen' if frozen else 'thawed'} within 2 s; a process "
            "of it hangs in the kernel",
        )

    async def remove(self) -> None:
        """Kill what is left in the group, and remove it with those below and empty ones above.

        Raises ``RpcError`` INTERNAL when processes stay for 1 s; the group then stays too.
        """
        if not self._made:
            return
        for _ in range(_REMOVE_TRIES):
            try:
                self._unmake()
                return
            except FileNotFoundError:
                continue
            except OSError:
                self.kill()
                await asyncio.sleep(0.01)
        raise RpcError(
            StatusCode.INTERNAL,
            f"cannot remove cgroup {self._path}: processes {self.pids()} do not end",
        )

    def _make(self) -> None:
        try:
            os.mkdir(self.directory)
        except FileExistsError as error:
            raise RpcError(
                StatusCode.ALREADY_EXISTS,
                f"cgroup {self._path} exists in the guest and may be another container's; "
                "choose another cgroupsPath",
            ) from error
        self._made = True

    def _unmake(self) -> None:
        for directory, name in _walk(self.directory):
            if name:
                os.rmdir(name, dir_fd=directory)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.directory)
        self._made = False
        self._remove_parents()

    def _remove_parents(self) -> None:
        parent = os.path.dirname(self.directory)
        while parent != self._root:
            try:
                os.rmdir(parent)
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.ENOTEMPTY):  # in use by another container
                    return  # else it is gone with one, or could not be made
            parent = os.path.dirname(parent)

    def _enable_controllers(self, directory: str, needed: set[str]) -> None:
        with open(os.path.join(directory, "cgroup.controllers"), encoding="ascii") as file:
            available = sorted(file.read().split())
        control = os.path.join(directory, "cgroup.subtree_control")
        try:
            _write(control, " ".join(f"+{name}" for name in available))
            return
        except OSError:
            pass  # one of them may be the reason, and not needed
        for name in available:
            try:
                _write(control, f"+{name}")
            except OSError as error:
                if name in needed:
                    raise RpcError(
                        StatusCode.INTERNAL,
                        f"cannot enable controller {name} in {directory}: {error.strerror}",
                    ) from error

    def _kill_each(self) -> None:
        _write(os.path.join(self.directory, "cgroup.freeze"), "1")
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _write(os.path.join(self.directory, "cgroup.freeze"), "0")


def _walk(directory: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of each group from ``directory`` down, with "", before those below it.

    After those below it, yield the descriptor of its parent with its name; not for ``directory``.
    A container may nest groups deeper than a path, a stack or a table of descriptors can be, so
    one descriptor moves down by name and up by "..". It is for one step: do not keep it.
    """
    try:
        fd = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        yield fd, ""
        names: list[str] = []
        left = [_children(fd)]
        while True:
            if left[-1]:
                name = left[-1].pop()
                try:
                    entered = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:  # removed while we walked
                    continue
                os.close(fd)
                fd = entered
                yield fd, ""
                names.append(name)
                left.append(_children(fd))
            elif names:
                above = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                left.pop()
                yield fd, names.pop()
            else:
                return
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(fd) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _write(path: str, value: str) -> None:
    # Without O_CREAT: it turns the error for a file that the kernel does not offer into EACCES.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
