"""Traces of the running service, as a real collector gets them: a request is one trace, from the edge to the engine."""

from __future__ import annotations

import json
import secrets
from typing import Any

import httpx
import pytest

from tests.collector import Collector, Seen
from tests.serve.herd import EMBEDDER
from tests.serve.service import RunningService
from tests.serve.test_tribunal import DISPUTED
from tests.waiting import until

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
MARK = "pterodactylus"
ASKED = {"model": "pocket-1b", "messages": [{"role": "user", "content": f"Hello {MARK}!"}], "max_tokens": 8}
PARENT = "00f067aa0ba902b7"
PATIENCE_S = 60


class Trace:
    """The spans of one trace, by name."""

    def __init__(self, spans: list[Seen]) -> None:
        self.spans = {span.id: span for span in spans}

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans.values() if span.name == name]

    def way(self, span: Seen) -> list[str]:
        """Names from the root to this span."""
        above = self.spans.get(span.parent)
        return [*(self.way(above) if above else []), span.name]

    @property
    def roots(self) -> list[Seen]:
        return [span for span in self.spans.values() if span.parent not in self.spans]

    def engines(self, model: str) -> list[Seen]:
        return self.named(f"chat {model}")


def traced(collector: Collector, trace: str, request_id: str, *names: str) -> Trace:
    """The trace once it has spans of these names; every span says the request's id and nothing of what was asked."""

    def whole() -> bool:
        found = Trace(collector.of(trace))
        there = {*names} <= {span.name for span in found.spans.values()}
        return there and [root.service for root in found.roots] == ["corral-edge"]

    until(whole, PATIENCE_S, f"one trace with spans {names}")
    found = Trace(collector.of(trace))
    (root,) = found.roots
    assert (root.service, root.parent) == ("corral-edge", PARENT)
    for span in found.spans.values():
        assert span.attributes["corral.request_id"] == request_id
        assert span.began_ns <= span.ended_ns
        assert MARK not in json.dumps(span.attributes)
    return found


