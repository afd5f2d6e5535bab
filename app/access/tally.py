"""Tally: the metrics of the one address, which sees every request and its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.telemetry import LATENCY_BUCKETS_S

ADMISSION_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2)
PROBE, PROBED = "(probe)", ("/health/", "/ready/", "/metrics/", "/v1/usage/")
"""Who asks there looks at the service; a 503 of /ready is no failure, and a hundred such requests no load."""
STAGES = {"queue": "queue_ms", "connect": "connect_ms", "first_byte": "first_byte_ms", "total": "total_ms"}
"""Stage -> its field in the edge's log line."""


class Tally:
    """A registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ended = "Requests that ended at the address, by status and model: - is the gateway, (probe) who only looks."
        stages = "Where the time of a request went: in the edge's queue, to a connection, to the first byte, in all."
        self._ended = Counter("corral_edge_requests", ended, ("model", "status"), registry=self.registry)
        self._seconds = Histogram(
            "corral_edge_seconds", stages, ("model", "stage"), buckets=LATENCY_BUCKETS_S, registry=self.registry
        )
        decided = "How long the keeper took to say whether a request is served."
        self.admission = Histogram(
            "corral_admission_seconds", decided, buckets=ADMISSION_BUCKETS_S, registry=self.registry
        )
        refused = "Requests that their key was refused, by reason."
        self._refused = Counter("corral_quota_refusals", refused, ("reason",), registry=self.registry)
        tokens = "Tokens that the engines took (prompt) and gave (completion)."
        self._tokens = Counter("corral_tokens", tokens, ("model", "kind"), registry=self.registry)

    def ended(self, line: Mapping[str, Any], status: int) -> None:
        """line: the edge's, as JSON. Times of -1 are of stages that a request did not come to."""
        path = f"{line.get('path', '')}/"
        model = PROBE if path.startswith(PROBED) else str(line["model"])
        self._ended.labels(model, str(status)).inc()
        for stage, name in STAGES.items():
            spent_ms = float(line.get(name, -1))
            if spent_ms >= 0:
                self._seconds.labels(model, stage).observe(spent_ms / 1000)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def tokens(self, model: str, prompt: int, answer: int) -> None:
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "completion").inc(answer)

    def exposition(self) -> str:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry).decode()
