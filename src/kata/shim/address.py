"""The socket a shim listens on.

Its path is `<directory>/<sha256 of containerd's address, namespace and grouping id>`, so that every
container of a pod finds the shim of its sandbox without asking anyone.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kata.host.digest import sha256_of_text
from kata.sandbox.identity import sandbox_id

_PREFIX = "unix://"


def grouping_id(bundle: str, container_id: str) -> str:
    """Return the sandbox that a container belongs to: its own id outside of a pod.

    A sandbox that is made without a container has no config.json, or an empty one.  Raises
    `OSError`, and `ValueError` for a specification that is none.
    """
    import json

    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            spec = json.load(file)
    except FileNotFoundError:
        spec = None
    spec = {} if spec is None else spec
    annotations = (spec.get("annotations") if isinstance(spec, dict) else spec) or {}
    if not isinstance(annotations, dict) or not all(
        isinstance(value, str) for value in annotations.values()
    ):
        raise ValueError(f"{path}: annotations have to be an object of strings")
    return sandbox_id(container_id, annotations)


def socket_path(address: str, namespace: str, group: str, directory: str) -> str:
    """Return the path of the socket for a group of containers."""
    return os.path.join(directory, sha256_of_text(f"{address}/{namespace}/{group}"))


@contextmanager
def turn(directory: str) -> Iterator[None]:
    """Hold the turn to look for and make a socket in `directory`; another `start` waits."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def listen(path: str) -> socket.socket:
    """Return a listening socket on `path`, in place of one that nobody serves any more."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


def write(bundle: str, path: str) -> None:
    """Write the bundle's `address` file, from which containerd finds us after its restart."""
    target = os.path.join(bundle, "address")
    with open(target + ".new", "w") as file:
        file.write(_PREFIX + path)
    os.rename(target + ".new", target)


def read(bundle: str) -> str | None:
    """Return the socket's path from the bundle's `address` file, or None."""
    try:
        with open(os.path.join(bundle, "address")) as file:
            return file.read().strip().removeprefix(_PREFIX)
    except FileNotFoundError:
        return None


def uri(path: str) -> str:
    """Return what containerd dials."""
    return _PREFIX + path
