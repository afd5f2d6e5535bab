"""Figures: two scrapes as what a person at a terminal wants to know of a service."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from app.access.tally import PROBE
from app.monitoring.scrape import Between, Scrape

EDGE_REASONS = {"401": "no_valid_key", "413": "body_too_large"}
"""Statuses with which the edge refuses by itself -> why."""


@dataclass(frozen=True)
class ModelFigures:
    """One model. What has no value yet, or no value now, is None: rates need two scrapes, quantiles an observation.

    running, waiting: requests in the engines, and before them. refused: requests in the interval.
    """

    model: str
    state: str
    replicas: int
    target_replicas: int
    running: int
    waiting: int
    prompt_tokens_per_s: float | None = None
    completion_tokens_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    itl_p95_s: float | None = None
    kv_cache: float | None = None
    preemptions: int | None = None
    refused: int | None = None


@dataclass(frozen=True)
class Figures:
    """The whole service. refusals: reason -> requests in the interval. ends: Unix time, of a job that has an end."""

    interval_s: float | None
    models: tuple[ModelFigures, ...]
    requests_per_s: float | None = None
    failed_per_s: float | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    ends: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def figures(before: Scrape | None, now: Scrape) -> Figures:
    """before: an earlier scrape of the same service."""
    between = Between(before, now) if before else None
    models = tuple(_model(model, between, now) for model in now.labels("corral_model_replicas", "model"))
    nodes = {dict(labels).get("state", ""): round(count) for labels, count in now.series("corral_job_nodes")}
    ends = now.most("corral_job_ends_timestamp_seconds")
    if between is None:
        return Figures(None, models, nodes=nodes, ends=ends)
    ended = _by_status(between)
    return Figures(
        interval_s=between.seconds,
        models=models,
        requests_per_s=math.fsum(ended.values()) / between.seconds,
        failed_per_s=math.fsum(count for status, count in ended.items() if status >= "5") / between.seconds,
        refusals=_refusals(between, ended),
        nodes=nodes,
        ends=ends,
    )


def _model(model: str, between: Between | None, now: Scrape) -> ModelFigures:
    states = (dict(labels).get("state", "") for labels, value in now.series("corral_model_state", model=model) if value)
    engine = {"corral_model": model}
    before_engine = now.total("corral_replica_requests", model=model, state="waiting")
    shown = ModelFigures(
        model=model,
        state=next(states, ""),
        replicas=round(now.total("corral_model_replicas", model=model)),
        target_replicas=round(now.total("corral_model_target_replicas", model=model)),
        running=round(now.total("vllm:num_requests_running", **engine)),
        waiting=round(now.total("vllm:num_requests_waiting", **engine) + before_engine),
        kv_cache=now.most("vllm:kv_cache_usage_perc", **engine),
    )
    return ModelFigures(**{**asdict(shown), **_rates(model, between)}) if between else shown


def _rates(model: str, between: Between) -> dict[str, Any]:
    engine = {"corral_model": model}
    ttft, itl = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
    return {
        "prompt_tokens_per_s": between.per_s("vllm:prompt_tokens_total", **engine),
        "completion_tokens_per_s": between.per_s("vllm:generation_tokens_total", **engine),
        "ttft_p50_s": between.quantile(0.5, ttft, **engine),
        "ttft_p95_s": between.quantile(0.95, ttft, **engine),
        "itl_p95_s": between.quantile(0.95, itl, **engine),
        "preemptions": round(between.increase("vllm:num_preemptions_total", **engine)),
        "refused": round(between.increase("corral_replica_refusals_total", model=model)),
    }


def _by_status(between: Between) -> dict[str, float]:
    """Status -> requests that ended at the address; those that only look, as this does, are none."""
    found: dict[str, float] = defaultdict(float)
    for labels, count in between.increases("corral_edge_requests_total"):
        told = dict(labels)
        if told.get("model") != PROBE:
            found[told.get("status", "")] += count
    return found


def _refusals(between: Between, ended: Mapping[str, float]) -> dict[str, int]:
    """By the keeper, the replicas and the edge."""
    found = Counter[str]()
    for name in ("corral_quota_refusals_total", "corral_replica_refusals_total"):
        for reason, count in between.by("reason", name).items():
            found[reason] += round(count)
    for status, reason in EDGE_REASONS.items():
        found[reason] += round(ended.get(status, 0))
    return {reason: count for reason, count in sorted(found.items()) if count}
