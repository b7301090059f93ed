"""Guests that stand by while the tests run, if they are asked to with `KATA_TEST_POOL=1`.

Each sandbox is then whoever has stood by, so that what the tests prove holds for the pool, too.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lab.command import LabError, run
from lab.paths import DROP_INS

WANTED: Final = bool(int(os.environ.get("KATA_TEST_POOL", "0")))

POOLS: Final = "/run/kata-containers/standby/"

_LISTENS: Final = 0x10000  # SO_ACCEPTCON among the flags of /proc/net/unix
_NAME: Final = "kata-standby"
_DROP_IN: Final = DROP_INS / "45-pool.toml"
_PATIENCE_S: Final = 30


@contextmanager
def pool(most: int = 1) -> Iterator[None]:
    """Have the installed configuration keep guests standing by; nobody does at the end."""
    _DROP_IN.write_text(f"[factory]\nvm_cache_number = {most}\n")
    try:
        with shared_mounts():
            yield
    finally:
        _DROP_IN.unlink()
        drain()


@contextmanager
def shared_mounts() -> Iterator[None]:
    """Have every mount reach whoever stands by already, as systemd has it on most machines."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    rows = [line.split(" - ")[0].split() for line in table.splitlines()]
    private = [row[4] for row in rows if not any(word.startswith("shared:") for word in row[6:])]
    run(["mount", "--make-rshared", "/"])
    try:
        yield
    finally:
        for point in private:
            run(["mount", "--make-private", point.encode().decode("unicode_escape")])


def drain() -> None:
    """End whoever stands by; raises `LabError` when somebody stays."""
    deadline = time.monotonic() + _PATIENCE_S
    while waiting := _pids():
        for pid in waiting:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise LabError(f"{_NAME}: {waiting} do not end")
        time.sleep(0.02)


def listening() -> list[int]:
    """Return the pids of those that take a commission."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        rows = [line.split() for line in list(file)[1:]]
    return [
        int(Path(row[7]).name.partition(".")[0])
        for row in rows
        if len(row) > 7 and row[7].startswith(POOLS) and int(row[3], 16) & _LISTENS
    ]


def is_one(pid: int) -> bool:
    """Tell whether a process stands by, or serves one that does; none does unless it is wanted."""
    while WANTED and pid > 1:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except OSError:
            return False
        if name.endswith(f"({_NAME}"):
            return True
        pid = int(rest.split()[1])
    return False


def _pids() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and (entry / "comm").read_text() == f"{_NAME}\n":
                found.append(int(entry.name))
    return found
