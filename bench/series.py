"""A series of measured times."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """Times in milliseconds, in the order in which they were measured."""

    values: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Return the smallest value that at least `share` (0 to 1) of the series does not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    def summary(self) -> dict[str, float]:
        """Return the figures of the series, for JSON."""
        return {
            "p50_ms": round(self.percentile(0.5), 1),
            "p95_ms": round(self.percentile(0.95), 1),
            "min_ms": round(min(self.values), 1),
            "max_ms": round(max(self.values), 1),
            "n": len(self.values),
        }