def asked(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[str, str, httpx.Response]:
    """Trace, request id, answer."""
    trace, request_id = secrets.token_hex(16), f"traced-{secrets.token_hex(4)}"
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "x-request-id": request_id}
    answer = http.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return trace, request_id, answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_traced_through_the_replica_to_the_engine(
    http: httpx.Client, collector: Collector, stream: bool
) -> None:
    trace, request_id, answer = asked(http, CHAT, {**ASKED, "stream": stream, "ignore_eos": True})
    found = traced(collector, trace, request_id, f"POST {CHAT}", "replica", "chat pocket-1b")
    (engine,) = found.engines("pocket-1b")
    assert found.way(engine) == [f"POST {CHAT}", "replica", "chat pocket-1b"]
    said = engine.attributes
    assert (said["gen_ai.request.model"], said["gen_ai.usage.output_tokens"]) == ("pocket-1b", 8)
    assert said["gen_ai.response.finish_reasons"] == ["length"]
    if not stream:
        assert said["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    for stage in ("queue", "model_prefill", "model_decode"):
        assert 0 <= said[f"gen_ai.latency.time_in_{stage}"] <= said["gen_ai.latency.e2e"]
    assert list(engine.events) == ["scheduled", "first_token"]
    (edge,) = found.roots
    assert edge.attributes["http.response.status_code"] == 200
    assert list(edge.events)[-2:] == ["connected", "first_byte"]


def test_a_bulk_item_is_traced_through_the_gateway(http: httpx.Client, collector: Collector) -> None:
    item = {"model": "pocket-1b", "prompt": f"Hello {MARK}!", "max_tokens": 4}
    trace, request_id, _ = asked(http, "/bulk", {"items": [item]})
    found = traced(collector, trace, request_id, "chat pocket-1b", "POST /bulk")
    until(lambda: len(collector.of(trace)) == 3, PATIENCE_S, "all spans")
    found = Trace(collector.of(trace))
    (engine,) = found.engines("pocket-1b")
    assert found.way(engine) == ["POST /bulk", "POST /bulk", "chat pocket-1b"]
    assert [found.spans[engine.parent].service, engine.service] == ["corral-gateway", "corral-model"]


def test_generate_is_traced_through_the_gateway(http: httpx.Client, collector: Collector) -> None:
    body = {"model": "pocket-1b", "prompt": f"Hello {MARK}!", "max_tokens": 4}
    trace, request_id, _ = asked(http, "/generate", body)
    traced(collector, trace, request_id, "POST /generate", "replica", "chat pocket-1b")
    until(lambda: len(collector.of(trace)) == 4, PATIENCE_S, "all spans")
    found = Trace(collector.of(trace))
    (engine,) = found.engines("pocket-1b")
    assert found.way(engine) == ["POST /generate", "POST /generate", "replica", "chat pocket-1b"]
    gateway = next(span for span in found.spans.values() if span.service == "corral-gateway")
    assert gateway.attributes["gen_ai.request.model"] == "pocket-1b"


def test_each_step_of_a_tribunal_is_a_span_over_its_engines(http: httpx.Client, collector: Collector) -> None:
    trace, request_id, answer = asked(http, "/v1/tribunal", {"question": f"{DISPUTED}"})
    steps = answer.json()["trace"]
    wanted = sorted(f"tribunal {step['kind']}" for step in steps)
    kinds = {*wanted, "tribunal council", "TribunalServer.run"}
    traced(collector, trace, request_id, *kinds, "POST /v1/tribunal")
    found = Trace(collector.of(trace))
    asked_for = [span for span in found.spans.values() if "corral.step" in span.attributes]
    assert sorted(span.name for span in asked_for) == wanted
    way = ["POST /v1/tribunal", "POST /v1/tribunal", "TribunalServer.run", "tribunal council"]
    by_number = {step["step"]: step for step in steps}
    for span in asked_for:
        step = by_number[span.attributes["corral.step"]]
        assert found.way(span) == [*way, span.name]
        assert span.attributes["gen_ai.request.model"] == step["model"]
        assert span.attributes["gen_ai.usage.output_tokens"] == step["usage"]["completion_tokens"]

    def engines() -> list[Seen]:
        return [span for span in collector.of(trace) if span.name.startswith("chat ")]

    until(lambda: len(engines()) >= len(steps), PATIENCE_S, "the engines' spans")
    traced(collector, trace, request_id)
    found = Trace(collector.of(trace))
    assert sorted(found.way(engine)[4] for engine in engines()) == wanted


def test_the_stages_of_an_answer_from_documents_are_spans(http: httpx.Client, collector: Collector) -> None:
    text = f"# Queues\n\nThe {MARK} partition has a time limit of 48 hours.\n"
    upload = http.post("/v1/rag/collections/traced/documents", files=[("file", ("queues.md", text.encode()))])
    assert upload.status_code == 200, upload.text
    body = {"question": f"How long may a job run on {MARK}?", "collection": "traced"}
    trace, request_id, _ = asked(http, "/v1/rag/chat", body)
    names = ("rag retrieve", "rag embed", "rag generate", "RetrievalServer.answer", "POST /v1/rag/chat")
    found = traced(collector, trace, request_id, *names)
    (embedded,) = found.named("rag embed")
    assert found.way(embedded) == [
        "POST /v1/rag/chat", "POST /v1/rag/chat", "RetrievalServer.answer", "rag retrieve", "rag embed",
    ]  # fmt: skip
    until(lambda: any(span.name.startswith("chat ") for span in collector.of(trace)), PATIENCE_S, "the engine's span")
    found = traced(collector, trace, request_id, "replica")
    engine = next(span for span in found.spans.values() if span.name.startswith("chat "))
    assert found.way(engine)[2:] == ["RetrievalServer.answer", "rag generate", "replica", engine.name]
    http.delete("/v1/rag/collections/traced").raise_for_status()


def test_texts_are_embedded_in_one_trace(http: httpx.Client, collector: Collector) -> None:
    trace, request_id, _ = asked(http, "/v1/embeddings", {"model": EMBEDDER, "input": MARK})
    found = traced(collector, trace, request_id, "RetrievalServer.embed", "POST /v1/embeddings")
    until(lambda: len(collector.of(trace)) == 3, PATIENCE_S, "all spans")
    trace, request_id, _ = asked(http, "/v1/embeddings", {"model": "embedder", "input": MARK})
    found = traced(collector, trace, request_id, "embeddings embedder", "replica", "POST /v1/embeddings")
    assert len(found.spans) == 3


def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(http: httpx.Client, collector: Collector) -> None:
    trace, request_id = secrets.token_hex(16), f"traced-{secrets.token_hex(4)}"
    headers = {"traceparent": f"00-{trace}-{'0' * 16}-01", "x-request-id": request_id}
    assert http.post(CHAT, json=ASKED, headers=headers).status_code == 200

    def mine() -> list[Seen]:
        return [span for span in collector.spans if span.attributes["corral.request_id"] == request_id]

    until(lambda: len(mine()) == 3, PATIENCE_S, "three spans")
    (own,) = {span.trace for span in mine()}
    assert own != trace
    assert [span.service for span in mine() if span.parent == ""] == ["corral-edge"]


def test_a_collector_that_is_away_holds_up_nobody(
    http: httpx.Client, collector: Collector, service: RunningService
) -> None:
    collector.status = 503
    try:
        refused = len(collector.bodies)
        answers = [http.post(CHAT, json=ASKED).status_code for _ in range(20)]
        until(lambda: len(collector.bodies) > refused, PATIENCE_S, "a batch that is refused")
        assert answers == [200] * 20
    finally:
        collector.status = 200
    trace, request_id, _ = asked(http, CHAT, ASKED)
    traced(collector, trace, request_id, f"POST {CHAT}", "chat pocket-1b", "replica")
