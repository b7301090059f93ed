"""`start`: print the address of the shim that serves a container, starting it when there is none.

containerd runs this for every container and waits until everyone has closed its output, so little
is imported and the daemon lets go of the output first.
"""

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from kata.host.unix_socket import is_served
from kata.sandbox.identity import SOCKET_DIRECTORY
from kata.shim import address, pool
from kata.shim.arguments import Arguments
from kata.shim.bootstrap import runtime_options, socket_directory
from kata.shim.commission import Commission

_STDIN_LIMIT = 1 << 20
"""Bytes of start parameters that are read; real ones have a few hundred."""


def start(arguments: Arguments, origin: float) -> None:
    """Print the address of the container's shim; returns only in the process that was started.

    The working directory is the bundle.  `origin` is when this process was started, in seconds
    of the boot clock.  In the daemon, this call serves until the shim's end.
    """
    bundle = os.getcwd()
    group = address.grouping_id(bundle, arguments.id)
    parameters = _read_stdin()
    directory = socket_directory(parameters, arguments.id, arguments.namespace)
    path = address.socket_path(
        arguments.address, arguments.namespace, group, directory or SOCKET_DIRECTORY
    )
    address.write(bundle, path)
    with address.turn(os.path.dirname(path)):
        if not is_served(path):
            options = runtime_options(parameters, arguments.id, arguments.namespace)
            _spawn(Commission(arguments, bundle, path, origin, options))
    _answer(path)


def _spawn(commission: Commission) -> None:
    """Have a shim on the commission's socket; on failure neither it nor the socket is left."""
    listener = address.listen(commission.path)
    pooled = pool.is_open()
    reader, starter = os.pipe() if pooled else (-1, -1)
    pid = 0
    # Whoever stands by has its guest already, which could not share its cores with the pod alone.
    if pooled and not os.environ.get("SCHED_CORE"):
        pid, commission = pool.commission(commission, listener, starter)
    try:
        pid = pid or _fork(commission, listener, starter)
    except OSError:
        os.unlink(commission.path)
        raise
    try:
        _write_pid(commission.bundle, pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.unlink(commission.path)
        raise
    if pooled:
        _fork_standby(reader)


def _fork(commission: Commission, listener: socket.socket, starter: int) -> int:
    pid = os.fork()
    if pid == 0:
        from kata.shim.daemon import run

        try:
            run(commission, listener, starter)
        finally:
            os._exit(1)  # never unwind into what `start` was doing
    return pid


def _fork_standby(reader: int) -> None:
    """Start a process that will stand by; without one, the next sandbox just starts as always.

    It imports nothing before it is told to, since containerd waits for it to let go of our output.
    """
    with suppress(OSError):
        if os.fork() == 0:
            try:
                from kata.shim.daemon import detach

                detach({reader})
                if called := pool.answer(reader):
                    from kata.shim import footprint

                    footprint.reduce()
                    from kata.shim.standby import run

                    run(*called)
            finally:
                os._exit(1)


def _read_stdin() -> bytes:
    """Return what containerd has written, without waiting for a writer that never comes."""
    data = b""
    deadline = time.monotonic() + 1.0
    while len(data) < _STDIN_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([0], [], [], left)[0]:
            break
        part = os.read(0, 65536)
        if not part:
            break
        data += part
    return data


def _write_pid(bundle: str, pid: int) -> None:
    with open(os.path.join(bundle, "shim.pid"), "w") as file:
        file.write(str(pid))


def _answer(path: str) -> None:
    sys.stdout.write(address.uri(path))
    sys.stdout.flush()
