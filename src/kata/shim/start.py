"""`start`: print the address of the shim that serves a container, starting it when there is none.

containerd runs this for every container and waits until everyone has closed its output, so little
is imported and the daemon lets go of the output first.
"""

import os
import select
import signal
import sys
import time

from kata.host.unix_socket import is_served
from kata.sandbox.identity import SOCKET_DIRECTORY
from kata.shim import address
from kata.shim.arguments import Arguments
from kata.shim.bootstrap import runtime_options, socket_directory

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
            _spawn(arguments, bundle, path, origin, options)
    _answer(path)


def _spawn(arguments: Arguments, bundle: str, path: str, origin: float, options: bytes) -> None:
    """Start the daemon on `path`; on failure neither it nor the socket is left."""
    listener = address.listen(path)
    try:
        pid = os.fork()
    except OSError:
        os.unlink(path)
        raise
    if pid == 0:
        from kata.shim.daemon import run

        try:
            run(arguments, bundle, path, listener, origin, options)
        finally:
            os._exit(1)  # never unwind into what `start` was doing
    try:
        _write_pid(bundle, pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.unlink(path)
        raise


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
