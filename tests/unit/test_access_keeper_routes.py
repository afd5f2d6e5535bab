"""The keeper over HTTP: who is answered, and what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access.counts import Counts
from app.access.estimate import Estimate
from app.access.keeper import Keeper
from app.access.keeper_routes import create_keeper_app
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.tally import Tally
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import NOT_FROM_EDGE
from tests.unit.access_fakes import BEGIN, INSIDE, SECRET, Clock, asking
from tests.unit.asgi import client_of, problem

GUARDED = [
    ("POST", "/used"), ("POST", "/items"), ("POST", "/items/done"), ("POST", "/models"), ("GET", "/metrics"),
    ("GET", "/v1/usage"),
]  # fmt: skip


@dataclass
class Desk:
    """A keeper over HTTP. alice, bob, carol: ids of keys, bob's in the group lab, carol's with a bound of tokens."""

    keeper: Keeper
    http: httpx.AsyncClient
    alice: str
    bob: str
    carol: str
    clock: Clock = field(default_factory=Clock)

    async def usage(self, *scopes: str, **query: str) -> httpx.Response:
        """As alice's key with these scopes asks; without any as the service itself does."""
        who = {HEADER: Principal(self.alice, scopes=scopes).to_header()} if scopes else {}
        return await self.http.get("/v1/usage", params=query, headers={**INSIDE, **who})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    store, ledger = KeyStore(tmp_path / "keys.json", clock), Ledger.open(tmp_path / "usage.db", clock=clock)
    keeper = Keeper(store, ledger, Estimate({"llama": 1000}), Tally(), clock, lambda: 1000.0)
    limits = Limits(requests_per_minute=1, bulk_items=10)
    alice, bob = (store.create(name, group, limits=limits)[0].id for name, group in (("alice", ""), ("bob", "lab")))
    carol = store.create("carol", limits=Limits(tokens_per_minute=1000))[0].id
    keeper.reload()
    async with client_of(create_keeper_app(keeper, SECRET)) as http:
        yield Desk(keeper, http, alice, bob, carol, clock)
    ledger.close()


@pytest.mark.parametrize("given", [{}, {SECRET_HEADER: ""}, {SECRET_HEADER: f"{SECRET}0"}, {HEADER: "{}"}])
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_nobody_without_the_secret_is_answered(desk: Desk, method: str, path: str, given: dict[str, str]) -> None:
    body = {"batch": "b", "events": [], "request": "r", "key": desk.alice, "items": 1, "tokens": 1, "count": 1,
            "context_tokens": {}}  # fmt: skip
    refused = await desk.http.request(method, path, json=body, headers=given)
    assert (refused.status_code, refused.text) == (401, f"{NOT_FROM_EDGE}\n")
    assert desk.keeper.ledger.usage() == []
    assert (await desk.http.request(method, path, json=body, headers=INSIDE)).is_success


async def test_other_models_are_estimated_by_their_own_context_and_counts_stay(desk: Desk) -> None:
    wanted = {"request": "r", "key": desk.alice, "items": 7, "tokens": 0}
    await desk.http.post("/items", json=wanted, headers=INSIDE)
    assert desk.keeper.estimate.tokens("llama", 8000, 1) == 1000
    told = await desk.http.post("/models", json={"context_tokens": {"llama": 64, "new": 32}}, headers=INSIDE)
    assert told.status_code == 204
    assert [desk.keeper.estimate.tokens(model, 8000, 1) for model in ("llama", "new", "old")] == [64, 32, 2001]
    more = await desk.http.post("/items", json={**wanted, "request": "s"}, headers=INSIDE)
    assert more.status_code == 429


@pytest.mark.parametrize(("method", "path"), [("POST", "/admit"), ("GET", "/used"), ("PUT", "/items"), ("GET", "/x")])
async def test_there_is_nothing_else(desk: Desk, method: str, path: str) -> None:
    assert (await desk.http.request(method, path, headers=INSIDE)).status_code in (404, 405)


async def test_the_edge_is_told_the_principal_and_what_is_left(desk: Desk) -> None:
    answer = await desk.http.get("/admit", headers=asking(desk.alice, **{"x-model": "llama", "x-body-bytes": "40"}))
    assert (answer.status_code, answer.content, answer.headers["x-corral-answer"]) == (200, b"", "1")
    assert Principal.from_header(answer.headers[HEADER]).key == desk.alice
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


async def test_the_edge_s_numbers_are_what_is_reserved(desk: Desk) -> None:
    asked = {"x-body-bytes": "400", "x-answer-tokens": "50", "x-answers": "3"}
    answer = await desk.http.get("/admit", headers=asking(desk.carol, **asked))
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - 100 - 3 * 50)
    wanted = {"request": "r1", "key": desk.carol, "items": 1, "tokens": 1001}
    never = await desk.http.post("/items", json=wanted, headers=INSIDE)
    assert (never.status_code, problem(never)["code"]) == (400, "quota_tokens_too_many")


