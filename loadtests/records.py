"""What a load test is made of: a Point that is measured, the Samples of its requests, the Measurement that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PERCENTILES = (50, 90, 95, 99)


class Fault(StrEnum):
    """Why a request gave no answer. Such a request is counted; its times are in no latency."""

    CONNECTION = "connection"
    """The endpoint refused, reset or did not resolve."""
    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    """429, or 503 with Retry-After: the endpoint said so."""
    REFUSED = "refused"
    """Any other 4xx."""
    SERVER = "server"
    """Any other 5xx, or an error event inside the stream."""
    BROKEN_STREAM = "broken_stream"
    """The stream ended before its last event."""
    EMPTY = "empty"
    """An answer without a single token."""
    UNREADABLE = "unreadable"
    """What came was not what OpenAI's protocol has."""


class Kind(StrEnum):
    """How users ask."""

    CHAT = "chat"
    """Streamed chat completions, timed token by token."""
    SINGLE = "single"
    """POST /generate, whole answers."""
    BULK = "bulk"
    TRIBUNAL = "tribunal"
    RAG = "rag"


ASK_SEVERAL = {Kind.TRIBUNAL, Kind.RAG}
"""Kinds of which one request is several models' work."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(Record):
    """One place of a sweep: what is asked and how hard. One of `concurrency` (closed loop) and `rate` is set."""

    model: str
    concurrency: int | None = Field(None, ge=1, description="requests in flight, each user asking again at once")
    rate: float | None = Field(None, gt=0, description="arrivals per second, Poisson")
    input_tokens: int = Field(128, ge=1)
    output_tokens: int = Field(128, ge=1)
    kind: Kind = Kind.CHAT
    own_lengths: bool = Field(False, description="the workload is a file, and the two lengths are not used")

    @property
    def load(self) -> str:
        """The load in words: `64 users` or `3.5/s`."""
        if self.concurrency is None:
            return f"{self.rate:g}/s"
        return f"{self.concurrency} user{'s' * (self.concurrency > 1)}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds on one monotonic clock, from the measurement's begin.

    `due_s` is when it should have been sent (open loop; else began_s): latencies count from there, so a client that
    falls behind cannot hide a queue. `times_s` are the arrivals of the events that carried text. A token count is None
    where the endpoint did not tell it. A request with a `fault` may have any of the others.
    """

    due_s: float
    began_s: float
    ended_s: float
    times_s: tuple[float, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    fault: Fault | None = None
    detail: str = ""
    """What the fault was, in at most 200 characters."""

    @property
    def ok(self) -> bool:
        return self.fault is None

    @property
    def ttft_s(self) -> float | None:
        return self.times_s[0] - self.due_s if self.times_s else None

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.due_s

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies."""
        return [later - earlier for earlier, later in zip(self.times_s, self.times_s[1:], strict=False)]

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, as vLLM's own bench has it; None for an answer of one token."""
        if not self.times_s or not self.output_tokens or self.output_tokens < 2:
            return None
        return (self.ended_s - self.times_s[0]) / (self.output_tokens - 1)


class Spread(Record):
    """A distribution in milliseconds. `curve` has 101 values: the percentiles 0, 1, ... 100, for a CDF."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    curve: tuple[float, ...] = ()


class Limits(Record):
    """What a request must keep to count as good. None: not asked."""

    ttft_ms: float | None = None
    itl_ms: float | None = Field(None, description="of the request's 95th percentile of inter-token latency")
    tpot_ms: float | None = None
    e2e_ms: float | None = None


class EngineFigures(Record):
    """What the engines said of themselves during a measurement (vLLM's /metrics); None where nothing was said."""

    running_mean: float | None = None
    running_max: float | None = None
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_cache_max: float | None = Field(None, description="share of the KV cache in use, 0 to 1, at most")
    queue_time_mean_ms: float | None = Field(None, description="time in the engine's waiting queue, mean of requests")
    prefix_queries: float | None = Field(None, description="tokens looked up in the prefix cache")
    prefix_hits: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None


class Figures(Record):
    """What a measurement comes to. Rates are per second of its window. Latencies are of requests without a fault."""

    requests: int
    failed: int
    faults: dict[str, int] = {}
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float | None = Field(None, description="None where the endpoint told no token counts")
    input_tokens_per_s: float | None = None
    output_tokens_per_s_per_gpu: float | None = None
    gpu_seconds_per_1k_tokens: float | None = Field(None, description="GPU-seconds per 1,000 output tokens")
    goodput_per_s: float | None = Field(None, description="requests per second that kept the limits")
    good_share: float | None = None
    ttft: Spread | None = None
    itl: Spread | None = None
    tpot: Spread | None = None
    e2e: Spread | None = None
    late: Spread | None = Field(None, description="open loop: how late the client itself sent, ms")
    engine: EngineFigures | None = None


class RequestRow(Record):
    """One request in the kept record, for timelines; milliseconds from the measurement's begin."""

    began: float
    ttft: float | None = Field(None, description="first token, from `began`")
    ended: float
    tokens: int | None = None
    fault: str | None = None


class Measurement(Record):
    """One point, measured once on one side."""

    side: str = Field("", description="name of the endpoint: 'corral', or the other one of a comparison")
    point: Point
    repeat: int = Field(ge=0)
    began_at: str = Field(description="UTC, ISO 8601")
    figures: Figures
    rows: tuple[RequestRow, ...] = ()
    notices: tuple[str, ...] = Field((), description="what is missing or doubtful, in words")


class Side(Record):
    """An endpoint that is measured."""

    name: str
    url: str
    gpus: float | None = Field(None, description="GPUs behind a model that gpus_of does not name, None: not known")
    gpus_of: dict[str, float] = Field({}, description="GPUs behind each model of which that is known")
    server: str = Field("", description="what it says it is: version, engine")
    models: tuple[str, ...] = ()
    plain_models: tuple[str, ...] = Field((), description="these refuse vLLM's own fields, such as ignore_eos")
    contexts: dict[str, int] = Field({}, description="tokens that a model takes, where it was told")
    certificate: str = Field("", description="file that an https address is trusted by, where no authority says so")

    def gpus_behind(self, point: Point) -> float | None:
        """The GPUs that answer a point's requests; None if not known, and for kinds that ask several models."""
        if point.kind in ASK_SEVERAL:
            return None
        return self.gpus_of.get(point.model, self.gpus)


class Calibration(Record):
    """How words become tokens with one model."""

    words_per_token: float = Field(gt=0)
    template_tokens: int = Field(0, ge=0, description="what its chat template adds to each prompt")


class Plan(Record):
    """What a run sets out to measure, written down before it begins; with it a run can be resumed."""

    sides: tuple[Side, ...]
    points: tuple[Point, ...]
    repeats: int = Field(3, ge=1)
    requests_per_user: int = Field(6, ge=1, description="closed loop: requests for each place of the concurrency")
    min_requests: int = Field(16, ge=1)
    max_seconds: float = Field(120, gt=0, description="no measurement is longer")
    timeout_s: float = Field(600, gt=0, description="of one request")
    warmup_requests: int = Field(2, ge=0, description="for each place of the concurrency, not measured")
    seed: int = 1
    workload: str = Field("random", description="'random', or the path of a ShareGPT-format file")
    calibrations: dict[str, Calibration] = Field({}, description="of the models; one not here is asked each time")
    temperature: float = 0.0
    limits: Limits = Limits()
    stop: Literal["saturation", "never"] = "saturation"
    title: str = ""


class Machine(Record):
    """Where it ran. Nothing in it names a person or a host's address."""

    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...] = ()
    driver: str = ""
    system: str = ""
    python: str = ""
    versions: dict[str, str] = {}
    same_machine: bool = Field(False, description="client and endpoint share it")


class RunRecord(Record):
    """The head of a run's folder: run.json. The measurements follow in measurements.jsonl, a line each."""

    schema_: Literal["corral-bench/1"] = Field("corral-bench/1", alias="schema")
    plan: Plan
    machine: Machine
    began_at: str
    ended_at: str | None = None
    ended_because: str = Field("", description="why it ended before everything was measured; empty if it did not")
    configuration: dict[str, object] = Field({}, description="the service's profile or the engine's arguments")
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run as it lies in its folder."""

    record: RunRecord
    measurements: Sequence[Measurement] = field(default_factory=tuple)

    def of(self, point: Point, side: str) -> list[Measurement]:
        """The repeats of one point on one side, in order."""
        return list(self.grouped.get((point, side), ()))

    @cached_property
    def grouped(self) -> dict[tuple[Point, str], list[Measurement]]:
        """The repeats by point and side, in order."""
        found: dict[tuple[Point, str], list[Measurement]] = {}
        for each in sorted(self.measurements, key=lambda each: each.repeat):
            found.setdefault((each.point, each.side), []).append(each)
        return found


@dataclass(frozen=True)
class Driven:
    """What a driver brings back from one measurement, before anything is computed from it."""

    samples: tuple[Sample, ...]
    seconds: float
    """From the first request that was due to the last end, warm-up apart."""
    began_at: str
    engine: EngineFigures | None = None
    notices: tuple[str, ...] = ()


class Interval(Record):
    """A figure over repeats with its 95 % interval; `low` and `high` are None for a single repeat."""

    value: float
    low: float | None = None
    high: float | None = None
    repeats: int = 1


class Aggregate(Record):
    """One point on one side over its repeats. `figures` by name, the names of loadtests.sweep.aggregate.FIGURES."""

    side: str
    point: Point
    figures: dict[str, Interval]
    requests: int
    failed: int
    faults: dict[str, int] = {}
    notices: tuple[str, ...] = ()


class Ratio(Record):
    """One figure of one point on two sides that were measured in turn: the median of the repeats' ratios."""

    point: Point
    figure: str
    ours: float
    other: float
    ratio: Interval


class Difference(Record):
    """The same as a difference in the figure's unit, ours less the other's; also where the other side's is 0."""

    point: Point
    figure: str
    difference: Interval


class Saturation(Record):
    """Where a model's throughput stops to grow, and how many users it holds under the limits."""

    side: str
    model: str
    kind: Kind = Kind.CHAT
    input_tokens: int
    output_tokens: int
    own_lengths: bool = False
    concurrency: int | None = Field(
        description="fewest users with at least 95 % of the most output tokens/s; None if only the most users had that"
    )
    output_tokens_per_s: float | None = Field(None, description="the most there was")
    holds: int | None = Field(
        None, description="most users of whom 99 % of requests kept the limits; 0: not even the fewest; None: no limits"
    )
    limits: Limits = Limits()
    sentence: str = Field("", description="for people: 'holds 64 concurrent users under 50 ms ITL p95'")
