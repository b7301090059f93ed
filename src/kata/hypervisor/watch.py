"""Work that is in vain once its virtual machine has ended, and what the machine said last."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from kata.hypervisor.port import HypervisorError, VirtualMachine

SAME_CAUSE = 0.5
"""Seconds between the end of a machine and what it brings about (its connections close, its file
server ends), which may be seen first."""

_LINES = 8
"""Lines of the guest's console that an error carries."""

_PANIC = "Kernel panic"
"""How a Linux kernel begins its last words, which a trace of some 30 lines follows."""

_T = TypeVar("_T")


class LostError(HypervisorError):
    """The machine, or a process that it needs, has ended meanwhile; the text says how."""


async def unless_lost(work: Coroutine[Any, Any, _T], lost: Coroutine[Any, Any, str]) -> _T:
    """Await `work`, unless `lost` ends first: then raise `LostError` with its words at once."""
    task = asyncio.ensure_future(work)
    end = asyncio.ensure_future(lost)
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and task.exception():
            # A closed connection is seen before the end of the process that closed it.
            await asyncio.wait({end}, timeout=SAME_CAUSE)
        if end.done():
            raise LostError(end.result())
        return task.result()
    finally:
        for each in (task, end):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


def last_words(machine: VirtualMachine) -> str:
    """Return the end of the guest's console, from its panic on if there was one, for an error."""
    lines = list(machine.console(10 * _LINES))
    panic = next((n for n, line in enumerate(lines) if _PANIC in line), None)
    shown = lines[-_LINES:] if panic is None else lines[panic : panic + _LINES]
    return "".join(f"\n  guest console: {line}" for line in shown)