async def test_the_edge_is_told_a_refusal_word_for_word(desk: Desk) -> None:
    await desk.http.get("/admit", headers=asking(desk.alice))
    over = await desk.http.get("/admit", headers=asking(desk.alice, **{"x-request": "r2"}))
    assert (over.status_code, problem(over)["code"], over.headers["retry-after"]) == (429, "quota_requests", "61")
    assert (over.headers["content-type"], over.headers["x-corral-answer"]) == ("application/json", "1")
    unknown = await desk.http.get("/admit", headers=asking("zzzzzzzz"))
    assert (unknown.status_code, problem(unknown)["code"]) == (401, "invalid_api_key")
    assert HEADER not in over.headers
    assert HEADER not in unknown.headers


async def test_a_request_that_tells_nothing_is_no_key(desk: Desk) -> None:
    assert (await desk.http.get("/admit", headers=INSIDE)).status_code == 401


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "1e9"])
async def test_numbers_that_are_none_are_left_out(desk: Desk, number: str) -> None:
    more = {"x-body-bytes": number, "x-answer-tokens": number, "x-answers": number}
    assert (await desk.http.get("/admit", headers=asking(desk.alice, **more))).status_code == 200


async def test_tokens_and_items_are_counted(desk: Desk) -> None:
    event = {"request": "r1", "key": desk.alice, "group": "", "model": "llama", "prompt_tokens": 3,
             "completion_tokens": 4}  # fmt: skip
    for _ in range(2):
        told = await desk.http.post("/used", json={"batch": "b1", "events": [event]}, headers=INSIDE)
        assert (told.status_code, told.content) == (204, b"")
    wanted = {"request": "r1", "key": desk.alice, "items": 10, "tokens": 40}
    held = await desk.http.post("/items", json=wanted, headers=INSIDE)
    assert (held.status_code, held.headers["x-corral-answer"]) == (200, "1")
    over = await desk.http.post("/items", json={**wanted, "request": "r2", "items": 1}, headers=INSIDE)
    assert (over.status_code, problem(over)["code"]) == (429, "quota_bulk_items")
    done = {"request": "r1", "key": desk.alice, "count": 10}
    assert (await desk.http.post("/items/done", json=done, headers=INSIDE)).status_code == 204
    rows = (await desk.usage(by="model")).json()["data"]
    assert [(row["model"], row["prompt_tokens"], row["bulk_items"]) for row in rows] == [
        ("/bulk", 0, 10),
        ("llama", 3, 0),
    ]
    metrics = await desk.http.get("/metrics", headers=INSIDE)
    assert 'corral_tokens_total{kind="prompt",model="llama"} 3.0' in metrics.text


@pytest.fixture
def used(desk: Desk) -> Desk:
    """With usage of both keys on two days."""
    for day in range(2):
        desk.clock.now = BEGIN + day * 86_400
        for key, group, requests in ((desk.alice, "", 1), (desk.bob, "lab", 10)):
            desk.keeper.ledger.note(key, group, "llama", Counts(requests * (day + 1)))
    return desk


def requests_of(response: httpx.Response, *names: str) -> list[tuple[Any, ...]]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "usage"
    return sorted((*(row[name] for name in names), row["requests"]) for row in body["data"])


async def test_a_key_sees_its_own_usage_only(used: Desk) -> None:
    own = [("2026-09-21", "alice", 1), ("2026-09-22", "alice", 2)]
    assert requests_of(await used.usage("models", "metrics"), "day", "name") == own
    assert requests_of(await used.usage("models", key=used.alice, by="key"), "key") == [(used.alice, 3)]
    refused = await used.usage("models", key=used.bob)
    assert (refused.status_code, problem(refused)["code"], problem(refused)["param"]) == (403, "not_allowed", "key")
    assert "its own usage only" in problem(refused)["message"]


@pytest.mark.parametrize("scopes", [("admin",), ()])
async def test_admin_and_the_service_see_everybody_s(used: Desk, scopes: tuple[str, ...]) -> None:
    assert requests_of(await used.usage(*scopes, by="key"), "name") == [("alice", 3), ("bob", 30)]
    assert requests_of(await used.usage(*scopes, by="group"), "group") == [("", 3), ("lab", 30)]
    assert requests_of(await used.usage(*scopes, key=used.bob, by="day"), "day") == [
        ("2026-09-21", 10),
        ("2026-09-22", 20),
    ]


async def test_both_days_are_counted_in(used: Desk) -> None:
    assert requests_of(await used.usage(since="2026-09-22", by="day"), "day") == [("2026-09-22", 22)]
    assert requests_of(await used.usage(until="2026-09-21", by="day"), "day") == [("2026-09-21", 11)]
    assert requests_of(await used.usage(since="2026-09-21", until="2026-09-22", by="model"), "model") == [("llama", 33)]
    assert requests_of(await used.usage(since="2026-09-23")) == []


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        ({"since": "yesterday"}, "since", "2026-11-21"),
        ({"until": "2026-02-30"}, "until", "'2026-02-30'"),
        ({"since": ""}, "since", "''"),
        ({"by": "day,colour"}, "by", "'colour'"),
        ({"by": ""}, "by", "day, key, group, model"),
        ({"page": "2"}, "page", "since, until, key and by"),
        ({"x" * 500: "2"}, "x" * 64, "unknown"),
    ],
)
async def test_a_bad_parameter_is_named(desk: Desk, query: dict[str, str], param: str, said: str) -> None:
    for scopes in (("admin",), ("models",)):
        refused = await desk.usage(*scopes, **query)
        assert (refused.status_code, problem(refused)["param"]) == (400, param)
        assert said in problem(refused)["message"]
