"""Start ledgers of our shims: found in containerd's log, and what they say of a start."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

_MARK = "start ledger {"
_RESTORE = "virtual machine"
_RESTORED = "guest answer"  # a guest that boots has "guest boot" in its place


@dataclass(frozen=True, slots=True)
class Step:
    """One step: milliseconds from the start of the shim to its begin, and until its end."""

    name: str
    begin_ms: float
    took_ms: float

    @property
    def end_ms(self) -> float:
        """Milliseconds from the start of the shim to the step's end."""
        return self.begin_ms + self.took_ms


@dataclass(frozen=True, slots=True)
class StartLedger:
    """One start: its steps in the order in which they ended, and milliseconds until its end."""

    sandbox_id: str
    total_ms: float
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, record: dict[str, Any]) -> Self:
        """Return the ledger of a decoded record; raises `KeyError` for what is not one."""
        steps = tuple(
            Step(one["name"], float(one["begin_ms"]), float(one["took_ms"]))
            for one in record["steps"]
        )
        return cls(record["sandbox_id"], float(record["total_ms"]), steps)

    @property
    def restored(self) -> bool:
        """Tell whether the sandbox came from a template rather than from a boot."""
        return any(step.name == _RESTORED for step in self.steps)

    @property
    def first_rpc_ms(self) -> float:
        """Milliseconds from QEMU's start to the agent's first answer, of a restored sandbox."""
        steps = {step.name: step for step in self.steps}
        return steps[_RESTORED].end_ms - steps[_RESTORE].begin_ms


def find(log: str) -> list[StartLedger]:
    """Return the ledgers in a containerd's log, in its order."""
    found = []
    for line in log.splitlines():
        _, mark, rest = line.partition(_MARK)
        if mark:
            # containerd's log quotes the shim's line once more.
            record, _ = json.JSONDecoder().raw_decode("{" + rest.replace("\\", ""))
            found.append(StartLedger.parse(record))
    return found


def median(ledgers: Iterable[StartLedger]) -> StartLedger:
    """Return the ledger whose total is the median: one real start, not a mixture."""
    ordered = sorted(ledgers, key=lambda ledger: ledger.total_ms)
    return ordered[len(ordered) // 2]


def first_rpc_ms(ledgers: Iterable[StartLedger]) -> float:
    """Return the median of the milliseconds from QEMU's start to the agent's first answer."""
    return statistics.median(ledger.first_rpc_ms for ledger in ledgers)
