"""The fault matrix, docs/faults.md: what happens after each fault, and how soon.

Tests write it: with KATA_FAULT_MATRIX=write in the environment each row that a run produces
replaces the one of the same stage, step and fault; otherwise a row that the page does not have, with
the same outcome, fails the test that produced it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.paths import CHECKOUT

PAGE: Final = CHECKOUT / "docs" / "faults.md"
MODE: Final = "KATA_FAULT_MATRIX"

_STAGES: Final = ("bring-up", "tear-down", "running")
_PREAMBLE: Final = """\
# Faults, and what comes of them

Each row is a test. A fault is put right after a step; *outcome* is what the client is told and what is left once containerd
has done what it does then (`delete`); *seconds* is from the fault to the client's answer, on the machine that wrote this page.
Written by

    KATA_FAULT_MATRIX=write python -m pytest tests/vm/test_fault_matrix.py

"error" is the shim's own bookkeeping failing at that point (an `OSError`); "shim killed" is SIGKILL of the shim.
A hanging QEMU is noticed when something is asked of the guest; a SIGKILL is given 3.5 s there, hence the longer time.

Kills at random moments (QEMU, virtiofsd, the shim, the guest with its agent) have no row each:

    KATA_FAULT_RUNS=200 python -m pytest tests/vm/test_random_kills.py

| stage | after | fault | outcome | seconds |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: where it was put and what came of it; `seconds` until the client knew."""

    stage: str
    step: str
    fault: str
    outcome: str
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What the row is about."""
        return (self.stage, self.step, self.fault)


def read(page: Path = PAGE) -> list[Row]:
    """Return the rows of the page, none when there is none."""
    if not page.exists():
        return []
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.read_text().splitlines()
        if line.startswith("|")
    ]
    return [Row(stage, step, fault, said, float(s)) for stage, step, fault, said, s in cells[2:]]


def record(row: Row, page: Path = PAGE) -> None:
    """Put a row into the page if the environment says so; otherwise compare it with the page's.

    Raises `AssertionError` when the page tells another outcome.
    """
    rows = {each.key: each for each in read(page)}
    if os.environ.get(MODE) == "write":
        rows[row.key] = row
        lines = [
            f"| {r.stage} | {r.step} | {r.fault} | {r.outcome} | {r.seconds:.2f} |\n"
            for r in sorted(rows.values(), key=lambda r: _STAGES.index(r.stage))
        ]
        page.write_text(_PREAMBLE + "".join(lines))
        return
    known = rows.get(row.key)
    assert known, f"{page.name} has no row for {row.key}; write it anew as the page says"
    assert known.outcome == row.outcome, f"{page.name} says {known.outcome!r} of {row.key}"
