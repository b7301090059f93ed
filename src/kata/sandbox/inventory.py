"""The sandboxes on this host: what runs, since when, how large, and what it uses.

Read from the sandboxes' own records and from /proc, so that no shim has to answer for it.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kata.host.usage import Usage, usage
from kata.sandbox import identity, journal
from kata.sandbox.journal import Journal, OwnedProcess
from kata.storage import share

VMM = "qemu"


class InventoryError(Exception):
    """A sandbox that cannot be told of; the text names cause and remedy."""


@dataclass(frozen=True, slots=True)
class Member:
    """A running process of a sandbox, and what it uses."""

    name: str
    pid: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox on this host.

    `state` is "starting", "running", "standby" (its guest waits for a pod, `vm_cache_number`), "lost"
    (its machine has ended, its shim has not) or "dead" (its shim has ended; `kata-ctl cleanup` removes
    what it left). `facts` is what its shim wrote
    down about it, see `kata.sandbox.facts`.
    """

    name: str
    state: str
    facts: dict[str, Any]
    processes: tuple[Member, ...]
    containers: tuple[str, ...]
    socket: str
    age_seconds: float

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return str(self.facts.get("id") or id_of(self.name))

    @property
    def directory(self) -> str:
        """The run directory."""
        return os.path.join(journal.RUN_ROOT, self.name)

    def pid(self, process: str) -> int | None:
        """Return the process id of "qemu", "virtiofsd" or "shim", or None when it does not run."""
        return next((each.pid for each in self.processes if each.name == process), None)


def id_of(name: str) -> str:
    """Return the sandbox id in the name of a sandbox's directories."""
    return name.rpartition("-")[0] or name


def sandboxes() -> list[Found]:
    """Return every sandbox that has a run directory, the oldest first."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(journal.RUN_ROOT)
    found = [each for name in names if (each := _look_at(name))]
    return sorted(found, key=lambda each: (-each.age_seconds, each.name))


def find(prefix: str) -> Found:
    """Return the sandbox whose id or name starts with `prefix`, and no other's does.

    Raises `InventoryError`.
    """
    there = {each.name: each for each in sandboxes()}
    return there[choose(prefix, there, "sandbox on this host", "`kata-ctl list` shows them")]


def choose(prefix: str, names: Iterable[str], what: str, hint: str) -> str:
    """Return the one name that is meant by `prefix`: a whole name, a whole id, or a beginning.

    Raises `InventoryError` when there is none, or more than one.
    """
    found: Sequence[str] = list(names)
    for matches in (
        [name for name in found if name == prefix],
        [name for name in found if id_of(name) == prefix],
        [name for name in found if name.startswith(prefix)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InventoryError(
                f"{prefix} may be any of {', '.join(sorted(matches))}; write more of the one meant"
            )
    raise InventoryError(f"no {what} is called {prefix}; {hint}")


def _look_at(name: str) -> Found | None:
    record = Journal.load(name)
    if record is None:  # gone, or not written yet
        return None
    running = [each for each in record.processes if each.is_running()]
    members = []
    for each in running:
        with suppress(ProcessLookupError):
            members.append(Member(each.name, each.pid, usage(each.pid)))
    return Found(
        name=name,
        state=_state(record, {each.name for each in members}),
        facts=dict(record.facts),
        processes=tuple(members),
        containers=_containers(name),
        socket=record.socket,
        age_seconds=_age(running) if running else 0.0,
    )


def _state(record: Journal, running: set[str]) -> str:
    if "shim" not in running:
        return "dead"
    if VMM in running:
        return "standby" if record.name.startswith(identity.STANDBY_PREFIX) else "running"
    recorded = {each.name for each in record.processes}
    return "lost" if VMM in recorded else "starting"


def _age(running: Sequence[OwnedProcess]) -> float:
    """Return the seconds since the first of some processes was started."""
    started = min(each.start_time for each in running) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _containers(name: str) -> tuple[str, ...]:
    """Return the containers that have something on the share; an orphaned name has none."""
    with suppress(OSError):
        return tuple(share.containers(name))
    return ()
