"""What the load tests of keys are meant to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ADMISSION_MS = 2.0
FAIRNESS = 1.5
OFFERED, OFFERED_SLACK = 2.0, 0.05
"""Times the peak; Poisson arrivals and the peak's own noise leave that much."""
GOODPUT = 0.9
REFUSAL_MS = 100.0


@dataclass(frozen=True)
class Judged:
    """A figure beside its bound."""

    figure: str
    found: float
    bound: float
    at_most: bool = True

    @property
    def kept(self) -> bool:
        """A figure that is no number, for want of requests, keeps no aim."""
        return self.found <= self.bound if self.at_most else self.found >= self.bound

    @property
    def line(self) -> str:
        sign = "at most" if self.at_most else "at least"
        return f"{'kept' if self.kept else 'MISSED'}: {self.figure} {self.found:.4g}, {sign} {self.bound:g}"


def told(judged: Sequence[Judged]) -> bool:
    """Prints each; whether all are kept."""
    for each in judged:
        print(each.line)
    return all(each.kept for each in judged)
