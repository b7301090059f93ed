"""Network namespaces, named by a file of the host (`/run/netns/NAME`, `/proc/PID/ns/net`)."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from kata.host import libc

_T = TypeVar("_T")

_OWN = "/proc/self/ns/net"


def is_own(path: str) -> bool:
    """Tell whether a file names the network namespace that the caller is in."""
    return are_same(path, _OWN)


def are_same(path: str, other: str) -> bool:
    """Tell whether two files name one network namespace; raises `OSError` when one is not there."""
    return os.path.samestat(os.stat(path), os.stat(other))


def enter(path: str) -> None:
    """Move the calling thread into a network namespace; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(descriptor, libc.CLONE_NEWNET)
    finally:
        os.close(descriptor)


def inside(path: str, work: Callable[[], _T]) -> _T:
    """Return what `work` returns when it is called in a network namespace.

    Sockets and devices that it opens stay in there.  It runs in a thread that ends before this
    returns: the caller's own threads never leave their namespace.  Raises `OSError` when the
    namespace cannot be entered, and what `work` raises.
    """
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            enter(path)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
