"""Hooks of the OCI runtime specification that run in the guest: createContainer and startContainer.

They run in the process that is becoming the container's first one: the former in its new
namespaces, with the guest's files still at hand; the latter as the program's user, in its root and
under its seccomp filter, as with runc: the profile must allow what such a hook does, and what it
takes to run it (memfd_create, pwrite64, clone or vfork, execve, pidfd_open, poll, wait4, kill).
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence

from kata_agent.progress import Progress, StepError
from kata_api.agent.oci_pb2 import Hook, Spec

_MOST_OUTPUT = 4096  # bytes of the end of each stream that an error carries


def check(hooks: Sequence[Hook]) -> None:
    """Raise ``ValueError`` for a hook that cannot be run wherever it is."""
    for hook in hooks:
        if not os.path.isabs(hook.Path):
            raise ValueError(f"hook path {hook.Path!r} is not absolute")
        if hook.Timeout < 0:
            raise ValueError(f"hook {hook.Path}: timeout {hook.Timeout} is negative")
        if any("=" not in entry for entry in hook.Env):
            raise ValueError(f"hook {hook.Path}: an environment variable is not NAME=value")


def run(
    moment: str, hooks: Sequence[Hook], state: dict[str, object], progress: Progress, cwd: int = -1
) -> None:
    """Run ``hooks`` one after the other, in the directory open at ``cwd`` if it is given.

    Raises ``OSError`` or `StepError` for the first that fails; no process of it is left.
    """
    if hooks and cwd >= 0:
        os.fchdir(cwd)
    text = json.dumps(state | {"pid": os.getpid()}).encode() if hooks else b""
    for number, hook in enumerate(hooks):
        progress.at(f"error running {moment} hook #{number}", hook.Path)
        reason = _run(hook, text)
        if reason:
            raise StepError(f"error running {moment} hook #{number}: {hook.Path}: {reason}")


def state(spec: Spec, container_id: str, status: str) -> dict[str, object]:
    """Return the state of the specification, as hooks find it on stdin; the pid comes with `run`.

    The bundle is the guest's: the folder that the root is in.
    """
    return {
        "ociVersion": spec.Version,
        "id": container_id,
        "status": status,
        "bundle": os.path.dirname(spec.Root.Path.rstrip("/")),
        "annotations": dict(spec.Annotations),
    }


def _run(hook: Hook, state_text: bytes) -> str:
    """Run one hook and return why it failed, or nothing."""
    streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.pwrite(streams[0], state_text, 0)
        pid = os.posix_spawn(
            hook.Path,
            list(hook.Args) or [hook.Path],
            dict(entry.partition("=")[::2] for entry in hook.Env),
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)],
        )
        if not _ended(pid, hook.Timeout):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"hook ran past specified timeout of {hook.Timeout} s"
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            return ""
        ended = f"exit status {code}" if code > 0 else f"signal {_signal_name(-code)}"
        out, err = map(_tail, streams[1:])
        return f"{ended}, stdout: {out}, stderr: {err}"
    finally:
        for fd in streams:
            os.close(fd)


def _ended(pid: int, timeout: int) -> bool:
    """Wait for a child to end; ``timeout`` in seconds, 0 for none."""
    pidfd = os.pidfd_open(pid)
    try:
        ending = select.poll()
        ending.register(pidfd, select.POLLIN)
        return bool(ending.poll(timeout * 1000 if timeout > 0 else None))
    finally:
        os.close(pidfd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return str(number)


def _tail(fd: int) -> str:
    start = max(os.fstat(fd).st_size - _MOST_OUTPUT, 0)
    return os.pread(fd, _MOST_OUTPUT, start).decode(errors="replace").strip()
