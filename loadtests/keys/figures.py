"""The arithmetic of an overload: what came of each request, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.keys.client import OK, REFUSED, Answer
from loadtests.sweep.figures import percentile


@dataclass(frozen=True)
class Window:
    """A span of the monotonic clock."""

    began_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    def goodput_per_s(self, answers: Iterable[Answer]) -> float:
        """Whole answers whose end fell into it."""
        return sum(each.good and self.began_s <= each.ended_s < self.ended_s for each in answers) / self.seconds

    def sent_per_s(self, answers: Iterable[Answer]) -> float:
        return sum(self.began_s <= each.sent_s < self.ended_s for each in answers) / self.seconds


@dataclass(frozen=True)
class Times:
    """Of some requests, in milliseconds; nan where there are none."""

    p50: float
    p95: float
    p99: float
    most: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f}, p95 {self.p95:.1f}, p99 {self.p99:.1f}, max {self.most:.1f} ms"


def times_of(values_ms: Sequence[float]) -> Times:
    if not values_ms:
        return Times(*[float("nan")] * 4)
    return Times(*(percentile(values_ms, percent) for percent in (50, 95, 99, 100)))


@dataclass(frozen=True)
class Accounts:
    """Both sides' counts of the same requests."""

    sent: int
    answered: int
    refused: int
    statuses: Mapping[int, int]
    """As the client saw them."""
    edge: Mapping[int, int]
    """As the edge counted them."""

    @property
    def lost(self) -> int:
        """Neither answered to the end nor refused."""
        return self.sent - self.answered - self.refused

    @property
    def disagreement(self) -> int:
        """Requests that the two sides count otherwise; what came nowhere the edge has not seen."""
        seen = {status: count for status, count in self.statuses.items() if status > 0}
        return sum(abs(seen.get(each, 0) - self.edge.get(each, 0)) for each in seen.keys() | self.edge.keys())


def accounts_of(answers: Sequence[Answer], edge: Mapping[int, int]) -> Accounts:
    good = sum(each.good for each in answers)
    statuses = Counter(each.status for each in answers)
    return Accounts(len(answers), good, statuses[REFUSED], dict(sorted(statuses.items())), edge)


def shares_of(answers: Iterable[Answer], keys: Sequence[str]) -> list[float]:
    """Each key's part of the whole answers."""
    good = Counter(each.key for each in answers if each.good)
    return [good[key] / max(1, good.total()) for key in keys]


def codes_of(answers: Iterable[Answer]) -> dict[str, int]:
    """Of what was not answered: the error's own code."""
    return dict(Counter(each.code or "broken off" for each in answers if not each.good))


def refusals_ms(answers: Iterable[Answer]) -> list[float]:
    return [each.whole_ms for each in answers if each.status == REFUSED]


def served_ms(answers: Iterable[Answer]) -> list[float]:
    return [each.whole_ms for each in answers if each.status == OK and each.complete]


def first_texts_ms(answers: Iterable[Answer]) -> list[float]:
    return [each.first_ms for each in answers if each.good]
