"""What is told of a request to the engine: one log line and one span, with numbers and names alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments import tracing_engine
from deployments.metering import Outcome, Stages, Used
from deployments.principal import Principal
from deployments.request_log import start_log
from deployments.tracing import Traces
from deployments.tracing_engine import EngineNotes
from tests.unit.test_request_log import closed_afterwards, lines

ASKER = Principal(
    "alice", request="uid", label="req-1", trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)
NOW = 1_795_000_000_000_000_000


STAGES = Stages(0.1, 0.2, 0.5)


def used(outcome: Outcome = "done", stages: Stages | None = STAGES) -> Used:
    return Used(ASKER, "pocket-1b", 7, 3, 2, outcome, 0.35, 1.0, "length", stages)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    memory, made, traces = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False), Traces()
    made.add_span_processor(SimpleSpanProcessor(memory))
    traces._tracer = made.get_tracer("test")
    monkeypatch.setattr(tracing_engine, "TRACES", traces)
    return memory


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with closed_afterwards():
        start_log("model-pocket-1b", tmp_path)
        yield tmp_path


def test_the_line_has_what_only_the_replica_knows(folder: Path) -> None:
    EngineNotes().tell(used(), 0.25)
    (line,) = lines(folder)
    assert line.pop("time")
    assert line == {
        "level": "info", "event": "engine", "id": "req-1", "uid": "uid", "key": "alice", "model": "pocket-1b",
        "trace": "4bf92f3577b34da6a3ce929d0e0e4736", "prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2,
        "outcome": "done", "finish_reason": "length", "turn_ms": 250.0, "ttft_ms": 350.0, "total_ms": 1000.0,
        "queue_ms": 100.0, "prefill_ms": 200.0, "decode_ms": 500.0,
    }  # fmt: skip


def test_the_span_goes_by_open_telemetrys_names(sent: InMemorySpanExporter) -> None:
    EngineNotes(clock=lambda: NOW).tell(used(), 0.25)
    (span,) = sent.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == ("chat pocket-1b", NOW - 1_000_000_000, NOW)
    told = json.loads(span.to_json())
    assert told["parent_id"] == "0x00f067aa0ba902b7"
    assert told["attributes"] == {
        "corral.request_id": "req-1", "corral.key_id": "alice", "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm", "gen_ai.request.model": "pocket-1b", "gen_ai.response.model": "pocket-1b",
        "gen_ai.response.finish_reasons": ["length"], "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2, "gen_ai.latency.time_to_first_token": 0.35,
        "gen_ai.latency.e2e": 1.0, "gen_ai.latency.time_in_queue": 0.1, "gen_ai.latency.time_in_model_prefill": 0.2,
        "gen_ai.latency.time_in_model_decode": 0.5, "corral.turn_s": 0.25,
    }  # fmt: skip
    assert [event.name for event in span.events] == ["scheduled", "first_token"]


def test_what_was_broken_off_is_told_as_such(sent: InMemorySpanExporter) -> None:
    EngineNotes(embeds=True).tell(used("cancelled", None))
    (span,) = sent.get_finished_spans()
    assert span.name == "embeddings pocket-1b"
    assert (span.attributes or {})["error.type"] == "cancelled"
    assert "gen_ai.latency.time_in_queue" not in (span.attributes or {})
