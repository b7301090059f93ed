"""One finding about the host."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What a finding means for containers."""

    OK = "ok"
    WARN = "warn"
    """Containers run, with less speed or comfort than they could."""
    FAIL = "fail"
    """No container can run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was found and, unless all is well, what to do."""

    check: str
    level: Level
    found: str
    remedy: str = ""
