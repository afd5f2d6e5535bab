"""The edge's log lines as spans, and lines that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.tracing.edge_span import EdgeSpans, GivenIds

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
MS = 1_000_000
BEGAN_US = 1_795_000_000_000_000
LINE: dict[str, Any] = {
    "time": 1.0, "id": "mine", "uid": "u", "method": "POST", "path": "/v1/chat/completions", "key": "alicexyz",
    "model": "pocket-1b", "to": "model-pocket-1b/r1", "status": 200, "end": "--", "request_ms": 3, "queue_ms": 10,
    "connect_ms": 1, "first_byte_ms": 20, "total_ms": 50, "bytes_in": 100, "bytes_out": 200, "retries": "0",
    "trace": TRACE, "span": SPAN, "parent": PARENT, "sampled": "01", "began_us": str(BEGAN_US), "admit_ms": "4",
}  # fmt: skip


class Sent:
    """Spans made of lines."""

    def __init__(self) -> None:
        self._memory, ids = InMemorySpanExporter(), GivenIds()
        provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self._spans = EdgeSpans(provider, ids)

    def of(self, **changes: Any) -> list[dict[str, Any]]:
        self._memory.clear()
        self._spans.ended(json.dumps({**LINE, **changes}).encode())
        return [json.loads(span.to_json()) for span in self._memory.get_finished_spans()]

    def of_bytes(self, line: bytes) -> int:
        self._memory.clear()
        self._spans.ended(line)
        return len(self._memory.get_finished_spans())

    @property
    def last(self) -> Any:
        return self._memory.get_finished_spans()[-1]


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_line_is_the_span_that_haproxy_named(sent: Sent) -> None:
    (span,) = sent.of()
    assert (span["name"], span["kind"]) == ("POST /v1/chat/completions", "SpanKind.SERVER")
    assert (span["context"]["trace_id"], span["context"]["span_id"]) == (f"0x{TRACE}", f"0x{SPAN}")
    assert span["parent_id"] == f"0x{PARENT}"
    assert span["attributes"]["corral.request_id"] == "mine"
    assert span["attributes"]["corral.key_id"] == "alicexyz"
    assert span["attributes"]["gen_ai.request.model"] == "pocket-1b"
    head = BEGAN_US * 1000
    assert (sent.last.start_time, sent.last.end_time) == (head - 3 * MS, head + 47 * MS)
    waited = [(event.name, event.timestamp - head) for event in sent.last.events]
    assert waited == [("admitted", 4 * MS), ("left_queue", 10 * MS), ("connected", 11 * MS), ("first_byte", 31 * MS)]


def test_the_first_span_of_a_trace_has_no_parent_and_keeps_its_ids(sent: Sent) -> None:
    (span,) = sent.of(parent="-")
    assert span["parent_id"] is None
    assert (span["context"]["trace_id"], span["context"]["span_id"]) == (f"0x{TRACE}", f"0x{SPAN}")


def test_names_that_somebody_chose_are_in_no_spans_name(sent: Sent) -> None:
    (span,) = sent.of(path="/v1/rag/collections/secret/documents")
    assert span["name"] == "POST"
    (span,) = sent.of(method="GET", path="/v1/rag/chat")
    assert span["name"] == "GET /v1/rag/chat"


@pytest.mark.parametrize(("status", "failed"), [(200, False), (429, False), (499, False), (502, True), (-1, True)])
def test_what_is_a_failure(sent: Sent, status: int, failed: bool) -> None:
    (span,) = sent.of(status=status)
    assert (span["status"]["status_code"] == "ERROR") is failed


def test_what_it_did_not_come_to_is_left_out(sent: Sent) -> None:
    (span,) = sent.of(queue_ms=-1, connect_ms=-1, first_byte_ms=-1, admit_ms="-", key="-", model="-")
    assert span["events"] == []
    assert span["attributes"]["corral.key_id"] == ""
    assert "gen_ai.request.model" not in span["attributes"]


@pytest.mark.parametrize(
    "changes",
    [{"sampled": "00"}, {"sampled": "-"}, {"trace": "-"}, {"began_us": "-"}, {"span": "xyz"}, {"status": None}],
)
def test_what_is_not_traced_is_no_span(sent: Sent, changes: dict[str, Any]) -> None:
    assert sent.of(**changes) == []


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=100), st.recursive(
    st.none() | st.text(max_size=5), lambda inner: st.dictionaries(st.sampled_from(list(LINE)), inner, max_size=5),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_any_other_datagram_is_passed_over(line: bytes) -> None:
    assert Sent().of_bytes(line) == 0
