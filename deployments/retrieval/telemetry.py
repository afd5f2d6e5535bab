"""Metrics of answers from documents: requests, where their time went, and what was ingested."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from deployments.errors import ServingError
from rag.errors import RagError

REQUEST_BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ANSWER_STAGES = ("rewrite", "generate")
"""Of an answer's times; those of its searches are told by the searches."""
DOCUMENT_OUTCOMES = ("added", "replaced", "unchanged", "removed", "failed")


class RetrievalTelemetry:
    """A registry of its own. What a request names, such as a collection, is no label: anybody may name anything."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        ended = "Requests to the documents' service that ended, by outcome: ok, or the error's code."
        self._requests = Counter(
            "corral_retrieval_requests", ended, ("operation", "outcome"), registry=self.registry
        )  # fmt: skip
        self._seconds = Histogram(
            "corral_retrieval_request_seconds", "From a request's arrival to the end of its answer.", ("operation",),
            buckets=REQUEST_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        stages = "Where the time went: embed to mmr are a search's stages, rewrite and generate an answer's."
        self._stages = Histogram(
            "corral_retrieval_stage_seconds", stages, ("stage",), buckets=STAGE_BUCKETS_S, registry=self.registry
        )
        refusals = "Answers that say that the documents do not tell, by reason."
        self._refusals = Counter("corral_retrieval_refused_answers", refusals, ("reason",), registry=self.registry)
        documents = "Documents of ingests, by what became of them."
        self._documents = Counter("corral_retrieval_documents", documents, ("outcome",), registry=self.registry)
        embedded = "Passages that ingests had the model embed."
        self._embedded = Counter("corral_retrieval_embedded_passages", embedded, registry=self.registry)

    @contextmanager
    def request(self, operation: str) -> Iterator[None]:
        """Counts and times one."""
        began, outcome = self._clock(), "ok"
        try:
            yield
        except (ServingError, RagError) as error:
            outcome = error.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            self._requests.labels(operation, outcome).inc()
            self._seconds.labels(operation).observe(self._clock() - began)

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """What took no time was not done."""
        for stage, spent_ms in timings_ms.items():
            if spent_ms > 0:
                self._stages.labels(stage).observe(spent_ms / 1000)

    def answered(self, result: Mapping[str, Any]) -> None:
        """result: a RagAnswer as JSON has it."""
        self.stages({stage: result["timings_ms"][stage] for stage in ANSWER_STAGES})
        if reason := result.get("refusal"):
            self._refusals.labels(reason).inc()

    def ingested(self, report: Mapping[str, Any]) -> None:
        """report: an IngestReport as JSON has it."""
        for outcome in DOCUMENT_OUTCOMES:
            self._documents.labels(outcome).inc(report[outcome])
        self._embedded.inc(report["embedded"])

    def exposition(self) -> str:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry).decode()
