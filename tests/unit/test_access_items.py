"""Bulk items against a quota: the gateway asks a real keeper over HTTP before it asks any model."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from app.access.estimate import ANSWER_TOKENS, Estimate
from app.access.items import NOBODY, TELL_EVERY, Answered, KeeperItemQuota, NoItemQuota
from app.access.keeper import Keeper
from app.access.keeper_routes import create_keeper_app
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.tally import Tally
from app.relay import Upstream
from app.services import Services
from app.web import create_app
from deployments.errors import BadRequest, OverQuota, Unavailable
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import Door
from tests.unit.access_fakes import SECRET, acting_as
from tests.unit.asgi import client_of, problem
from tests.unit.fakes import FakeHerd, FakeModel
from tests.waiting import eventually

ALLOWED = 10


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The URL at which this app answers."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@dataclass
class Desk:
    """A keeper that serves, and what the gateway asks it with.

    alice: a key that may have ten items open. bob: one that may use a thousand tokens in any minute.
    """

    keeper: Keeper
    quota: KeeperItemQuota
    alice: Principal
    bob: Principal

    def answered(self) -> int:
        return sum(row.counts.bulk_items for row in self.keeper.ledger.usage())


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store, ledger = KeyStore(tmp_path / "keys.json"), Ledger.open(tmp_path / "usage.db")
    alice, _ = store.create("alice", limits=Limits(bulk_items=ALLOWED))
    bob, _ = store.create("bob", limits=Limits(tokens_per_minute=1000))
    keeper = Keeper(store, ledger, Estimate(), Tally(), local=lambda: 1000.0)
    keeper.reload()
    async with serving(create_keeper_app(keeper, SECRET)) as url:
        quota = KeeperItemQuota(url, SECRET)
        yield Desk(keeper, quota, Principal(alice.id, request="r1"), Principal(bob.id, request="r1"))
        await quota._client.aclose()
    ledger.close()


async def test_items_are_held_until_they_are_done(desk: Desk) -> None:
    with acting_as(desk.alice):
        await desk.quota.reserve(ALLOWED, 0)
    other = replace(desk.alice, request="r2")
    with acting_as(other), pytest.raises(OverQuota) as caught:
        await desk.quota.reserve(1, 0)
    assert (caught.value.reason, caught.value.retry_after_s) == ("quota_bulk_items", 5)
    assert "there are 10, and this call has 1" in caught.value.message
    with acting_as(desk.alice):
        await desk.quota.done(4)
    with acting_as(other):
        await desk.quota.reserve(4, 0)
    assert desk.answered() == 4


async def test_more_than_ever_allowed_is_a_bad_request(desk: Desk) -> None:
    with acting_as(desk.alice), pytest.raises(BadRequest, match="send fewer at once") as caught:
        await desk.quota.reserve(ALLOWED + 1, 0)
    assert caught.value.param == "items"


async def test_who_has_no_key_is_not_bounded(desk: Desk) -> None:
    with acting_as(Principal(request="r1")):
        await desk.quota.reserve(1 << 20, 1 << 20)


async def test_with_a_wrong_secret_nobody_can_say(desk: Desk) -> None:
    stranger = KeeperItemQuota(str(desk.quota._client.base_url), "wrong")
    with acting_as(desk.alice), pytest.raises(Unavailable, match=NOBODY):
        await stranger.reserve(1, 0)
    await stranger._client.aclose()


async def _broken(request: Request) -> Response:
    return PlainTextResponse("Internal Server Error", 500)


async def test_a_keeper_that_fails_is_no_fault_of_the_request() -> None:
    app = Starlette(routes=[Route("/items", _broken, methods=["POST"])])
    async with serving(app) as url:
        quota = KeeperItemQuota(url, SECRET)
        with pytest.raises(Unavailable, match=NOBODY):
            await quota.reserve(1, 0)
        await quota._client.aclose()


async def test_a_keeper_that_is_away_leaves_answers_alone(caplog: pytest.LogCaptureFixture) -> None:
    quota = KeeperItemQuota(nowhere(), SECRET, pauses_s=())
    with pytest.raises(Unavailable, match=NOBODY) as caught:
        await quota.reserve(1, 0)
    assert caught.value.state == "starting"
    await quota.done(3)
    assert "3 answered bulk items could not be told" in caplog.text
    await quota._client.aclose()


def nowhere() -> str:
    """A URL at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# Telling now and then.


