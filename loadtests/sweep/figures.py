"""What the requests of one measurement come to: Driven -> Figures.

The one definition of a percentile is numpy's linear one, which vLLM's bench has too. A request with a fault is counted
and enters no latency, no token count and no goodput.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from loadtests.records import (
    Driven,
    Fault,
    Figures,
    Limits,
    Measurement,
    Point,
    RequestRow,
    Sample,
    Side,
    Spread,
)

PLACES = 3
"""Decimals of a kept millisecond: microseconds."""
LATE_MS = 10.0
"""A client whose 95th percentile of lateness is above this is told to be the bottleneck."""
TOKENS_PER_EVENT = 1.5
"""Above this, the gaps between events are told not to be gaps between tokens."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile in the values' own unit; of nothing, ValueError."""
    if not values:
        raise ValueError("no percentile of nothing")
    return float(np.percentile(np.asarray(values, dtype=float), percent))


def spread_of(seconds: Sequence[float]) -> Spread | None:
    """Seconds -> a distribution in milliseconds to the microsecond; None for no values."""
    if not seconds:
        return None
    values = np.asarray(seconds, dtype=float) * 1000
    curve = tuple(float(each) for each in np.percentile(values, np.arange(101)).round(PLACES))
    mean = round(float(values.mean()), PLACES)
    return Spread(count=values.size, mean=mean, p50=curve[50], p90=curve[90], p95=curve[95], p99=curve[99], curve=curve)


def kept(sample: Sample, limits: Limits) -> bool:
    """Whether a request had no fault and kept every limit that is set; with none set, every one without a fault did.

    An answer that came whole shows its first token at its end, and is held to the TTFT limit there. One token, or one
    event, has no time between tokens: it keeps those limits. A token count that was not told keeps no TPOT limit.
    """
    if not sample.ok:
        return False
    ttft_s = sample.e2e_s if sample.ttft_s is None else sample.ttft_s
    gaps = sample.gaps_s
    return (
        _within(ttft_s, limits.ttft_ms)
        and _within(sample.e2e_s, limits.e2e_ms)
        and (limits.itl_ms is None or not gaps or _within(percentile(gaps, 95), limits.itl_ms))
        and (limits.tpot_ms is None or _tpot_kept(sample, limits.tpot_ms))
    )


def _within(seconds: float, limit_ms: float | None) -> bool:
    return limit_ms is None or seconds * 1000 <= limit_ms


def _tpot_kept(sample: Sample, limit_ms: float) -> bool:
    if sample.tpot_s is not None:
        return _within(sample.tpot_s, limit_ms)
    return not sample.times_s or sample.output_tokens is not None


def figures_of(driven: Driven, *, limits: Limits, gpus: float | None) -> Figures:
    """All figures of one measurement. `gpus`: those behind the endpoint, None or 0 for no figure per GPU.

    A rate is over the whole window and counts requests without a fault; where any of them told no token count, the
    tokens per second are None. `late` is of all requests, as it is the client's own, and None if none was late.
    """
    good = [each for each in driven.samples if each.ok]
    held = sum(kept(each, limits) for each in good)
    rate = _per_second(_total([each.output_tokens for each in good]), driven.seconds)
    late = [each.began_s - each.due_s for each in driven.samples]
    return Figures(
        requests=len(driven.samples),
        failed=len(driven.samples) - len(good),
        faults=_faults(driven.samples),
        seconds=driven.seconds,
        requests_per_s=_per_second(len(good), driven.seconds) or 0.0,
        output_tokens_per_s=rate,
        input_tokens_per_s=_per_second(_total([each.input_tokens for each in good]), driven.seconds),
        output_tokens_per_s_per_gpu=rate / gpus if gpus and rate is not None else None,
        gpu_seconds_per_1k_tokens=1000 * gpus / rate if gpus and rate else None,
        goodput_per_s=_per_second(held, driven.seconds),
        good_share=held / len(driven.samples) if driven.samples else None,
        ttft=spread_of([each.ttft_s for each in good if each.ttft_s is not None]),
        itl=spread_of(list(chain.from_iterable(each.gaps_s for each in good))),
        tpot=spread_of([each.tpot_s for each in good if each.tpot_s is not None]),
        e2e=spread_of([each.e2e_s for each in good]),
        late=spread_of(late) if any(each > 0 for each in late) else None,
        engine=driven.engine,
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """None if any count was not told: a sum of the others would be a guess."""
    told = [each for each in counts if each is not None]
    return sum(told) if len(told) == len(counts) else None


def _per_second(count: int | None, seconds: float) -> float | None:
    """Of a window without length, nothing per second."""
    if count is None:
        return None
    return count / seconds if seconds > 0 else 0.0


def _faults(samples: Sequence[Sample]) -> dict[str, int]:
    counts = Counter(each.fault for each in samples if each.fault is not None)
    return {fault.value: counts[fault] for fault in Fault if counts[fault]}


def rows_of(driven: Driven) -> tuple[RequestRow, ...]:
    """A row for each request, in order of their beginning.

    `began` and `ended` are milliseconds from the measurement's begin; `ttft` is how long after `began` the first token
    came, also where the request was sent late, and None for a request with a fault.
    """
    return tuple(_row(each) for each in sorted(driven.samples, key=lambda each: each.began_s))


def _row(sample: Sample) -> RequestRow:
    ttft_s = sample.times_s[0] - sample.began_s if sample.ok and sample.times_s else None
    return RequestRow(
        began=round(sample.began_s * 1000, PLACES),
        ttft=None if ttft_s is None else round(ttft_s * 1000, PLACES),
        ended=round(sample.ended_s * 1000, PLACES),
        tokens=sample.output_tokens,
        fault=sample.fault.value if sample.fault else None,
    )


def measurement_of(driven: Driven, *, side: Side, point: Point, repeat: int, limits: Limits) -> Measurement:
    """What is kept of one measurement, with what is doubtful about it in words beside what the driver told."""
    figures = figures_of(driven, limits=limits, gpus=side.gpus_behind(point))
    return Measurement(
        side=side.name,
        point=point,
        repeat=repeat,
        began_at=driven.began_at,
        figures=figures,
        rows=rows_of(driven),
        notices=(*driven.notices, *_notices(driven, figures)),
    )


def _notices(driven: Driven, figures: Figures) -> list[str]:
    good = [each for each in driven.samples if each.ok]
    told = [_events(good), _late(figures.late)]
    if not driven.samples:
        told.append("no request ended in this measurement: there is nothing to compute from")
    return [*(each for each in told if each), *_details(driven.samples)]


def _events(good: Sequence[Sample]) -> str | None:
    """Whether inter-token latencies are between events of several tokens, which a reader cannot see in them."""
    streamed = [each for each in good if len(each.times_s) > 1 and each.output_tokens]
    events = sum(len(each.times_s) for each in streamed)
    tokens = sum(each.output_tokens or 0 for each in streamed)
    if not events or tokens / events <= TOKENS_PER_EVENT:
        return None
    return f"an event carried {tokens / events:.1f} tokens on average: ITL is the time between events, not tokens"


def _late(late: Spread | None) -> str | None:
    if late is None or late.p95 <= LATE_MS:
        return None
    return f"the client itself sent late (95th percentile {late.p95:.0f} ms): latencies contain that"


def _details(samples: Sequence[Sample]) -> list[str]:
    """The first request of every fault in its own words: the rows do not keep them."""
    first = {each.fault: each.detail for each in reversed(samples) if each.fault is not None and each.detail}
    return [f"first {fault.value}: {first[fault]}" for fault in Fault if fault in first]
