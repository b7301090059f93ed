"""A helper process of ours, watched through a pidfd and dead when we are.

QEMU and virtiofsd are such children: the kernel kills them when the shim ends, however it ends.
"""

import asyncio
import errno
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from kata.host import libc

_BECOME = (6, 7)
"""CAP_SETGID and CAP_SETUID, which end with the change of user."""


class Child:
    """A running process; `wait` may be called by any number of tasks."""

    def __init__(self, popen: subprocess.Popen[bytes], command: Sequence[str]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.command = shlex.join(command)
        self.name = os.path.basename(command[0])
        self._pidfd = os.pidfd_open(popen.pid)
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def __repr__(self) -> str:
        code = self.exit_code
        state = "running" if code is None else describe_exit(code)
        return f"<{self.name} {self.pid} {state}>"

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""
        return self._exited.result() if self._exited.done() else None

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._exited.set_result(self._popen.wait())

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code or negative signal number."""
        return await asyncio.shield(self._exited)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; a process that has ended is left alone."""
        if not self._exited.done():
            signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, grace: float) -> int:
        """Wait `grace` seconds for the process to end by itself, then kill it; return its code."""
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.kill()
            return await self.wait()


def spawn(
    command: Sequence[str],
    *,
    program: str | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    output: int,
    directory: str | None = None,
    prepare: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    capabilities: Collection[int] | None = None,
    user: int | None = None,
) -> Child:
    """Start `command` with stdout and stderr on descriptor `output` and stdin empty, or `stdin`.

    `program` is its file where that is not the first word, and `directory` where it starts.
    `environment` is all the child gets, ours when it is None.  `prepare` runs in the child before
    exec, for namespaces.  With `capabilities` the child has at most these, and gains nothing by
    executing another program; with `user` it is that user, whose group has the same number, in
    the group of /dev/kvm besides.  Raises `OSError` when the program cannot be started; nothing runs
    then.
    """
    parent = os.getpid()

    def before_exec() -> None:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel knew our wish
            os._exit(1)
        if prepare:
            prepare()
        if capabilities is not None:
            libc.keep_capabilities({*capabilities, *(_BECOME if user is not None else ())})
        if user is not None:
            _become(user)
            libc.set_parent_death_signal(signal.SIGKILL)  # which a change of user clears
            if os.getppid() != parent:
                os._exit(1)
        if capabilities is not None:
            libc.set_no_new_privileges()

    try:
        popen = subprocess.Popen(
            command,
            executable=program,
            cwd=directory,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env=environment,
            preexec_fn=before_exec,  # noqa: PLW1509 - the shim has no threads
            start_new_session=True,
        )
    except subprocess.SubprocessError as error:  # raised by before_exec, its cause lost
        raise OSError(
            errno.EPERM,
            "the child could not enter its namespaces or give up its rights",
            command[0],
        ) from error
    return Child(popen, command)


def _become(user: int) -> None:
    """Be another user, without any capability."""
    groups = []
    with suppress(FileNotFoundError):
        groups.append(os.stat("/dev/kvm").st_gid)
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def describe_exit(code: int) -> str:
    """Say in words how a process ended, from an exit code or a negative signal number."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"
