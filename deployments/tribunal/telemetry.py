"""Metrics of tribunals: their runs, how they ended, and the steps that they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deployments.tribunal.events import EventType

BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
Observer = Callable[[EventType, Mapping[str, Any]], None]
"""Is told every event of one run."""


class TribunalTelemetry:
    """A registry of its own. A tribunal is one of the profile's, or the one name of those that requests bring along."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        ended = "Runs that ended, by outcome: answered, or why there was no answer."
        self._runs = Counter("corral_tribunal_runs", ended, ("tribunal", "outcome"), registry=self.registry)
        self._seconds = Histogram(
            "corral_tribunal_run_seconds", "From the start of a run to its end.", ("tribunal",), buckets=BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self._live = Gauge("corral_tribunal_runs_in_progress", "Runs at work now.", registry=self.registry)
        self._steps = Histogram(
            "corral_tribunal_step_seconds", "One call of one model, by what it was for.", ("kind",), buckets=BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        lost = "Steps without a result: a member that abstained, or that could not be asked."
        self._lost = Counter("corral_tribunal_steps_without_result", lost, ("kind",), registry=self.registry)
        absent = "Members that could not be heard in a run."
        self._absent = Counter("corral_tribunal_absent_members", absent, ("tribunal",), registry=self.registry)

    def run(self, tribunal: str) -> Observer:
        """Follows a run that begins now to its last event."""
        began = self._clock()
        self._live.inc()

        def told(kind: EventType, data: Mapping[str, Any]) -> None:
            match kind:
                case EventType.DRAFT_DONE | EventType.REVIEW_DONE:
                    self._step(data)
                case EventType.MEMBER_ABSENT:
                    self._absent.labels(tribunal).inc()
                case EventType.RESULT | EventType.ERROR:
                    self._live.dec()
                    outcome = "answered" if kind is EventType.RESULT else str(data["error"]["code"])
                    self._runs.labels(tribunal, outcome).inc()
                    self._seconds.labels(tribunal).observe(self._clock() - began)

        return told

    def _step(self, data: Mapping[str, Any]) -> None:
        kind = str(data["kind"])
        self._steps.labels(kind).observe(data["seconds"])
        if data.get("abstained"):
            self._lost.labels(kind).inc()

    def exposition(self) -> str:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry).decode()
