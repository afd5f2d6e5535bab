"""Scrape: what /metrics said at one moment, and what was counted between two of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """at: seconds of a clock that nobody moves. samples: name -> labels -> value, a finite one."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def of(cls, text: str, at: float) -> Scrape:
        """Raises ValueError for what is not Prometheus's text format."""
        samples: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if _is_finite(sample.value):
                    samples[sample.name][frozenset(sample.labels.items())] = sample.value
        return cls(at, samples)

    def series(self, name: str, **where: str) -> Iterator[tuple[Labels, float]]:
        """Those that carry all these labels."""
        wanted = frozenset(where.items())
        return ((labels, value) for labels, value in self.samples.get(name, {}).items() if wanted <= labels)

    def total(self, name: str, **where: str) -> float:
        """Raises ValueError if it is more than a number can be."""
        return _sum(value for _, value in self.series(name, **where))

    def most(self, name: str, **where: str) -> float | None:
        return max((value for _, value in self.series(name, **where)), default=None)

    def labels(self, name: str, label: str) -> list[str]:
        """The label's values, in the order in which they were told."""
        found = (dict(labels).get(label) for labels in self.samples.get(name, {}))
        return list(dict.fromkeys(value for value in found if value is not None))


@dataclass(frozen=True)
class Between:
    """What counters say of the time between two scrapes. A counter that fell began anew, from 0."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        return max(self.now.at - self.before.at, 1e-9)

    def increases(self, name: str, **where: str) -> Iterator[tuple[Labels, float]]:
        known = self.before.samples.get(name, {})
        for labels, value in self.now.series(name, **where):
            earlier = known.get(labels, 0.0)
            yield labels, value - earlier if value >= earlier else value

    def increase(self, name: str, **where: str) -> float:
        """Raises ValueError if it is more than a number can be."""
        return _sum(value for _, value in self.increases(name, **where))

    def per_s(self, name: str, **where: str) -> float:
        return self.increase(name, **where) / self.seconds

    def by(self, label: str, name: str, **where: str) -> dict[str, float]:
        """Value of the label -> increase."""
        found: dict[str, float] = defaultdict(float)
        for labels, value in self.increases(name, **where):
            found[dict(labels).get(label, "")] += value
        return dict(found)

    def quantile(self, share: float, histogram: str, **where: str) -> float | None:
        """Of what was observed meanwhile, over all series of the histogram together; None if nothing was."""
        buckets = self.by("le", f"{histogram}_bucket", **where)
        return quantile(share, {float(bound): count for bound, count in buckets.items()})


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # the parser reads whole numbers as such
        return False


def _sum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        raise ValueError("a sum of metrics is more than a number can be") from None


def quantile(share: float, cumulative: Mapping[float, float]) -> float | None:
    """Upper bound -> how many are at most that much. Within a bucket evenly spread, as Prometheus takes it.

    What lies above the last finite bound counts as that bound.
    """
    bounds = sorted(cumulative)
    if not bounds or cumulative[bounds[-1]] <= 0:
        return None
    rank = share * cumulative[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= rank and cumulative[bound] > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * max(0.0, rank - below) / (cumulative[bound] - below)
        low, below = (low if math.isinf(bound) else bound), max(below, cumulative[bound])
    return low
