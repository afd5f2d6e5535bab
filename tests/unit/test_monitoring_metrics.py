"""What the parts of a service tell of themselves: replicas, tribunals, documents, the keeper's outlook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.access.certificate import make_certificate
from app.access.tally import Tally
from app.allocation.records import JobStatus
from app.monitoring.outlook import Outlook
from app.monitoring.scrape import Scrape
from deployments.errors import NoQuorum, Overloaded
from deployments.principal import Principal
from deployments.replica_metrics import ReplicaCounts, ReplicaMetrics
from deployments.retrieval.telemetry import RetrievalTelemetry
from deployments.tribunal.events import EventType
from deployments.tribunal.telemetry import TribunalTelemetry
from deployments.turns import Turns
from rag.errors import UnknownCollection
from tests.waiting import eventually


def read(text: str) -> Scrape:
    return Scrape.of(text, 0)


def seconds() -> Iterator[float]:
    return (float(number) for number in count())


async def test_a_replica_tells_who_is_inside_who_waits_and_who_was_refused() -> None:
    turns = Turns(1, 1)
    metrics = ReplicaMetrics(lambda: ReplicaCounts(turns.snapshot(), 5, 6, 7))
    ana = Principal("ana", "", ("models",))

    async def ask() -> None:
        async with turns.turn(ana, 1.0):
            await leave.wait()

    leave = asyncio.Event()
    asked = [asyncio.create_task(ask()) for _ in range(3)]
    await eventually(lambda: any(task.done() for task in asked))
    told = read(metrics.exposition())
    leave.set()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ended if end] == [Overloaded]
    assert told.total("corral_replica_requests", state="inside") == 1
    assert told.total("corral_replica_requests", state="waiting") == 1
    assert told.total("corral_replica_refusals_total", reason="queue_full") == 1
    assert told.total("corral_replica_refusals_total", reason="deadline_exceeded") == 0
    assert told.total("corral_replica_bulk_items", state="inside") == 5
    assert told.total("corral_replica_bulk_items", state="waiting") == 6
    assert told.total("corral_replica_unreported_tokens") == 7
    later = read(metrics.exposition())
    assert later.total("corral_replica_turns_total") == 2
    assert later.total("corral_replica_turn_wait_seconds_total") > 0


def test_a_replica_never_names_a_key() -> None:
    turns = Turns(4, 4)
    text = ReplicaMetrics(lambda: ReplicaCounts(turns.snapshot(), 0, 0, 0)).exposition()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {name for sample in samples for name in sample.labels} == {"state", "reason"}


def test_runs_of_tribunals_are_counted_by_their_ends_and_steps_by_their_kinds() -> None:
    telemetry = TribunalTelemetry(seconds().__next__)
    told, failed = telemetry.run("default"), telemetry.run("default")
    told(EventType.STEP_STARTED, {"step": 1})
    told(EventType.DRAFT_DONE, {"kind": "draft", "seconds": 0.3})
    told(EventType.REVIEW_DONE, {"kind": "review", "seconds": 0.2, "abstained": True})
    told(EventType.MEMBER_ABSENT, {"member": "x"})
    live = read(telemetry.exposition()).total("corral_tribunal_runs_in_progress")
    told(EventType.RESULT, {"result": {}})
    failed(EventType.ERROR, {"error": {"code": NoQuorum.reason}})
    found = read(telemetry.exposition())
    assert (live, found.total("corral_tribunal_runs_in_progress")) == (2, 0)
    assert found.total("corral_tribunal_runs_total", tribunal="default", outcome="answered") == 1
    assert found.total("corral_tribunal_runs_total", tribunal="default", outcome="no_quorum") == 1
    assert found.total("corral_tribunal_run_seconds_sum") == 2 + 2
    assert found.total("corral_tribunal_step_seconds_count", kind="draft") == 1
    assert found.total("corral_tribunal_steps_without_result_total", kind="review") == 1
    assert found.total("corral_tribunal_absent_members_total", tribunal="default") == 1


def test_requests_to_the_documents_are_counted_by_their_ends() -> None:
    telemetry = RetrievalTelemetry(seconds().__next__)
    for error in (None, UnknownCollection("x"), asyncio.CancelledError(), KeyError("x")):
        with suppress(UnknownCollection, asyncio.CancelledError, KeyError), telemetry.request("search"):
            if error:
                raise error
    telemetry.stages({"embed": 4.0, "rerank": 0.0})
    timings = {"rewrite": 0.0, "retrieve": 9.0, "rerank": 0.0, "generate": 500.0, "total": 600.0}
    telemetry.answered({"timings_ms": timings, "refusal": "nothing_relevant"})
    telemetry.ingested({"added": 2, "replaced": 1, "unchanged": 0, "removed": 0, "failed": 3, "embedded": 40})
    found = read(telemetry.exposition())
    outcomes = {
        dict(labels)["outcome"]: number for labels, number in found.series("corral_retrieval_requests_total")
    }  # fmt: skip
    assert outcomes == {"ok": 1, "collection_not_found": 1, "cancelled": 1, "internal_error": 1}
    assert found.total("corral_retrieval_request_seconds_sum", operation="search") == 4
    assert found.total("corral_retrieval_stage_seconds_sum", stage="embed") == pytest.approx(0.004)
    assert found.total("corral_retrieval_stage_seconds_sum", stage="generate") == pytest.approx(0.5)
    assert set(found.labels("corral_retrieval_stage_seconds_count", "stage")) == {"embed", "generate"}
    assert found.total("corral_retrieval_refused_answers_total", reason="nothing_relevant") == 1
    assert found.total("corral_retrieval_documents_total", outcome="failed") == 3
    assert found.total("corral_retrieval_embedded_passages_total") == 40


def test_who_only_looks_at_a_service_is_no_load_and_no_failure() -> None:
    tally = Tally()
    for path in ("/ready", "/ready/llama", "/metrics", "/readystate", "/v1/rag/chat"):
        tally.ended({"model": "-", "path": path, "total_ms": 5}, 503)
    found = read(tally.exposition())
    assert found.total("corral_edge_requests_total", model="(probe)", status="503") == 3
    assert found.total("corral_edge_requests_total", model="-", status="503") == 2


async def test_the_outlook_is_that_of_the_certificate_and_the_job(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "tls", ["n7"], [], datetime.now(UTC), days=40)
    nodes = {"n7": {"state": "joined"}, "n8": {"state": "lost"}}
    status = JobStatus(1, 0, "serving", time.time(), deadline=5000.0, successor=12, nodes=nodes)
    status.write(tmp_path / "status.json")
    found = read(await Outlook(str(tmp_path / "status.json"), str(certificate.certificate_path)).exposition())
    assert found.total("corral_certificate_expires_timestamp_seconds") == certificate.not_after.timestamp()
    assert found.total("corral_job_ends_timestamp_seconds") == 5000
    assert found.total("corral_job_successor") == 1
    assert found.total("corral_job_nodes", state="lost") == 1
    assert found.total("corral_job_nodes", state="waiting") == 0


async def test_what_is_not_known_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await Outlook().exposition() == ""
    assert await Outlook(str(tmp_path / "status.json")).exposition() == ""
    assert await Outlook("", str(tmp_path / "gone.pem")).exposition() == ""
    assert "outlook" in caplog.text
