"""The columns of the tables of points: how each is read, and why it may be missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loadtests.client.engine import UNREAD
from loadtests.records import ASK_SEVERAL, Aggregate, EngineFigures
from loadtests.report import words
from loadtests.report.document import Column

LATENCIES = {"ttft": "TTFT, ms", "itl": "ITL, ms", "tpot": "TPOT, ms", "e2e": "End to end, ms"}
PERCENTILES = ("p50", "p90", "p95", "p99")
SPANNED = {f"{name}_{part}" for name in ("ttft", "itl", "e2e") for part in ("p50", "p95")}
"""Of the latencies these have their intervals: with all sixteen nobody would find a figure."""

KV_CACHE = "KV cache in use, most"
GAUGES = ("Running", "Waiting", KV_CACHE)
"""Of the engine's figures: read meanwhile, not counted."""

NO_ANSWER = "No request of this point was answered, so there is nothing to time."
NO_GPUS = "How many GPUs are behind the model is not known."
NO_GPU = "There is no GPU behind the model."
SEVERAL = "A request of this kind is the work of several models, so there is no figure per GPU."
NO_TOKENS = "The endpoint did not tell how many tokens it gave."
NO_ENGINE = "The engine's own metrics could not be read."
NO_LOOKUP = "The engine looked nothing up in its prefix cache."
NO_FIGURE = "The endpoint did not tell this."
NO_TEXT = "The answers came whole, not token by token."


@dataclass(frozen=True)
class Measured:
    """One row: a point on one side."""

    aggregate: Aggregate
    repeats: int
    engine: EngineFigures | None
    gpus: float | None
    """Behind the point's model; None if that is not known."""


@dataclass(frozen=True)
class Figure:
    """A column. `hints` are words of the notices that say why it is missing, `why` is said where no notice does."""

    column: Column
    read: Callable[[Measured], str]
    why: str = NO_FIGURE
    hints: tuple[str, ...] = ()


def reasons(figure: Figure, row: Measured) -> list[str]:
    """Why a figure is missing."""
    each = row.aggregate
    if each.failed == each.requests and figure.why != NO_ENGINE:
        return [NO_ANSWER]
    if figure.why == NO_GPUS and not row.gpus:
        return [_no_gpus(row)]
    told = [one for one in each.notices if any(hint in one.lower() for hint in figure.hints)]
    if figure.why == NO_ENGINE and row.engine:
        unread = [one for one in told if UNREAD in one and (figure.column.group or figure.column.label) in GAUGES]
        return unread or [NO_LOOKUP if figure.column.label == "Prefix hits" else NO_FIGURE]
    return told or [NO_TOKENS if figure.why == NO_GPUS else figure.why]


def _no_gpus(row: Measured) -> str:
    if row.aggregate.point.kind in ASK_SEVERAL:
        return SEVERAL
    return NO_GPUS if row.gpus is None else NO_GPU


def throughput(limits: bool) -> list[Figure]:
    """`limits`: whether any were stated, as without them there is no goodput."""
    token = ("token count", "tokens per second")
    return [
        Figure(Column("Repeats"), lambda row: str(row.repeats)),
        Figure(Column("Requests"), lambda row: f"{row.aggregate.requests:,}"),
        Figure(Column("Failed"), _failed),
        Figure(Column("Requests/s"), _spanned("requests_per_s")),
        Figure(Column("Output tokens/s"), _spanned("output_tokens_per_s"), NO_TOKENS, token),
        Figure(Column("Output tokens/s per GPU"), _spanned("output_tokens_per_s_per_gpu"), NO_GPUS, token),
        Figure(Column("GPU-seconds per 1,000 tokens"), _spanned("gpu_seconds_per_1k_tokens"), NO_GPUS, token),
        *(_goodput() if limits else ()),
    ]


def _goodput() -> list[Figure]:
    return [
        Figure(Column("Goodput, requests/s"), _spanned("goodput_per_s")),
        Figure(Column("Kept the limits"), _valued("good_share", words.share)),
    ]


def latencies() -> list[Figure]:
    why = {"ttft": NO_TEXT, "itl": NO_TEXT, "tpot": NO_TOKENS}
    hints = {"tpot": ("token count",)}
    return [
        Figure(Column(part, label), _latency(f"{name}_{part}"), why.get(name, NO_FIGURE), hints.get(name, ()))
        for name, label in LATENCIES.items()
        for part in PERCENTILES
    ]


def _latency(name: str) -> Callable[[Measured], str]:
    return _spanned(name) if name in SPANNED else _valued(name, words.number)


def engine() -> list[Figure]:
    columns = [
        (Column("Mean time in its queue"), _told(lambda one: one.queue_time_mean_ms, words.time)),
        (Column("mean", "Running"), _told(lambda one: one.running_mean, words.whole)),
        (Column("most", "Running"), _told(lambda one: one.running_max, words.whole)),
        (Column("mean", "Waiting"), _told(lambda one: one.waiting_mean, words.whole)),
        (Column("most", "Waiting"), _told(lambda one: one.waiting_max, words.whole)),
        (Column(KV_CACHE), _told(lambda one: one.kv_cache_max, words.share)),
        (Column("Prefix hits"), _told(prefix_share, words.share)),
        (Column("Preemptions"), _told(lambda one: one.preemptions, words.whole)),
    ]
    return [Figure(column, read, NO_ENGINE, ("engine figures", "/metrics")) for column, read in columns]


def prefix_share(engine: EngineFigures) -> float | None:
    """Tokens found in the prefix cache, of those looked up."""
    if not engine.prefix_queries or engine.prefix_hits is None:
        return None
    return engine.prefix_hits / engine.prefix_queries


def engine_of(repeats: Iterable[EngineFigures | None]) -> EngineFigures | None:
    """Over the repeats: the most of what is a most, the mean of what is a mean, the sum of what is counted."""
    told = [each for each in repeats if each is not None]
    if not told:
        return None
    found: dict[str, float | None] = {}
    for name in EngineFigures.model_fields:
        values = [value for each in told if (value := getattr(each, name)) is not None]
        found[name] = _over(name, values) if values else None
    return EngineFigures(**found)


def _over(name: str, values: list[float]) -> float:
    if name.endswith("_max"):
        return max(values)
    return sum(values) / len(values) if "_mean" in name else sum(values)


def _spanned(name: str) -> Callable[[Measured], str]:
    def read(row: Measured) -> str:
        found = row.aggregate.figures.get(name)
        return words.MISSING if found is None else words.span(found)

    return read


def _valued(name: str, told: Callable[[float], str]) -> Callable[[Measured], str]:
    """Its value alone."""

    def read(row: Measured) -> str:
        found = row.aggregate.figures.get(name)
        return words.MISSING if found is None else told(found.value)

    return read


def _told(
    of: Callable[[EngineFigures], float | None], told: Callable[[float], str] = words.number
) -> Callable[[Measured], str]:
    def read(row: Measured) -> str:
        found = of(row.engine) if row.engine else None
        return words.MISSING if found is None else told(found)

    return read


def _failed(row: Measured) -> str:
    each = row.aggregate
    return f"{each.failed:,} ({words.faults(each.faults)})" if each.failed else "0"
