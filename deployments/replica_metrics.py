"""What a replica tells beside vLLM's own metrics: its waiting room, its bulk items, and usage not yet reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.turns import Snapshot


@dataclass(frozen=True)
class ReplicaCounts:
    """At one moment. bulk_inside, bulk_waiting: items in the engine, and before it. unsent: tokens."""

    room: Snapshot
    bulk_inside: int
    bulk_waiting: int
    unsent: int


class ReplicaMetrics(Collector):
    """Reads the counts anew for each scrape; of keys it tells nothing, for there may be any number of them."""

    def __init__(self, counts: Callable[[], ReplicaCounts]) -> None:
        self._counts = counts
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self) -> str:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry).decode()

    def describe(self) -> Iterator[Metric]:
        """Without it a registry would collect when it is made."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        now = self._counts()
        room = now.room
        requests = "Interactive requests: inside are those that the engine may run, waiting those before their turn."
        yield _by_state("corral_replica_requests", requests, room.inside, room.waiting)
        items = "Bulk items: inside are those in the engine, waiting those that make way for people."
        yield _by_state("corral_replica_bulk_items", items, now.bulk_inside, now.bulk_waiting)
        yield _count("corral_replica_turns", "Interactive requests that had their turn.", room.began)
        yield _count("corral_replica_turn_wait_seconds", "Seconds that they waited for it, together.", room.waited_s)
        refusals = CounterMetricFamily(
            "corral_replica_refusals", "Requests that had no turn, by reason.", labels=("reason",)
        )
        refusals.add_metric(("queue_full",), room.refused)
        refusals.add_metric(("deadline_exceeded",), room.expired)
        yield refusals
        unsent = "Tokens used that the keeper has not counted yet; they stay here while it is away."
        yield GaugeMetricFamily("corral_replica_unreported_tokens", unsent, value=now.unsent)


def _by_state(name: str, text: str, inside: int, waiting: int) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("state",))
    family.add_metric(("inside",), inside)
    family.add_metric(("waiting",), waiting)
    return family


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
