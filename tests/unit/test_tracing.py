"""Spans of a process: what is under what, what they never say, and a collector that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from deployments.principal import CURRENT, Principal
from deployments.tracing import NOTHING, TRACEPARENT, Traces, named, traceparent
from deployments.tracing_config import TracesConfig
from deployments.tracing_export import provider
from tests.collector import Collector, collecting
from tests.waiting import until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
ASKER = Principal("alice", request="uid", label="req-1", trace=SAMPLED)


@pytest.fixture(autouse=True)
def asker() -> Iterator[None]:
    token = CURRENT.set(ASKER)
    yield
    CURRENT.reset(token)


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(sent: InMemorySpanExporter) -> Traces:
    made, traces = TracerProvider(shutdown_on_exit=False), Traces()
    made.add_span_processor(SimpleSpanProcessor(sent))
    traces._tracer = made.get_tracer("test")
    return traces


def by_name(sent: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in sent.get_finished_spans()}


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def id_of(span: ReadableSpan) -> str:
    found = span.get_span_context()
    assert found
    return f"{found.span_id:016x}"


def test_what_is_done_within_a_span_is_under_it(traces: Traces, sent: InMemorySpanExporter) -> None:
    with traces.span("outer", {"model": "m", "left out": None}, "server"), traces.span("inner"):
        pass
    outer, inner = by_name(sent)["outer"], by_name(sent)["inner"]
    assert (parent_of(outer), parent_of(inner)) == (SPAN, id_of(outer))
    assert f"{outer.context.trace_id:032x}" == f"{inner.context.trace_id:032x}" == TRACE
    assert dict(outer.attributes or {}) == {"corral.request_id": "req-1", "corral.key_id": "alice", "model": "m"}
    assert CURRENT.get() == ASKER


async def test_tasks_go_on_under_the_span_they_were_begun_in(traces: Traces, sent: InMemorySpanExporter) -> None:
    async def step(name: str) -> None:
        with traces.span(name):
            await asyncio.sleep(0)

    with traces.span("tribunal"):
        await asyncio.gather(step("a"), step("b"))
    spans = by_name(sent)
    assert parent_of(spans["a"]) == parent_of(spans["b"]) == id_of(spans["tribunal"])


async def test_a_stream_that_another_task_closes_ends_its_span(traces: Traces, sent: InMemorySpanExporter) -> None:
    async def stream() -> AsyncIterator[int]:
        with traces.span("stream"):
            yield 1
            yield 2

    told: Any = stream()
    assert await asyncio.create_task(anext(told)) == 1
    await told.aclose()
    span = by_name(sent)["stream"]
    assert span.status.is_unset
    assert (span.attributes or {})["error.type"] == "GeneratorExit"


def test_an_error_is_told_by_its_type_alone(traces: Traces, sent: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a prompt"), traces.span("broken"):
        raise ValueError("a prompt")
    span = by_name(sent)["broken"]
    assert not span.status.is_ok
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "a prompt" not in span.to_json()


@pytest.mark.parametrize("trace", ["", f"00-{TRACE}-{SPAN}-00"])
def test_who_is_not_sampled_has_no_span(traces: Traces, sent: InMemorySpanExporter, trace: str) -> None:
    CURRENT.set(Principal(trace=trace))
    with traces.span("none") as span:
        span.say({"a": 1})
        assert span is NOTHING
    traces.past("none", Principal(trace=trace), 1, 2, {})
    assert sent.get_finished_spans() == ()


def test_without_an_edge_a_request_begins_its_trace(traces: Traces, sent: InMemorySpanExporter) -> None:
    CURRENT.set(Principal())
    traces._roots = True
    with traces.span("first"):
        assert TRACEPARENT.fullmatch(CURRENT.get().trace)
    assert parent_of(by_name(sent)["first"]) == ""


def test_nothing_is_traced_where_no_collector_is_named() -> None:
    traces = Traces()
    traces.start(None, "x")
    assert (traces.on, traces.span("x")) == (False, NOTHING)


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_ids_that_headers_cannot_mean_are_not_taken(label: bytes, trace: bytes) -> None:
    scope = {"headers": [(b"x-request-id", label), (b"traceparent", trace)]}
    found = named(Principal("k", request="uid"), scope)
    assert found.label in ("", "uid", label.decode("latin-1"))
    assert all(letter.isalnum() or letter in "._-" for letter in found.label)
    assert found.trace == ""


def test_headers_say_the_request_and_its_trace() -> None:
    scope = {"headers": [(b"traceparent", SAMPLED.encode()), (b"x-request-id", b"mine")]}
    found = named(Principal("k", request="uid"), scope)
    assert (found.request, found.label, found.trace) == ("uid", "mine", SAMPLED)
    assert Principal.from_header(found.to_header()) == found


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [("http://c:4318", "http://c:4318/v1/traces"), ("https://c/otlp/v1/traces/", "https://c/otlp/v1/traces")],
)
def test_the_endpoint_may_be_with_or_without_its_path(endpoint: str, url: str) -> None:
    assert TracesConfig(endpoint=endpoint).url == url


@pytest.mark.parametrize(
    "wrong", [{"endpoint": "c:4318"}, {"endpoint": "http://u:p@c"}, {"endpoint": "http://c", "headers": {"a": "b\n"}}]
)
def test_what_is_no_collector_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TracesConfig(**wrong)


def test_headers_for_the_collector_are_not_shown() -> None:
    assert "secret" not in repr(TracesConfig(endpoint="http://c", headers={"authorization": "secret"}))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def test_a_collector_that_is_away_costs_nothing_and_is_told_of_once(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400  # it refuses: no attempt after the first
    config = TracesConfig(endpoint=collector.url, sample=1, queue=64, headers={"authorization": "Bearer t"})
    made = provider(config, "svc", {})
    tracer = made.get_tracer("test")
    with caplog.at_level(logging.DEBUG):
        for batch in range(1, 4):
            for _ in range(1000):
                tracer.start_span("s").end()
            until(lambda wanted=batch: len(collector.bodies) >= wanted, 20, "a batch")  # type: ignore[misc]
        collector.status = 200
        tracer.start_span("last").end()
        until(lambda: any(span.name == "last" for span in collector.spans), 20, "a span that is taken")
    made.shutdown()
    assert collector.headers["authorization"] == "Bearer t"
    assert len(collector.spans) <= 4 * 64  # of 3001
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition(collector.url)[2] for line in told] == [
        " takes no spans; they are dropped until it does", " takes spans again",
    ]  # fmt: skip


def test_past_spans_have_the_times_they_are_given(traces: Traces, sent: InMemorySpanExporter) -> None:
    began = time.time_ns()
    traces.past("engine", ASKER, began, began + 5, {"n": 1, "none": None}, {"first": began + 2})
    span = by_name(sent)["engine"]
    assert (span.start_time, span.end_time, parent_of(span)) == (began, began + 5, SPAN)
    assert [(event.name, event.timestamp) for event in span.events] == [("first", began + 2)]


def test_a_traceparent_is_read_as_it_is_written(traces: Traces) -> None:
    assert traces._tracer
    span = traces._tracer.start_span("x")
    assert TRACEPARENT.fullmatch(traceparent(span))
