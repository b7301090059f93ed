"""The program a prepared process becomes: environment, search path, descriptors, execve."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import NoReturn

from kata_agent import identity, terminal
from kata_agent import syscalls as sc
from kata_agent.progress import Progress, StepError
from kata_agent.seccomp import Filter
from kata_api.agent.oci_pb2 import Linux, Process

_LARGEST_PASSWD = 1 << 20  # bytes that are read of an image's users

_UMASK = 0o022  # what runc gives when the specification is silent


def environment(process: Process) -> dict[str, str]:
    """Return the variables of ``process``; call it inside the container: HOME is from its passwd.

    Raises `StepError` for an entry without ``=``.
    """
    variables: dict[str, str] = {}
    for entry in process.Env:
        name, found, value = entry.partition("=")
        if not found or not name:
            raise StepError(
                f"invalid environment variable: {json.dumps(entry)}; write it as NAME=value"
            )
        variables[name] = value
    if not variables.get("HOME"):
        variables["HOME"] = _home(process.User.UID)
    return variables


def _home(uid: int) -> str:
    for line in _passwd().splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"


def _passwd() -> str:
    """Return the users of the image; a pipe or a device in the file's place is not waited for."""
    try:
        descriptor = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # an image without users is common and no fault
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.read(descriptor, _LARGEST_PASSWD).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def find(name: str, path: str | None) -> str:
    """Find the file to execute for ``name`` along ``path``, the value of PATH.

    Raises `StepError` in the words that Go's os/exec uses and that users know from runc.
    """
    if "/" in name:
        _refuse_unexecutable(name)
        return name
    for directory in (path or "").split(":") if path else ():
        candidate = os.path.join(directory or ".", name)
        try:
            _refuse_unexecutable(candidate)
        except StepError:
            continue
        return candidate
    raise StepError(f"exec: {json.dumps(name)}: executable file not found in $PATH")


def _refuse_unexecutable(path: str) -> None:
    quoted = json.dumps(path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise StepError(f"exec: {quoted}: stat {path}: {reason}") from error
    if stat.S_ISDIR(mode):
        raise StepError(f"exec: {quoted}: is a directory")
    if not os.access(path, os.X_OK, effective_ids=True):
        raise StepError(f"exec: {quoted}: permission denied")


def is_scheduled(process: Process, linux: Linux) -> bool:
    """Tell whether there is work for the module ``scheduling``, which few containers need."""
    return (
        process.HasField("Scheduler")
        or process.HasField("IOPriority")
        or linux.HasField("Personality")
        or linux.HasField("MemoryPolicy")
        or bool(process.ExecCPUAffinity.Initial or process.ExecCPUAffinity.Final)
    )


class Program:
    """A process on its last steps: call `prepare`, then `run`, with `confine` in between or in it.

    ``linux`` has what holds for every process of its container.
    """

    def __init__(
        self, process: Process, linux: Linux, progress: Progress, confinement: Filter | None
    ) -> None:
        self._process = process
        self._linux = linux
        self._progress = progress
        self._confinement = confinement
        self._environment: dict[str, str] = {}
        self._file = ""
        self._confined = False

    def prepare(self, streams: tuple[int, int, int], *, controlling: bool) -> None:
        """Take descriptors, limits, user, and working directory, and find the file to execute.

        ``streams`` become descriptors 0 to 2; ``controlling`` makes the first the session's
        terminal. Call it inside the container. Raises ``OSError`` or `StepError`.
        """
        process, progress = self._process, self._progress
        progress.at("start session")
        os.setsid()
        if controlling:
            progress.at("take terminal")
            terminal.control(streams[0])
        progress.at("set standard streams")
        for fd in set(streams):
            os.fchown(fd, process.User.UID, -1)  # or /dev/stdout is closed to a plain user
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.umask(process.User.Umask if process.User.HasField("Umask") else _UMASK)
        self._environment = environment(process)
        identity.limit(list(process.Rlimits), progress)
        if is_scheduled(process, self._linux):
            from kata_agent import scheduling

            scheduling.apply(process, self._linux, progress)
        cwd = process.Cwd or "/"
        entered = self._enter(cwd)
        identity.assume(process, progress, spare=self._spare)
        if not entered:  # a directory that only the user may enter, such as on a squashed share
            self._at_cwd(cwd)
            os.chdir(cwd)
        progress.at("find program", process.Args[0])
        self._file = find(process.Args[0], self._environment.get("PATH"))

    def confine(self) -> None:
        """Filter system calls from here on: what comes after must be in the profile.

        For `run` that is execve, and capset before it unless the process has no_new_privs. Only the
        first call does something. Raises ``OSError``.
        """
        if self._confined:
            return
        self._confined = True
        sc.close_range(3, 2**32 - 1, sc.CLOSE_RANGE_CLOEXEC)
        if self._confinement is not None:
            self._load(self._confinement)

    def run(self) -> NoReturn:
        """Execute the program; every descriptor past 2 is closed by it. Raises ``OSError``."""
        self._progress.at("exec", self._file)
        self.confine()
        self._progress.at("exec", self._file)
        os.execve(self._file, list(self._process.Args), self._environment)

    @property
    def _spare(self) -> int:
        """What a filter needs that may not bind a program with more privileges than this one."""
        filtered = self._confinement is not None and not self._process.NoNewPrivileges
        return identity.mask(["CAP_SYS_ADMIN"]) if filtered else 0

    def _load(self, confinement: Filter) -> None:
        self._progress.at("load seccomp filter")
        if self._spare:
            identity.set_capabilities(self._process, spare=self._spare, effective=True)
        confinement.load()
        if self._spare:
            self._progress.at("drop CAP_SYS_ADMIN under the seccomp filter")
            identity.set_capabilities(self._process)

    def _enter(self, cwd: str) -> bool:
        self._at_cwd(cwd)
        try:
            os.chdir(cwd)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            return False
        return True

    def _at_cwd(self, cwd: str) -> None:
        self._progress.at(f"chdir to cwd ({json.dumps(cwd)}) set in config.json failed")
