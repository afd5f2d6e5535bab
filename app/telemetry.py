"""The gateway's own metrics, in a registry of its own: two apps in one process do not share counters."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deployments.status import ModelState, ModelStatus

LATENCY_BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """Counters and gauges of one gateway process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        requests, by_route = "Requests answered; 499: the client left first.", ("route", "method", "status")
        self.requests = Counter("corral_gateway_requests", requests, by_route, registry=self.registry)
        self.latency = Histogram(
            "corral_gateway_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge("corral_gateway_in_flight", "Requests being answered now.", registry=self.registry)
        self.bulk_items = Counter("corral_bulk_items", "Bulk items done.", ("outcome",), registry=self.registry)
        states = "1 for the state a model is in, 0 for the others."
        self.model_state = Gauge("corral_model_state", states, ("model", "state"), registry=self.registry)
        self.model_replicas = Gauge("corral_model_replicas", "Replicas running.", ("model",), registry=self.registry)
        wanted = "Replicas that the autoscaler wants; fewer run while they start, or where there is no room."
        self.model_wanted = Gauge("corral_model_target_replicas", wanted, ("model",), registry=self.registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"
        self.requests.labels(route, known, str(status)).inc()
        self.latency.labels(route).observe(seconds)

    def models(self, statuses: Iterable[ModelStatus]) -> None:
        for gauge in (self.model_state, self.model_replicas, self.model_wanted):
            gauge.clear()  # a model may be there no more
        for status in statuses:
            self.model_replicas.labels(status.id).set(status.replicas)
            self.model_wanted.labels(status.id).set(status.target_replicas)
            for state in ModelState:
                self.model_state.labels(status.id, state.value).set(status.state is state)

    def forget_models(self) -> None:
        """Of others than before, perhaps: their states are told anew with the next `models`."""
        self.model_state.clear()
        self.model_replicas.clear()

    def exposition(self) -> str:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry).decode()