@dataclass
class Told(NoItemQuota):
    """Keeps what it is told."""

    counts: list[int] = field(default_factory=list)

    async def done(self, items: int) -> None:
        self.counts.append(items)


@pytest.mark.parametrize(
    ("items", "told"),
    [(0, []), (1, [1]), (TELL_EVERY, [TELL_EVERY]), (2 * TELL_EVERY + 3, [TELL_EVERY, TELL_EVERY, 3])],
)
async def test_answered_items_are_told_in_batches_and_the_rest_at_the_end(items: int, told: list[int]) -> None:
    quota = Told()
    answered = Answered(quota)
    for _ in range(items):
        await answered.one()
    await answered.tell()
    await answered.tell()
    assert quota.counts == told


# POST /bulk.


def calling(count: int, **more: Any) -> dict[str, Any]:
    return {"model": "llama", "items": [{"prompt": f"item {number}"} for number in range(count)], **more}


@asynccontextmanager
async def caller(
    model: FakeModel,
    quota: KeeperItemQuota,
    who: Principal,
    estimate: Estimate = Estimate(),  # noqa: B008 (frozen)
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway over this quota, as the edge asks for this key."""
    upstream = Upstream(httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(500))))
    services = Services(
        {"llama": model}, {"llama": "llama"}, FakeHerd.ready("llama"), upstream, item_quota=quota, estimate=estimate
    )
    async with client_of(create_app(services, door=Door(SECRET))) as client:
        client.headers.update({SECRET_HEADER: SECRET, HEADER: who.to_header()})
        yield client


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_within_the_limit_is_answered_and_leaves_room_for_the_next(desk: Desk, stream: bool) -> None:
    model = FakeModel("llama")
    async with caller(model, desk.quota, desk.alice) as client:
        for calls in (1, 2):
            answer = await client.post("/bulk", json=calling(ALLOWED, stream=stream))
            assert (answer.status_code, len(model.requests)) == (200, calls * ALLOWED)
            assert desk.answered() == calls * ALLOWED


async def test_items_that_are_refused_at_once_are_not_held(desk: Desk) -> None:
    async with caller(FakeModel("llama"), desk.quota, desk.alice) as client:
        body = calling(ALLOWED)
        body["items"] += [{"prompt": 7}, "text", {"prompt": "x", "model": "unknown"}]
        answer = await client.post("/bulk", json=body)
    assert (answer.status_code, answer.json()["summary"]["failed"]) == (200, 3)
    assert desk.answered() == ALLOWED


async def test_a_call_over_the_limit_asks_no_model(desk: Desk) -> None:
    model = FakeModel("llama")
    with acting_as(replace(desk.alice, request="another")):
        await desk.quota.reserve(ALLOWED - 2, 0)
    async with caller(model, desk.quota, desk.alice) as client:
        for body in (calling(3), calling(3, stream=True)):
            refused = await client.post("/bulk", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert (problem(refused)["code"], problem(refused)["type"]) == ("quota_bulk_items", "rate_limit_error")
        assert model.requests == []
        assert (await client.post("/bulk", json=calling(2))).status_code == 200


async def test_a_call_that_could_never_be_asks_no_model(desk: Desk) -> None:
    model = FakeModel("llama")
    async with caller(model, desk.quota, desk.alice) as client:
        refused = await client.post("/bulk", json=calling(ALLOWED + 1))
    assert (refused.status_code, problem(refused)["param"], model.requests) == (400, "items", [])


def left(desk: Desk) -> int:
    """Tokens that bob may still use in this minute."""
    return int(desk.keeper.quota.headroom(desk.bob.key, "")["x-ratelimit-remaining-tokens"])


async def test_a_call_reserves_the_tokens_that_its_items_may_take(desk: Desk) -> None:
    """An item's text by its bytes; its answer by max_tokens, its own or the call's, or else by the usual guess."""
    parts = [{"type": "text", "text": "x" * 40}, {"type": "text", "text": "ä" * 20}]
    items: list[object] = [
        {"prompt": "x" * 40, "max_tokens": 7}, {"messages": [{"role": "user", "content": parts}]},
        {"prompt": 7}, "text", {"prompt": "x", "model": "unknown"},
    ]  # fmt: skip
    async with caller(FakeModel("llama"), desk.quota, desk.bob) as client:
        body = {"model": "llama", "items": items, "defaults": {"max_tokens": 100}}
        assert (await client.post("/bulk", json=body)).status_code == 200
        assert left(desk) == 1000 - (10 + 7) - (20 + 100)
        answer = await client.post("/bulk", json=calling(1))
    assert answer.status_code == 200
    assert left(desk) == 1000 - (1 + ANSWER_TOKENS)  # of one request there is one call


async def test_a_model_s_context_bounds_what_an_item_may_take(desk: Desk) -> None:
    async with caller(FakeModel("llama"), desk.quota, desk.bob, Estimate({"llama": 60})) as client:
        assert (await client.post("/bulk", json=calling(10))).status_code == 200
    assert left(desk) == 1000 - 10 * 60


async def test_a_call_over_the_tokens_of_a_minute_asks_no_model(desk: Desk) -> None:
    model = FakeModel("llama")
    with acting_as(replace(desk.bob, request="another")):
        await desk.quota.reserve(1, 900)
    async with caller(model, desk.quota, desk.bob) as client:
        for body in (calling(10, defaults={"max_tokens": 10}), calling(10, stream=True, defaults={"max_tokens": 10})):
            refused = await client.post("/bulk", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "61")
            assert (problem(refused)["code"], problem(refused)["type"]) == ("quota_tokens", "rate_limit_error")
        assert model.requests == []
        assert (await client.post("/bulk", json=calling(10, defaults={"max_tokens": 8}))).status_code == 200


async def test_a_call_that_could_never_have_its_tokens_says_so(desk: Desk) -> None:
    """Ten thousand items of a long answer each are no single request."""
    model = FakeModel("llama")
    async with caller(model, desk.quota, desk.bob) as client:
        refused = await client.post("/bulk", json=calling(10_000, defaults={"max_tokens": 4000}))
    assert (refused.status_code, problem(refused)["code"], model.requests) == (400, "quota_tokens_too_many", [])
    assert "this call may take 40019900: send fewer items at once" in problem(refused)["message"]


async def test_without_a_keeper_nothing_is_asked() -> None:
    model, quota = FakeModel("llama"), KeeperItemQuota(nowhere(), SECRET, pauses_s=())
    async with caller(model, quota, Principal("aaaaaaaa")) as client:
        refused = await client.post("/bulk", json=calling(1))
    assert (refused.status_code, problem(refused)["message"], model.requests) == (503, NOBODY, [])
    await quota._client.aclose()


async def test_the_end_of_a_call_gives_back_what_was_not_answered(desk: Desk) -> None:
    with acting_as(desk.alice):
        await desk.quota.reserve(ALLOWED, 0)
    seen = {"uid": "r1", "method": "POST", "path": "/bulk", "key": desk.alice.key, "model": "-", "status": 499}
    desk.keeper.ended(json.dumps(seen).encode())
    with acting_as(replace(desk.alice, request="r2")):
        await desk.quota.reserve(ALLOWED, 0)
