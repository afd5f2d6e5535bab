"""Corral's own routes, and what machines ask of it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.serve.herd import ADAPTER, CONTEXT_TOKENS, READY, SERVED
from tests.serve.service import RunningService

pytestmark = pytest.mark.serve

PROMPT = "Hello! Who are you?"
ASKED = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}


def events(body: str) -> list[Any]:
    """The `data:` of every server-sent event; [DONE] as it is."""
    data = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [piece if piece == "[DONE]" else json.loads(piece) for piece in data]


def test_health(http: httpx.Client) -> None:
    response = http.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("model", [*READY, ADAPTER])
def test_models_that_serve_are_ready(http: httpx.Client, model: str) -> None:
    response = http.get(f"/ready/{model}")
    assert response.status_code == 200
    assert response.json()["ready"] is True
    assert response.json()["replicas"] == 1


def test_ready_lists_every_model_and_is_no_while_one_has_failed(http: httpx.Client) -> None:
    response = http.get("/ready")
    assert response.status_code == 503
    assert set(response.json()["models"]) == {*SERVED} - {ADAPTER}


def test_an_adapter_names_its_base_model(http: httpx.Client) -> None:
    assert http.get(f"/v1/models/{ADAPTER}").json()["parent"] == "pocket-8b"


@pytest.mark.parametrize("path", ["/v1/models/nope", "/ready/nope"])
def test_an_unknown_model_is_answered_with_the_known_ones(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert all(model in response.json()["error"]["message"] for model in SERVED)


def test_metrics_have_the_gateway_and_every_engine(service: RunningService, http: httpx.Client) -> None:
    http.post("/generate", json={"model": "pocket-1b", **ASKED}).raise_for_status()
    text = http.get("/metrics").text
    assert 'corral_model_state{model="broken",state="failed"} 1.0' in text
    assert 'corral_gateway_requests_total{method="POST",route="/generate",status="200"}' in text
    for model in READY:
        assert service.series("vllm:num_requests_running", model), model
    assert sum(service.series("vllm:generation_tokens_total", "pocket-1b")) > 0


def test_every_answer_has_the_request_id_that_the_client_chose(http: httpx.Client) -> None:
    headers = {"x-request-id": "walltime-48"}
    body = {"model": "pocket-1b", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for response in (
        http.get("/health", headers=headers),
        http.post("/v1/chat/completions", json=body, headers=headers),
        http.post("/v1/chat/completions", json={**body, "model": "nope"}, headers=headers),
    ):
        assert response.headers["x-request-id"] == "walltime-48"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_what_is_tokenized_can_be_put_together_again(http: httpx.Client, path: str) -> None:
    tokenized = http.post(path, json={"model": "pocket-8b", "prompt": PROMPT, "add_special_tokens": False}).json()
    assert tokenized["count"] == len(tokenized["tokens"]) > 1
    assert tokenized["max_model_len"] == CONTEXT_TOKENS
    detokenize = path.replace("tokenize", "detokenize")
    again = http.post(detokenize, json={"model": "pocket-8b", "tokens": tokenized["tokens"]}).json()
    assert again["prompt"] == PROMPT


@pytest.mark.parametrize("model", ["pocket-1b", "pocket-8b", ADAPTER])
def test_generate_gives_what_chat_gives(http: httpx.Client, model: str) -> None:
    generated = http.post("/generate", json={"model": model, **ASKED}).json()
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0}
    chatted = http.post("/v1/chat/completions", json=body).json()
    assert generated["model"] == model
    assert generated["text"] == chatted["choices"][0]["message"]["content"]
    assert generated["finish_reason"] == chatted["choices"][0]["finish_reason"]
    assert generated["usage"].items() <= chatted["usage"].items()


def test_generate_takes_messages(http: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    asked = {"model": "pocket-8b", "messages": messages, "max_tokens": 8}
    assert http.post("/generate", json=asked).json()["usage"]["completion_tokens"] <= 8


def test_generate_streams_the_same_text(http: httpx.Client) -> None:
    whole = http.post("/generate", json={"model": "pocket-8b", **ASKED}).json()
    response = http.post("/generate", json={"model": "pocket-8b", **ASKED, "stream": True})
    *pieces, last, done = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert len(pieces) > 1
    assert (last["finish_reason"], last["usage"]) == (whole["finish_reason"], whole["usage"])
    assert done == "[DONE]"


def test_bulk_answers_in_order_from_several_models(http: httpx.Client) -> None:
    models = ["pocket-1b", ADAPTER, "pocket-8b"] * 5
    items = [{"id": f"item-{index}", "model": model, **ASKED} for index, model in enumerate(models)]
    bulk = http.post("/bulk", json={"items": items}).json()
    assert [item["id"] for item in bulk["items"]] == [item["id"] for item in items]
    assert [item["result"]["model"] for item in bulk["items"]] == models
    alone = {model: http.post("/generate", json={"model": model, **ASKED}).json()["text"] for model in set(models)}
    assert [item["result"]["text"] for item in bulk["items"]] == [alone[model] for model in models]
    assert bulk["summary"]["succeeded"] == bulk["summary"]["total"] == len(items)


def test_bulk_keeps_a_wrong_item_to_its_own_line(http: httpx.Client) -> None:
    items = [ASKED, {"prompt": ""}, {**ASKED, "model": "nope"}, {**ASKED, "model": "broken"},
             {**ASKED, "model": "embedder"}, {**ASKED, "temprature": 1}, ASKED,
             {"prompt": "llama " * 2500}]  # fmt: skip
    bulk = http.post("/bulk", json={"model": "pocket-1b", "items": items}).json()
    codes = [item["error"]["code"] if "error" in item else None for item in bulk["items"]]
    assert codes == [
        None, "invalid_request", "model_not_found", "model_unavailable", "invalid_request", "invalid_request", None,
        "context_length_exceeded",  # which the engine finds
    ]  # fmt: skip
    assert bulk["items"][5]["error"]["param"] == "temprature"
    assert (bulk["summary"]["succeeded"], bulk["summary"]["failed"]) == (2, 6)


@pytest.mark.parametrize("as_lines", [True, False])
def test_bulk_streams_a_line_for_each_item(http: httpx.Client, as_lines: bool) -> None:
    items = [{"model": "pocket-1b", "prompt": f"What is {number}?", "max_tokens": 4} for number in range(20)]
    lines = "\n".join([*map(json.dumps, items), "{not JSON"])
    given: dict[str, Any] = (
        {"content": lines, "headers": {"content-type": "application/x-ndjson", "accept": "application/x-ndjson"}}
        if as_lines
        else {"json": {"items": [*items, {"prompt": "no model"}], "stream": True}}
    )
    response = http.post("/bulk", **given)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    done = {line["index"]: line for line in map(json.loads, response.text.splitlines())}
    assert sorted(done) == list(range(21))
    assert [index for index, line in done.items() if "error" in line] == [20]
    assert all(done[index]["result"]["usage"]["completion_tokens"] <= 4 for index in range(20))


def test_an_unknown_path_is_told_so(http: httpx.Client) -> None:
    response = http.get("/v2/models")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/internal/replicas", "/models/pocket-1b/v1/models", "/-/healthz", "/-/routes"])
def test_inner_paths_are_not_for_clients(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
