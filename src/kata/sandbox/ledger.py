"""The start ledger: how long each step of one start took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One step: milliseconds from the ledger's origin to its begin, and until its end."""

    name: str
    begin_ms: float
    took_ms: float


@dataclass(slots=True)
class Ledger:
    """The record of one start, of a sandbox with its first container.

    `origin` is in seconds of the boot clock.
    """

    sandbox_id: str
    origin: float
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body; a step that fails is recorded too."""
        begin = now()
        try:
            yield
        finally:
            self.add(name, begin, now())

    def add(self, name: str, begin: float, end: float) -> None:
        """Record a step from its times on the boot clock, in seconds."""
        self.steps.append(
            Step(name, round((begin - self.origin) * 1000, 2), round((end - begin) * 1000, 2))
        )

    def record(self) -> dict[str, object]:
        """Return the ledger as plain values, for JSON."""
        return {
            "sandbox_id": self.sandbox_id,
            "total_ms": round((now() - self.origin) * 1000, 2),
            "steps": [asdict(step) for step in self.steps],
        }


def now() -> float:
    """Return the time of the boot clock, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
