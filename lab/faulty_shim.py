"""The shim with a fault in it: `python -m lab.faulty_shim` in place of `kata.shim.main`.

The product has no hook for faults. This program replaces two things before it runs the shim: the
ledger, whose steps a bring-up takes, and the exit stack, whose callbacks a tear-down takes. After
each of them it writes a line into a file, and after the one that the environment names it
raises an error or kills the shim.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# "<phase>: <step>", nothing for no fault; "raise" or "kill"; the file that is told of each step.
STEP: Final = "KATA_LAB_FAULT_AFTER"
ACTION: Final = "KATA_LAB_FAULT"
TRACE: Final = "KATA_LAB_FAULT_TRACE"
# Options of a tmpfs that the shim finds in place of its run directories' parent.
RUN_ROOT_OPTIONS: Final = "KATA_LAB_RUN_ROOT_OPTIONS"
INJECTED: Final = "injected by the laboratory"

_CALLBACKS: Final = {
    "Agent.close": "connection to the agent",
    "Machine.stop": "virtual machine",
    "Virtiofsd.stop": "file server",
    "Share.destroy": "shared directory",
    "HostCgroup.leave": "control group left",
    "HostCgroup.remove_in_time": "control group",
    "GuestStart._struck_off": "record struck off",
    "BringUp._make_run_directory": "run directory",
}


@dataclass(frozen=True, slots=True)
class Passed:
    """A step that was passed, and when: seconds of the boot clock."""

    step: str
    at: float


def read_trace(path: Path) -> list[Passed]:
    """Return the steps that a shim has passed; the last is the one with the fault, if any."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Passed(line.partition(" ")[2], float(line.partition(" ")[0])) for line in lines]


def _passed(step: str) -> None:
    with Path(os.environ[TRACE]).open("a") as file:
        file.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.3f} {step}\n")
    if step == os.environ.get(STEP):
        if os.environ[ACTION] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, INJECTED)


class _Stack(AsyncExitStack):
    """An exit stack that tells of each callback that has run."""

    def _push_exit_callback(self, callback: Any, is_sync: bool = True) -> None:  # noqa: FBT001, FBT002
        origin = getattr(callback, "__wrapped__", callback).__qualname__.partition(".<locals>")[0]
        name = _CALLBACKS.get(origin)
        if name is None:
            super()._push_exit_callback(callback, is_sync)  # type: ignore[misc]
            return
        if is_sync:

            def told(*details: Any) -> Any:
                result = callback(*details)
                _passed(f"tear-down: {name}")
                return result

            super()._push_exit_callback(told, is_sync)  # type: ignore[misc]
        else:

            async def told_later(*details: Any) -> Any:
                result = await callback(*details)
                _passed(f"tear-down: {name}")
                return result

            super()._push_exit_callback(told_later, is_sync)  # type: ignore[misc]


def _told_of(step: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    @contextmanager
    def replacement(ledger: Any, name: str) -> Iterator[None]:
        with step(ledger, name):
            yield
        _passed(f"bring-up: {name}")

    return replacement


def main() -> int:
    """Run the shim with the fault that the environment asks for."""
    from kata.host import libc
    from kata.sandbox import bring_up, guest_start, journal, ledger, sandbox
    from kata.shim.main import main as shim

    if options := os.environ.get(RUN_ROOT_OPTIONS):
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount("", "/", "", libc.MS_SLAVE | libc.MS_REC)
        Path(journal.RUN_ROOT).mkdir(exist_ok=True)
        flags = libc.MS_RDONLY if options == "ro" else 0
        libc.mount("lab", journal.RUN_ROOT, "tmpfs", flags, "" if flags else options)
        return shim()
    ledger.Ledger.step = _told_of(ledger.Ledger.step)  # type: ignore[method-assign, assignment]
    for module in (bring_up, guest_start, sandbox):
        module.AsyncExitStack = _Stack  # type: ignore[attr-defined]
    return shim()


if __name__ == "__main__":
    sys.exit(main())
