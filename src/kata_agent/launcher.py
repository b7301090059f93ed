"""Processes created for containers, and the channel each one talks to the agent over until it runs.

A new process is one clone3(2): born in its cgroup, as the first of its pid namespace or a member of
another's, with a descriptor that names it for ever. It prepares itself, says so, and becomes its
program; a failure on the way is told in a sentence. The channel is a SOCK_SEQPACKET pair: ``R``
(ready, with a terminal's master attached if there is one) and ``E`` + text from the process, ``S``
(start) from the agent, end of file when the program runs, or when the agent is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import NoReturn

from kata_agent import syscalls as sc
from kata_agent.progress import Progress
from ttrpc import RpcError, StatusCode

_ALL_SIGNALS = 2**64 - 1
# What Python and the agent catch or ignore: execve resets what is caught, not what is ignored, and
# a caught signal must not run the agent's handler in a process that is not the agent.
_HANDLED = tuple(
    int(number)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGHUP,
    )
)

_READY = b"R"
_START = b"S"
_ERROR = b"E"
_MESSAGE_SIZE = 16384  # a step, a path of at most 4 KiB, and a reason


class Gate:
    """The new process's end of the channel."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def ready(self, terminal: int | None) -> None:
        """Say that only the program is missing; hand over the master of the terminal, if any."""
        socket.send_fds(self._sock, [_READY], [] if terminal is None else [terminal])

    def wait_start(self) -> None:
        """Wait for the agent to say go; exit when there is no agent any more."""
        if self._sock.recv(len(_START)) != _START:
            os._exit(1)

    def fail(self, message: str) -> None:
        """Tell the agent why there will be no program."""
        self._sock.send(_ERROR + message.encode()[: _MESSAGE_SIZE - 1])


Body = Callable[[Gate, Progress], NoReturn]


class Child:
    """The agent's side of a process that is on its way to its program."""

    def __init__(self, pid: int, pidfd: int, sock: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._sock = sock

    async def wait_ready(self) -> int | None:
        """Wait until the process is prepared; return the terminal's master or None.

        Raises ``RpcError`` INTERNAL with the failed step; the process then ends by itself.
        """
        message, descriptors = await self._receive()
        if message != _READY:
            for fd in descriptors:
                os.close(fd)
            raise self._failure(message)
        return descriptors[0] if descriptors else None

    async def wait_running(self) -> None:
        """Wait until the program runs. Raises ``RpcError`` INTERNAL if it cannot."""
        message, _ = await self._receive()
        self.close()
        if message:
            raise self._failure(message)

    async def start(self) -> None:
        """Let a prepared process that waits at its gate run, and wait until it does."""
        try:
            self._sock.send(_START)
        except OSError as error:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                "the process ended before it was started; remove the container and create it again",
            ) from error
        await self.wait_running()

    def close(self) -> None:
        """Close the channel; a process still at its gate then exits."""
        self._sock.close()

    def _failure(self, message: bytes) -> RpcError:
        self.close()
        text = message[1:].decode(errors="replace")
        if not message.startswith(_ERROR):
            text = "the new process was killed before it was ready; check the guest's memory"
        return RpcError(StatusCode.INTERNAL, text)

    async def _receive(self) -> tuple[bytes, list[int]]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._sock, _MESSAGE_SIZE, 1)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._sock, _resolve, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._sock)
            except ConnectionResetError:
                return b"", []
            else:
                return message, list(fds)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def spawn(body: Body, *, flags: int, cgroup_fd: int, keep: Iterable[int]) -> Child:
    """Create a process that runs ``body`` and keeps only the descriptors ``keep`` and 0 to 2.

    ``flags`` are CLONE_NEW* bits; a negative ``cgroup_fd`` means the agent's own cgroup. Raises
    ``OSError`` when there is no process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_blocking(ours.fileno(), False)
    # A signal that came before the child drops the agent's handlers would be written to the
    # wake-up pipe that both share.
    before = sc.set_signal_mask(_ALL_SIGNALS)
    try:
        pid, pidfd = sc.clone(flags, cgroup_fd)
        if pid == 0:
            _run(body, theirs, keep)
    except OSError:
        ours.close()
        raise
    finally:
        sc.set_signal_mask(before)
        theirs.close()
    return Child(pid, pidfd, ours)


def _run(body: Body, sock: socket.socket, keep: Iterable[int]) -> NoReturn:
    """Be the new process. Nothing may return from here into the agent's event loop."""
    gate = Gate(sock)
    progress = Progress()
    try:
        # Its memory is a copy of the agent's and it may be in a container's pid namespace already:
        # until execve only who has CAP_SYS_PTRACE there may trace it (the class of CVE-2016-9962).
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        gc.disable()  # finalisers of the agent's objects are not ours to run
        _reset_signals()
        _close_others({0, 1, 2, sock.fileno(), *keep})
        body(gate, progress)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told, and the process ends
        gate.fail(progress.explain(error))
    finally:
        os._exit(1)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        sc.reset_signal(number)
    sc.set_signal_mask(0)


def _close_others(keep: set[int]) -> None:
    first = 0
    for fd in sorted(keep):
        if fd > first:
            sc.close_range(first, fd - 1)
        first = fd + 1
    sc.close_range(first, 2**32 - 1)
