"""Whom a replica's full queue turns away is told so by the edge for as long as the replica says; nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.access.limits import Limits
from deployments.errors import FULL_MS
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import ASKED, SECRET, Kept, bearer, edge_with_keys

LONG_MS, SHORT_MS = "60000", "1"


@pytest.fixture
async def kept(make_spec: MakeSpec, serve: Backend, tmp_path: Path) -> AsyncIterator[Kept]:
    async with edge_with_keys(make_spec(secret=SECRET, keeper=True, admission=True), tmp_path) as kept:
        yield kept


def fill(serve: Backend, for_ms: str | None = LONG_MS) -> None:
    serve.status, serve.headers = 429, {"retry-after": "7"}
    if for_ms:
        serve.headers[FULL_MS] = for_ms


async def test_a_refusal_is_told_again_without_asking_the_replica(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create()
    fill(serve)
    first = await kept.ask(text)
    assert (first.status_code, first.headers["retry-after"], first.json()["from"]) == (429, "7", "serve")
    for _ in range(20):
        again = await kept.ask(text)
        assert (again.status_code, again.headers["retry-after"]) == (429, "7")
        error = again.json()["error"]
        assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
        assert error["message"] == "The queue of m-a is full, and this key has its share of it; try again in 7 s."
        assert FULL_MS not in {*first.headers, *again.headers}
    assert len(serve.seen) == 1


async def test_others_and_other_questions_are_asked(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create()
    _, quiet = await kept.create()
    fill(serve)
    assert (await kept.ask(text)).status_code == 429
    serve.status, serve.headers = 200, {}
    assert (await kept.ask(text)).status_code == 429
    assert (await kept.ask(quiet)).status_code == 200
    assert (await kept.ask(text, model="m-b")).status_code == 200
    assert (await kept.client.post("/tokenize", json=ASKED, headers=bearer(text))).status_code == 200
    assert (await kept.client.get("/v1/models", headers=bearer(text))).status_code == 200
    assert (await kept.ask(text)).status_code == 429


@pytest.mark.parametrize("for_ms", [SHORT_MS, None, "x", "-5"])
async def test_it_holds_no_longer_than_the_replica_says(kept: Kept, serve: Backend, for_ms: str | None) -> None:
    _, text = await kept.create()
    fill(serve, for_ms)
    assert (await kept.ask(text)).status_code == 429
    await asyncio.sleep(0.1)
    serve.status, serve.headers = 200, {}
    assert (await kept.ask(text)).status_code == 200


async def test_a_refusal_takes_nothing_of_the_quota_and_tells_what_is_left(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(limits=Limits(requests_per_minute=3))
    fill(serve)
    first = await kept.ask(text)
    for _ in range(5):
        again = await kept.ask(text)
        assert again.json()["error"]["code"] == "queue_full"
        name = "x-ratelimit-remaining-requests"
        assert again.headers[name] == first.headers[name] == "2"
