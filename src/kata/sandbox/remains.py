"""What sandboxes have left on the host whose shims are gone: after a crash, or after a power cut.

A sandbox is known by its run directory or its share, both named alike.  One whose shim lives is
never touched: its run directory is locked, and whoever cleans up holds that lock meanwhile.  Nor is
what another runtime keeps there, such as upstream's Kata, whose directories are the same.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from kata.sandbox import journal
from kata.sandbox.journal import Journal
from kata.storage import share

_NAME = re.compile(r".+-[0-9a-f]{8}", re.DOTALL)
"""What `kata.sandbox.identity.directory_name` makes."""


def names() -> list[str]:
    """Return the names of all that is where sandboxes are, dead or alive, ours or not."""
    found: set[str] = set()
    for root in (journal.RUN_ROOT, share.HOST_ROOT):
        with suppress(FileNotFoundError):
            found.update(os.listdir(root))
    return sorted(found)


def chosen(wanted: Collection[str]) -> Iterator[str]:
    """Yield the names of the sandboxes called by id or by name; of all when none is called."""
    for name in names():
        if not wanted or name in wanted or name.rpartition("-")[0] in wanted:
            yield name


def is_ours(name: str) -> bool:
    """Tell whether a name is a sandbox's of ours.

    Its run directory holds our journal, or nothing when the shim was killed before it wrote one; a
    share without a run directory has the two directories that we make in it.
    """
    if not _NAME.fullmatch(name):
        return False
    base = journal.share_of(name)
    try:
        entries = set(os.listdir(os.path.join(journal.RUN_ROOT, name)))
    except FileNotFoundError:
        entries = set()
    except NotADirectoryError:
        return False
    if journal.FILE in entries:
        return True
    if entries - {journal.FILE + ".new"}:
        return False
    return not os.path.lexists(base) or all(
        os.path.isdir(os.path.join(base, each)) for each in ("rw", "ro")
    )


def record(name: str) -> Journal:
    """Return what a dead sandbox has on the host, from its journal or from its name."""
    return Journal.load(name) or Journal.assumed(name)


def remove(name: str, report: Callable[[str], None]) -> None:
    """Remove all that a dead sandbox has left, telling `report` of each thing.

    Raises `FileExistsError` when its shim is alive, and `OSError` when something resists; its
    record stays then.
    """
    holder = Journal(name)
    holder.seize()
    try:
        # One that has been given another name meanwhile has left nothing, and its machine is in use.
        if not os.listdir(holder.directory) and not os.path.lexists(journal.share_of(name)):
            holder.discard()
            report(f"directory {holder.directory}")
            return
        record(name).clean(report)
    finally:
        holder.release()
