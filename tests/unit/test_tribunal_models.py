"""Tribunals as virtual models beside ordinary ones: in /v1/models, /generate and /bulk."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from app.talk import Talk, UnreachableError
from deployments.tribunal.service import TribunalAsk
from tests.unit.asgi import client_of, gateway, problem
from tests.unit.fakes import FakeHerd, FakeModel, FakeTribunals
from tests.unit.tribunal_events import chunks, over
from tests.unit.tribunal_script import ANSWER, RESULT, TRACE

QUESTION = {"role": "user", "content": "where?"}
USAGE = {"prompt_tokens": 100, "completion_tokens": 31, "total_tokens": 131}


# The list of models.


async def test_the_list_has_the_tribunals_after_the_models() -> None:
    missing: dict[str, str | Exception] = {"quick": "the chair 'a' is failed", "lost": RuntimeError("no Ray")}
    tribunals = FakeTribunals("default", "quick", "lost", missing=missing)
    async with client_of(over(tribunals)) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        one = (await client.get("/v1/models/tribunal/quick")).json()
        default = (await client.get("/v1/models/tribunal")).json()
        unknown = await client.get("/v1/models/tribunal/zebra")
    same = {"object": "model", "created": 1_700_000_000, "owned_by": "corral", "task": "generate",
            "replicas": 0, "target_replicas": 0}  # fmt: skip
    assert cards[0]["id"] == "a"
    assert cards[1:] == [
        {**same, "id": "tribunal", "state": "ready"},
        {**same, "id": "tribunal/quick", "state": "failed", "reason": "the chair 'a' is failed"},
        {**same, "id": "tribunal/lost", "state": "starting"},
    ]
    assert (default, one) == (cards[1], cards[2])
    assert (unknown.status_code, problem(unknown)["code"]) == (404, "model_not_found")


async def test_a_tribunal_that_does_not_say_in_time_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(FakeTribunals):
        async def missing(self, name: str) -> str | None:
            await asyncio.sleep(60)
            return None

    monkeypatch.setattr("app.services.MEMBERS_TIMEOUT_S", 0.005)
    async with client_of(over(Silent("default"))) as client:
        assert (await client.get("/v1/models/tribunal")).json()["state"] == "starting"


async def test_a_model_that_is_called_like_a_tribunal_stays_itself() -> None:
    async with client_of(gateway(FakeModel("tribunal", "as a model"), tribunals=FakeTribunals("quick"))) as client:
        answer = (await client.post("/generate", json={"model": "tribunal", "prompt": "x"})).json()
    assert answer["text"] == "as a model"


@pytest.mark.parametrize(("ids", "default"), [(["small", "large", "tribunal", "tribunal/quick"], "large")])
def test_the_command_line_s_default_is_the_last_model_that_is_no_tribunal(ids: list[str], default: str) -> None:
    cards = [{"id": each, "task": "generate", "state": "ready"} for each in ids]
    listed = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": cards}))
    with Talk(httpx.Client(transport=listed, base_url="http://gateway")) as talk:
        assert talk.models() == ids
        assert talk.default_model(None) == default
        assert talk.default_model("tribunal") == "tribunal"


def test_tribunals_alone_are_no_default() -> None:
    cards = [{"id": "tribunal", "task": "generate", "state": "starting"}]
    listed = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": cards}))
    with Talk(httpx.Client(transport=listed, base_url="http://gateway")) as talk, pytest.raises(UnreachableError):
        talk.default_model(None)


# /generate and /bulk.


async def test_generate_asks_a_tribunal_without_asking_the_herd() -> None:
    tribunals = FakeTribunals()
    app = over(tribunals, herd=FakeHerd(failure=RuntimeError("no Ray")))
    async with client_of(app) as client:
        response = await client.post("/generate", json={"model": "tribunal", "prompt": "where?", "temperature": 0.3})
        refused = await client.post("/generate", json={"model": "tribunal", "prompt": "where?", "top_k": 5})
    assert response.json() == {
        "id": f"gen-{response.headers['x-request-id']}",
        "model": "tribunal",
        "text": ANSWER,
        "finish_reason": "stop",
        "usage": USAGE,
        "reasoning_content": TRACE,
    }
    assert tribunals.asks == [TribunalAsk((QUESTION,), "default", {"temperature": 0.3})]
    assert (refused.status_code, problem(refused)["param"]) == (400, "top_k")


async def test_generate_streams_reasoning_before_text() -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.post("/generate", json={"model": "tribunal", "prompt": "where?", "stream": True})
    *pieces, last, done = chunks(response.content)
    assert "".join(piece.get("reasoning_content", "") for piece in pieces) == TRACE
    assert [piece["text"] for piece in pieces if piece["text"]] == ["In the corral,", " where else?"]
    assert last == {"text": "", "finish_reason": "stop", "usage": USAGE}
    assert done == "data: [DONE]"


async def test_bulk_takes_tribunals_next_to_models() -> None:
    tribunals = FakeTribunals()
    items = [{"model": model, "prompt": "where?"} for model in ("a", "tribunal", "tribunal/quick", "tribunal/zebra")]
    async with client_of(over(tribunals)) as client:
        reply = (await client.post("/bulk", json={"items": items})).json()
        lines = await client.post("/bulk", json={"items": items[:2], "stream": True})
    plain, default, quick, unknown = reply["items"]
    assert "reasoning_content" not in plain["result"]
    assert (default["result"]["text"], default["result"]["reasoning_content"]) == (ANSWER, TRACE)
    assert quick["result"]["model"] == "tribunal/quick"
    assert unknown["error"]["code"] == "model_not_found"
    assert reply["summary"]["completion_tokens"] == 3 + 2 * RESULT["usage"]["completion_tokens"]
    assert {ask.priority for ask in tribunals.asks} == {10}
    assert len(lines.text.splitlines()) == 2
