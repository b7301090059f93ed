"""Control groups of a sandbox, recorded so that whatever is left of them is found again."""

from contextlib import AsyncExitStack

from kata.resources.cgroup import HostCgroup
from kata.sandbox.journal import Journal, Kind

_PATIENCE = 3.0
"""Seconds for the last processes to leave their control group; they were killed before."""


def make(group: HostCgroup, journal: Journal, undo: AsyncExitStack) -> None:
    """Make a group that `undo` removes; raises `OSError`, and what was made is for `undo`, too."""

    def kind(path: str) -> Kind:
        return Kind.CGROUP if path in group.paths else Kind.CGROUP_ABOVE

    undo.push_async_callback(
        group.remove_in_time, lambda path: journal.strike(kind(path), path), _PATIENCE
    )
    group.create(lambda path: journal.record(kind(path), path))
