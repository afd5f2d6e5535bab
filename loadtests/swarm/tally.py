"""What became of a request, in Locust's own statistics; so its page, its files and its workers all have it.

A kind has these rows, told apart by their type:

    E2E      time to the end; Locust's `request` event is fired for these alone, and only these are in `Aggregated`.
             The size of an answer is its output tokens.
    TTFT     time to first token
    ITL      inter-token latency, one value for each gap
    TOKENS   output tokens: requests/s are tokens/s. A failure is an answer that did not tell how many it has.
    GOOD     requests that kept the limits: requests/s are the goodput
    CUT      requests that were under way when their user was stopped
    SILENT   those of them of which nothing had come for 10 s and more
    DECLINED answers from documents that tell nothing about the question, so that no model was asked

A request with a fault is counted as a failure of E2E, with the Fault as its name, and has no time in any row.

Gaps go into their row in one go: an event for each token took 3.3 us of processor time, log_request 2 to 3, this 0.5,
half of it for three digits instead of Locust's two.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from loadtests.records import Fault, Kind, Limits, Sample
from loadtests.sweep.figures import kept

SILENT_S = 10.0
"""A request without any text for so long may have none coming."""


class Row(StrEnum):
    """The type of a row."""

    E2E = "E2E"
    TTFT = "TTFT"
    ITL = "ITL"
    TOKENS = "TOKENS"
    GOOD = "GOOD"
    CUT = "CUT"
    SILENT = "SILENT"
    DECLINED = "DECLINED"


class Failed(Exception):
    """The failure that Locust counts; its name is the fault's."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)

    def __repr__(self) -> str:
        return str(self)


class Entry(Protocol):
    """What is needed of a row of Locust's."""

    num_requests: int
    num_none_requests: int
    num_failures: int
    total_response_time: float
    min_response_time: float | None
    max_response_time: float
    last_request_timestamp: float | None
    num_reqs_per_sec: dict[int, int]
    response_times: dict[float, int]

    def log(self, response_time: float | None, content_length: int) -> None: ...

    def log_error(self, error: object) -> None: ...


class Rows(Protocol):
    """Locust's statistics."""

    def get(self, name: str, method: str) -> Entry: ...


class Hook(Protocol):
    """One of Locust's events."""

    def fire(self, **details: Any) -> None: ...

    def add_listener(self, handler: Any) -> object: ...


def three_digits(milliseconds: float) -> float:
    """The bucket of a time. Locust has two digits and whole milliseconds, which is coarse for a token."""
    if milliseconds < 10:
        return round(milliseconds, 2)
    if milliseconds < 100:
        return round(milliseconds, 1)
    whole = round(milliseconds)
    return float(round(whole, 3 - len(str(whole))))


class Tally:
    """Writes samples into the rows."""

    def __init__(self, rows: Rows, request: Hook, limits: Limits) -> None:
        self._rows, self._request, self._limits = rows, request, limits

    def record(self, kind: Kind, sample: Sample) -> None:
        """A request that has ended."""
        self._request.fire(
            request_type=Row.E2E.value,
            name=kind.value,
            response_time=sample.e2e_s * 1000 if sample.ok else None,
            response_length=(sample.output_tokens or 0) if sample.ok else 0,
            exception=Failed(sample.fault) if sample.fault else None,
            context={},
            sample=sample,
        )
        if sample.ok:
            self._answered(kind, sample)

    def cut(self, kind: Kind, silent_s: float) -> None:
        """A request that was ended from outside, when nothing had come of it for so long."""
        add_count(self._row(kind, Row.CUT), 1)
        if silent_s >= SILENT_S:
            add_count(self._row(kind, Row.SILENT), 1)

    def declined(self, kind: Kind) -> None:
        add_count(self._row(kind, Row.DECLINED), 1)

    def _answered(self, kind: Kind, sample: Sample) -> None:
        if sample.ttft_s is not None:
            add_times(self._row(kind, Row.TTFT), [sample.ttft_s * 1000])
        if gaps_s := sample.gaps_s:
            add_times(self._row(kind, Row.ITL), [1000 * gap for gap in gaps_s])
        if sample.output_tokens is None:
            self._row(kind, Row.TOKENS).log_error(None)
        else:
            add_count(self._row(kind, Row.TOKENS), sample.output_tokens)
        if kept(sample, self._limits):
            add_count(self._row(kind, Row.GOOD), 1)

    def _row(self, kind: Kind, row: Row) -> Entry:
        return self._rows.get(kind.value, row.value)


def add_times(entry: Entry, times_ms: Sequence[float]) -> None:
    """As if each were logged by itself; at least one."""
    first, *rest = times_ms
    entry.log(first, 0)  # which also sees to what is kept by the second
    if not rest:
        return
    _more(entry, len(rest))
    entry.total_response_time += sum(rest)
    entry.min_response_time = min(min(rest), first if entry.min_response_time is None else entry.min_response_time)
    entry.max_response_time = max(entry.max_response_time, max(rest))
    buckets = entry.response_times
    for each in rest:
        buckets[three_digits(each)] += 1


def add_count(entry: Entry, count: int) -> None:
    """So many requests without a time."""
    if count:
        entry.log(None, 0)
        _more(entry, count - 1)
        entry.num_none_requests += count - 1


def _more(entry: Entry, count: int) -> None:
    entry.num_requests += count
    entry.num_reqs_per_sec[int(entry.last_request_timestamp or 0)] += count
