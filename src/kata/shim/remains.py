"""What is left of a sandbox whose shim has died, given back by `delete`."""

import os
from contextlib import suppress

from kata.host.unix_socket import is_served
from kata.sandbox.identity import RUN_ROOT
from kata.sandbox.journal import Journal


def clean(name: str, socket: str) -> int:
    """Give back all that a sandbox has left; return the pid that its machine had, or 0.

    `name` is its directory's, `socket` the path at which its shim has listened.  May be called again.
    Raises `OSError` when something resists; all else is gone then.
    """
    pid = 0
    journal = Journal.load(name)
    if journal is None and os.path.exists(os.path.join(RUN_ROOT, name)):
        journal = Journal.assumed(name)  # killed between the directory and its first record
    if journal:
        pid = next((p.pid for p in journal.processes if p.name.startswith("qemu")), 0)
        journal.clean()
    if not is_served(socket):
        with suppress(FileNotFoundError):
            os.unlink(socket)
    return pid
