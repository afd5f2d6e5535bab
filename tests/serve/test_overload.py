"""A full queue says so: 429 with Retry-After in OpenAI's shape, and nothing that was taken is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

TOKENS = 150
ENDLESS = {"type": "json_schema", "json_schema": {"name": "endless", "schema": {"type": "string", "minLength": 1000}}}
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True},
    "/v1/completions": {"prompt": "Hi", "ignore_eos": True},
    "/generate": {"prompt": "Hi", "response_format": ENDLESS},
}
"""Path -> a request to `narrow`, which takes one at a time and lets one wait, that takes TOKENS to answer."""


async def ask(http: httpx.AsyncClient, path: str, **more: Any) -> httpx.Response:
    return await http.post(path, json={"model": "narrow", "max_tokens": TOKENS, **ASKS[path], **more})


@pytest.mark.parametrize("path", ASKS)
async def test_more_than_the_queue_holds_are_refused_and_the_rest_answered(ahttp: httpx.AsyncClient, path: str) -> None:
    responses = await asyncio.gather(*(ask(ahttp, path) for _ in range(8)))
    answered = [response for response in responses if response.status_code == 200]
    refused = [response for response in responses if response.status_code == 429]
    assert len(answered) + len(refused) == 8
    assert answered
    assert refused
    assert [response.json()["usage"]["completion_tokens"] for response in answered] == [TOKENS] * len(answered)
    for response in refused:
        assert int(response.headers["retry-after"]) >= 1
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")


async def test_a_refused_stream_is_refused_before_it_starts(ahttp: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(ask(ahttp, "/v1/chat/completions", stream=True) for _ in range(8)))
    for response in responses:
        if response.status_code == 200:
            assert response.text.rstrip().endswith("data: [DONE]")
            assert '"error"' not in response.text
        else:
            assert response.status_code == 429
            assert response.json()["error"]["code"] == "queue_full"
    assert {response.status_code for response in responses} == {200, 429}


async def test_who_comes_again_is_answered(ahttp: httpx.AsyncClient) -> None:
    async def persistent() -> httpx.Response:
        while (response := await ask(ahttp, "/v1/chat/completions")).status_code == 429:
            await asyncio.sleep(0.2)
        return response

    responses = await asyncio.wait_for(asyncio.gather(*(persistent() for _ in range(5))), 120)
    assert [response.status_code for response in responses] == [200] * 5


async def test_bulk_waits_for_room_instead_of_failing(ahttp: httpx.AsyncClient) -> None:
    bulk = await ahttp.post(
        "/bulk", json={"model": "narrow", "defaults": {"max_tokens": 4}, "items": [{"prompt": "Hi"}] * 4}
    )
    assert bulk.json()["summary"]["succeeded"] == 4


async def test_a_full_model_does_not_hold_up_another(ahttp: httpx.AsyncClient) -> None:
    crowd = [asyncio.create_task(ask(ahttp, "/v1/chat/completions")) for _ in range(6)]
    other = await ahttp.post("/generate", json={"model": "pocket-1b", "prompt": "Hi", "max_tokens": 4})
    await asyncio.gather(*crowd)
    assert other.status_code == 200
