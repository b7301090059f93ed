"""`delete`: clean up after a shim, on the ordinary path and after its death alike.

Idempotent, and silent but for the one message on standard output that containerd decodes.
"""

import os
import sys
import time

from kata.host import proc
from kata.sandbox.identity import RUN_ROOT, SOCKET_DIRECTORY, directory_name
from kata.shim import address
from kata.shim.arguments import Arguments

_KILLED = 128 + 9


def delete(arguments: Arguments) -> None:
    """Give back what is left of the container, and of its sandbox when it is the sandbox.

    Writes `containerd.task.v2.DeleteResponse` to standard output.
    """
    bundle = arguments.bundle or os.getcwd()
    rootfs = os.path.join(bundle, "rootfs")
    # containerd's own `delete` waits for this one: the ordinary path, on which nothing is left, imports nothing.
    if is_mounted(rootfs):
        from kata.host import mounts

        mounts.unmount(rootfs)
    path = address.read(bundle) or address.socket_path(
        arguments.address, arguments.namespace, arguments.id, SOCKET_DIRECTORY
    )
    name = directory_name(arguments.id, path)
    pid = 0
    if (os.path.lexists(path) or os.path.lexists(os.path.join(RUN_ROOT, name))) and _is_sandbox(
        bundle, arguments.id
    ):
        from kata.shim import remains

        pid = remains.clean(name, path)
    sys.stdout.buffer.write(response(pid, _KILLED, time.time()))
    sys.stdout.flush()


def is_mounted(path: str) -> bool:
    """Tell whether something is mounted at a path."""
    wanted = os.fsencode(os.path.realpath(path))
    for plain, written in (
        (b"\\", b"\\134"),
        (b" ", b"\\040"),
        (b"\t", b"\\011"),
        (b"\n", b"\\012"),
    ):
        wanted = wanted.replace(plain, written)
    return any(point == wanted for _, _, point in proc.mounted(os.getpid()))


def _is_sandbox(bundle: str, container_id: str) -> bool:
    try:
        return address.grouping_id(bundle, container_id) == container_id
    except (OSError, ValueError):
        return True  # a bundle without a readable config.json belongs to no pod


def response(pid: int, status: int, at: float) -> bytes:
    """Return an encoded `DeleteResponse`: pid 1, exit_status 2, exited_at 3 (seconds 1, nanos 2).

    Written by hand because importing protobuf would take longer than all else here.
    """
    seconds = int(at)
    timestamp = _field(1, seconds) + _field(2, int((at - seconds) * 1e9))
    exited_at = _varint(3 << 3 | 2) + _varint(len(timestamp)) + timestamp
    return _field(1, pid) + _field(2, status) + exited_at


def _field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
