"""Directories that are watched for changes: inotify(7)."""

import os

from kata.host import libc

_CHANGES = (
    libc.IN_ATTRIB
    | libc.IN_CLOSE_WRITE
    | libc.IN_CREATE
    | libc.IN_DELETE
    | libc.IN_MOVED_FROM
    | libc.IN_MOVED_TO
)

_READ_SIZE = 16384


class ChangeWatch:
    """An inotify instance; readable when there was a change below a directory that it has."""

    def __init__(self) -> None:
        self._descriptor = libc.inotify_init()

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._descriptor

    def add(self, top: str) -> None:
        """Watch `top` and the directories below it; those that are watched already stay so.

        Raises `OSError` when `top` cannot be watched; what is below may come and go.
        """
        libc.inotify_add_watch(self._descriptor, top, _CHANGES | libc.IN_ONLYDIR)
        for folder, names, _ in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    try:
                        libc.inotify_add_watch(self._descriptor, path, _CHANGES | libc.IN_ONLYDIR)
                    except FileNotFoundError:
                        continue  # the event of its end is in the queue

    def drain(self) -> bool:
        """Forget the changes so far; tell whether there were any."""
        changed = False
        while True:
            try:
                os.read(self._descriptor, _READ_SIZE)
            except BlockingIOError:
                return changed
            changed = True

    def close(self) -> None:
        """Stop watching; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
