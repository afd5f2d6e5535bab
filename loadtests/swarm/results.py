"""From Locust's rows to figures: what a load comes to, for each kind and for all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from loadtests.records import Fault, Figures, Kind, Spread
from loadtests.swarm.tally import SILENT_S, Entry, Row
from loadtests.sweep.figures import PLACES

ALL = "all"
Rows = Mapping[tuple[str, str], Entry]
"""(name, type) -> row, as Locust keeps them."""
Errors = Iterable[tuple[str, str, str, int]]
"""Type, name, failure and how often."""


@dataclass
class Totals:
    """Rows of one type, added up."""

    requests: int = 0
    failures: int = 0
    total_ms: float = 0.0
    buckets: Counter[float] = field(default_factory=Counter)

    @classmethod
    def of(cls, rows: Rows, kinds: Iterable[str], row: Row) -> Totals:
        totals = cls()
        for kind in kinds:
            if entry := rows.get((kind, row.value)):
                totals.requests += entry.num_requests
                totals.failures += entry.num_failures
                totals.total_ms += entry.total_response_time
                totals.buckets.update(entry.response_times)
        return totals

    @property
    def spread(self) -> Spread | None:
        return spread_of_buckets(self.buckets, self.total_ms)


@dataclass(frozen=True)
class Outcome:
    """A load's figures by kind, and what is missing or doubtful about them in words."""

    figures: Mapping[str, Figures]
    notices: tuple[str, ...]


def outcome_of(rows: Rows, errors: Errors, seconds: float) -> Outcome:
    """`seconds`: from the begin of the load to the last answer. `all` is there if any request was."""
    seen = [kind.value for kind in Kind if (kind.value, Row.E2E.value) in rows]
    told = list(errors)
    figures = {kind: _figures(rows, [kind], told, seconds) for kind in seen}
    if seen:
        figures[ALL] = _figures(rows, seen, told, seconds)
    return Outcome(figures, tuple(_notices(rows)))


def spread_of_buckets(buckets: Mapping[float, int], total_ms: float) -> Spread | None:
    """Milliseconds -> how often. Percentiles are linear, as everywhere here; of values with three digits."""
    count = sum(buckets.values())
    if not count:
        return None
    values = np.asarray(sorted(buckets), dtype=float)
    upto = np.cumsum([buckets[value] for value in values])
    ranks = np.arange(101) / 100 * (count - 1)
    low, high = (values[np.searchsorted(upto, rank, side="right")] for rank in (np.floor(ranks), np.ceil(ranks)))
    curve = tuple(float(each) for each in (low + (high - low) * (ranks - np.floor(ranks))).round(PLACES))
    mean = round(total_ms / count, PLACES)
    return Spread(count=count, mean=mean, p50=curve[50], p90=curve[90], p95=curve[95], p99=curve[99], curve=curve)


def _figures(rows: Rows, kinds: list[str], errors: Errors, seconds: float) -> Figures:
    asked, tokens, good = (Totals.of(rows, kinds, row) for row in (Row.E2E, Row.TOKENS, Row.GOOD))
    return Figures(
        requests=asked.requests,
        failed=asked.failures,
        faults=_faults(errors, kinds),
        seconds=round(seconds, PLACES),
        requests_per_s=_per_second(asked.requests - asked.failures, seconds),
        output_tokens_per_s=None if tokens.failures else _per_second(tokens.requests, seconds),
        goodput_per_s=_per_second(good.requests, seconds),
        good_share=good.requests / asked.requests if asked.requests else None,
        ttft=Totals.of(rows, kinds, Row.TTFT).spread,
        itl=Totals.of(rows, kinds, Row.ITL).spread,
        e2e=asked.spread,
    )


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _faults(errors: Errors, kinds: list[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row, name, failure, often in errors:
        if row == Row.E2E and name in kinds:
            counts[failure] += often
    return {fault.value: counts[fault.value] for fault in Fault if counts[fault.value]}


def _notices(rows: Rows) -> Iterable[str]:
    if not any(row == Row.E2E for _, row in rows):
        yield "no request ended: there is nothing to compute from"
    for kind in Kind:
        asked, tokens, cut, silent, declined = (
            Totals.of(rows, [kind.value], row) for row in (Row.E2E, Row.TOKENS, Row.CUT, Row.SILENT, Row.DECLINED)
        )
        answers = asked.requests - asked.failures
        if tokens.failures:
            yield f"{kind}: {tokens.failures} of {answers} answers told no token count: no tokens per second"
        if cut.requests:
            yield f"{kind}: {cut.requests} requests were cut off as their users were stopped; they do not count"
        if silent.requests:
            yield (
                f"{kind}: of {silent.requests} of the {cut.requests} that were cut off nothing had come for "
                f"{SILENT_S:g} s and more: the endpoint may hang"
            )
        if declined.requests:
            yield (
                f"{kind}: {declined.requests} of {answers} answers were refusals: the documents tell nothing about "
                "such questions, and no model was asked; give --workload a file of questions about them"
            )
