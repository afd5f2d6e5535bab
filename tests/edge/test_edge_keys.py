"""A real HAProxy checks keys by itself, and asks a real keeper about each request that has one."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.access.limits import Limits
from app.edge import EdgeError, EdgeSpec
from deployments.principal import HEADER, SECRET_HEADER, Principal
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import ASKED, CHAT, SECRET, Kept, bearer, edge_with_keys, started
from tests.waiting import until


@pytest.fixture
def spec(make_spec: MakeSpec) -> EdgeSpec:
    return make_spec(secret=SECRET, keeper=True, admission=True, bufsize=64 << 10, max_body=1 << 20)


@pytest.fixture
async def kept(spec: EdgeSpec, serve: Backend, tmp_path: Path) -> AsyncIterator[Kept]:
    async with edge_with_keys(spec, tmp_path) as kept:
        yield kept


async def test_without_a_key_only_health_and_the_page_answer(kept: Kept, serve: Backend) -> None:
    for path in ("/health", "/", "/static/main.js"):
        assert (await kept.client.get(path)).status_code == 200, path
    serve.seen.clear()
    for path in (
        "/ready",
        "/metrics",
        "/v1/models",
        "/docs",
        "/v1/usage",
        "/v1/rag/collections",
        "/static",
        "/health/",
    ):
        answer = await kept.client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == 'Bearer realm="corral"'
        assert answer.json()["error"]["code"] == "missing_api_key"
    assert (await kept.client.post(CHAT, json=ASKED)).json()["error"]["code"] == "missing_api_key"
    assert serve.seen == []


WRONG = [
    "x", "corral-", "corral-abcdefgh-", f"corral-abcdefgh-{'a' * 48}", f"corral-ABCDEFGH-{'a' * 48}",
    f"sk-{'a' * 48}", "a" * 5000, "corral-abcdefgh.old-" + "a" * 48, "Bearer",
]  # fmt: skip


async def test_wrong_keys_reach_nothing(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create()
    near = [text[:-1], f"{text}0", text[:-1] + ("0" if text[-1] != "0" else "1"), text.upper(), f"{text} x"]
    for wrong in [*WRONG, *near]:
        for headers in ({"authorization": f"Bearer {wrong}"}, {"x-api-key": wrong}, {"authorization": wrong}):
            answer = await kept.client.post(CHAT, json=ASKED, headers=headers)
            assert answer.status_code == 401, headers
            assert wrong not in answer.text or len(wrong) < 8
    assert serve.seen == []


async def test_a_key_is_taken_in_both_headers_and_not_passed_on(kept: Kept, serve: Backend) -> None:
    record, text = await kept.create(scopes=("models", "rag:a"), weight=2.5)
    liar = {HEADER: Principal(scopes=("admin",)).to_header(), SECRET_HEADER: "mine", "x-corral-more": "1"}
    for headers in (bearer(text), {"authorization": f"bEaReR   {text}"}, {"x-api-key": text}):
        serve.seen.clear()
        answer = await kept.client.post(CHAT, json=ASKED, headers={**headers, **liar, "x-request-id": "r-1"})
        assert answer.status_code == 200, answer.text
        (seen,) = serve.seen
        assert seen.path == f"/models/m-a{CHAT}"
        assert seen.all(SECRET_HEADER) == [SECRET]
        told = Principal.from_header(seen.all(HEADER)[0])
        assert replace(told, request="") == Principal(record.id, "", record.scopes, 2.5, 1)
        assert told.request not in ("", "r-1")  # the client's may be another's as well
        assert seen.all("x-corral-more") == []
        assert text not in str(seen.headers)
    log = (kept.folder / "edge.log").read_text()
    assert f'"key":"{record.id}"' in log
    assert text.rpartition("-")[2] not in log


async def test_scopes_are_held_before_anything_is_passed_on(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(scopes=("models:m-b",))
    assert (await kept.ask(text, model="m-b")).status_code == 200
    serve.seen.clear()
    for answer in (
        await kept.ask(text),
        await kept.ask(text, model="m-a.lora"),
        await kept.ask(text, model="tribunal"),
        await kept.client.get("/metrics", headers=bearer(text)),
        await kept.client.post("/v1/tribunal", json={}, headers=bearer(text)),
        await kept.client.get("/v1/rag/collections", headers=bearer(text)),
        await kept.client.post("/v1/load_lora_adapter", json={}, headers=bearer(text)),
    ):
        assert answer.status_code == 403, answer.text
        assert "it needs the scope" in answer.json()["error"]["message"]
    assert serve.seen == []


async def test_revoking_ends_a_key_and_rotating_replaces_it(kept: Kept) -> None:
    record, text = await kept.create()
    _, other = await kept.create()
    _, fresh = kept.store.rotate(record.id, grace_s=3600)
    await kept.take()
    assert [(await kept.ask(each)).status_code for each in (text, fresh)] == [200, 200]
    kept.store.rotate(record.id)
    await kept.take()
    assert [(await kept.ask(each)).status_code for each in (text, fresh, other)] == [401, 401, 200]
    kept.store.revoke(other)
    await kept.take()
    assert (await kept.ask(other)).status_code == 401


async def test_no_more_requests_at_once_than_allowed(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(limits=Limits(concurrent_requests=3))
    serve.hold = asyncio.Event()
    asking = [asyncio.create_task(kept.ask(text)) for _ in range(12)]
    while len(serve.seen) < 3 or sum(task.done() for task in asking) < 9:
        await asyncio.sleep(0.01)
    refused = [task.result() for task in asking if task.done()]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(429, "quota_concurrent")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    serve.hold.set()
    assert [(await task).status_code for task in asking].count(200) == 3
    assert len(serve.seen) == 3
    assert (await kept.ask(text)).status_code == 200


async def test_a_client_that_leaves_gives_its_place_back(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(limits=Limits(concurrent_requests=1))
    serve.hold = asyncio.Event()
    left = asyncio.create_task(kept.ask(text))
    await serve.arrived.wait()
    assert (await kept.ask(text)).status_code == 429
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    serve.hold.set()
    for _ in range(100):
        if (await kept.ask(text)).status_code == 200:
            break
        await asyncio.sleep(0.05)
    assert (await kept.ask(text)).status_code == 200


async def test_groups_share_their_places(kept: Kept, serve: Backend) -> None:
    kept.store.set_group("physics", Limits(concurrent_requests=2))
    keys = [(await kept.create(group="physics"))[1] for _ in range(3)]
    _, free = await kept.create()
    serve.hold = asyncio.Event()
    asking = [asyncio.create_task(kept.ask(text)) for text in [*keys, free]]
    while len(serve.seen) < 3 or not any(task.done() for task in asking):
        await asyncio.sleep(0.01)
    serve.hold.set()
    statuses = [(await task).status_code for task in asking]
    assert sorted(statuses[:3]) == [200, 200, 429]
    assert statuses[3] == 200


async def test_rates_are_refused_with_when_to_come_again(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(limits=Limits(requests_per_minute=2, tokens_per_minute=100_000))
    answers = [await kept.ask(text) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert [answer.headers.get("x-ratelimit-remaining-requests") for answer in answers] == ["1", "0", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-tokens"] == "100000"
    assert answers[3].json()["error"]["code"] == "quota_requests"
    assert 50 <= int(answers[3].headers["retry-after"]) <= 61
    assert len(serve.seen) == 2
    _, small = await kept.create(limits=Limits(tokens_per_minute=50))
    never = await kept.ask(small, max_tokens=100)
    assert never.status_code == 400
    assert never.json()["error"]["code"] == "quota_tokens_too_many"
    assert "retry-after" not in never.headers


SAID = {"role": "user", "content": [{"type": "text", "text": "[["}]}


async def test_tokens_are_reserved_for_what_a_body_asks_wherever_it_goes(kept: Kept) -> None:
    """A body's bytes by four, and max_tokens, for each of n answers; of a bulk call its items are told later."""
    cases: list[tuple[str, dict[str, object], int]] = [
        (CHAT, {"model": "m-a", "max_tokens": 100, "n": 5}, 500),
        ("/v1/completions", {"model": "m-a", "n": 3, "prompt": "x"}, 3 * 512),
        (CHAT, {"model": "m-a", "max_tokens": 100, "n": -5}, 100),
        ("/v1/completions", {"model": "m-a", "max_tokens": 9, "prompt": ['a"], [', "[\\", "c"]}, 27),
        ("/v1/completions", {"model": "m-a", "max_tokens": 9, "n": 2, "prompt": [[1, 2], [3]]}, 36),
        ("/v1/completions", {"model": "m-a", "max_tokens": 9, "prompt": [1, 2, 3]}, 9),
        ("/v1/completions", {"model": "m-a", "max_tokens": 9, "prompt": '["a", "b", "c"]'}, 9),
        (CHAT, {"model": "m-a", "max_tokens": 9, "messages": [SAID, SAID]}, 9),
        (CHAT, {"model": "m-a", "max_tokens": 9, "messages": [[SAID, SAID], [SAID], [SAID]]}, 27),
        ("/generate", {"model": "m-a", "max_tokens": 700, "prompt": "x" * 400}, 700),
        ("/generate", {"max_tokens": 100_000, "prompt": "x", "model": "m-a"}, 2048),
        ("/generate", {"prompt": "x"}, 512),
        ("/v1/tribunal", {"question": "x", "max_tokens": 3000}, 3000),
        ("/v1/rag/chat", {"question": "x", "max_tokens": 40}, 40),
        ("/v1/rag/search", {"query": "x", "max_tokens": 40}, 512),
        ("/bulk", {"items": ["x" * 400], "max_tokens": 4000, "n": 7}, 0),
    ]
    limits = Limits(tokens_per_minute=100_000)
    keys = [kept.store.create(f"key{number}", limits=limits)[1] for number in range(len(cases))]
    await kept.take()
    for key, (path, body, answers) in zip(keys, cases, strict=True):
        content = json.dumps(body).encode()
        answer = await kept.client.post(path, content=content, headers=bearer(key))
        assert answer.status_code == 200, answer.text
        reserved = 100_000 - int(answer.headers["x-ratelimit-remaining-tokens"])
        assert reserved == (2048 if answers == 2048 else len(content) // 4 + answers), (path, body)


@pytest.mark.parametrize("path", ["/generate", "/v1/tribunal"])
async def test_what_could_never_fit_is_refused_before_the_gateway_reads_it(
    kept: Kept, serve: Backend, path: str
) -> None:
    _, text = await kept.create(limits=Limits(tokens_per_minute=1000))

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"model": "none", "max_tokens": '
        yield b"5000}"

    for content in (b'{"model": "none", "max_tokens": 5000}', pieces()):
        refused = await kept.client.post(path, content=content, headers=bearer(text))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "quota_tokens_too_many")
        assert "set max_tokens lower" in refused.json()["error"]["message"]
    assert serve.seen == []


async def test_no_interleaving_gets_past_a_quota(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(limits=Limits(requests_per_minute=40))
    statuses = [answer.status_code for answer in await asyncio.gather(*(kept.ask(text) for _ in range(120)))]
    assert statuses.count(200) == 40 == len(serve.seen)
    assert statuses.count(429) == 80


def written(ledger: Path) -> list[tuple[str, int, int]]:
    """Model, requests and prompt tokens, as the file has them."""
    with closing(sqlite3.connect(ledger)) as connection:
        return list(connection.execute("SELECT model, sum(requests), sum(prompt_tokens) FROM usage GROUP BY model"))


async def test_usage_is_told_and_survives_a_killed_keeper(kept: Kept, spec: EdgeSpec, serve: Backend) -> None:
    await kept.edge.reload(replace(spec, keeper_wait_s=15))
    record, text = await kept.create()
    assert (await kept.ask(text)).status_code == 200
    events = [{"request": "r", "key": record.id, "group": "", "model": "m-a", "prompt_tokens": 5,
               "completion_tokens": 7, "outcome": "done"}]  # fmt: skip
    inside = httpx.AsyncClient(base_url=f"http://127.0.0.1:{kept.config.port}", trust_env=False)
    async with inside:
        assert (await inside.post("/used", json={"batch": "b", "events": events})).status_code == 401
        told = {"batch": "b", "events": events}
        for _ in range(2):
            assert (await inside.post("/used", json=told, headers={SECRET_HEADER: SECRET})).status_code == 204
    await asyncio.to_thread(until, lambda: written(kept.folder / "usage.db") == [("m-a", 1, 5)], 30, "the ledger")
    before = (await kept.client.get("/v1/usage", headers=bearer(text))).json()["data"]
    assert [(row["model"], row["requests"], row["prompt_tokens"]) for row in before] == [("m-a", 1, 5)]
    kept.keeper.kill()
    await kept.keeper.wait()
    asking = asyncio.create_task(kept.ask(text))
    kept.keeper = await started(kept.config)
    assert (await asking).status_code == 200
    after = (await kept.client.get("/v1/usage", headers=bearer(text))).json()["data"]
    assert after[0]["prompt_tokens"] == 5
    assert after[0]["name"] == "somebody"


async def test_without_a_keeper_nobody_is_let_in(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create()
    kept.keeper.kill()
    await kept.keeper.wait()
    answer = await kept.ask(text)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "admission_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert serve.seen == []


async def test_keys_outlive_a_reload_and_a_restart(kept: Kept, spec: EdgeSpec) -> None:
    _, text = await kept.create()
    await kept.edge.reload(spec)
    assert (await kept.ask(text)).status_code == 200
    assert kept.edge.pid
    os.kill(kept.edge.pid, 9)
    await kept.edge.wait()
    await kept.edge.start()
    assert (await kept.ask(text)).status_code == 200


async def test_a_body_that_names_strange_models_harms_nothing(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create(scopes=("admin",))
    for model in ("m-a\r\nx-key: other", "m-a\nx-corral-answer: 1", '"', "\\", "\x00", "ä" * 400, "x" * 9000):
        content = json.dumps({"model": model}).encode()
        answer = await kept.client.post(CHAT, content=content, headers=bearer(text))
        assert answer.status_code == 200, (model, answer.text)


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/tribunal", CHAT])
async def test_who_leaves_while_the_keeper_is_asked_gets_nothing_done(kept: Kept, serve: Backend, path: str) -> None:
    """HAProxy may not wait any more then, and would go on with the next rule."""
    _, text = await kept.create(scopes=("models:m-b",))
    body = json.dumps(ASKED).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {text}\r\ncontent-length: {len(body)}\r\n\r\n"
    port = int(str(kept.client.base_url).rstrip("/").rpartition(":")[2])
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body[:-1])
        await writer.drain()
        await asyncio.sleep(0.002)
        writer.write(body[-1:])
        writer.write_eof()
        await reader.read()
        writer.close()
    assert serve.seen == []


async def test_strangers_on_open_paths_are_passed_on_as_nobody(kept: Kept, serve: Backend) -> None:
    for path in ("/", "/health", "/static/main.js"):
        serve.seen.clear()
        assert (await kept.client.get(path)).status_code == 200
        assert Principal.from_header(serve.seen[0].all(HEADER)[0]).scopes == ()


@pytest.mark.parametrize(
    "path", ["/static/%zz/../../v1/models", "/%", "/internal/x%", "/models/m-a%2", "/v1/models%zz"]
)
async def test_what_cannot_be_decoded_is_no_path(kept: Kept, serve: Backend, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", kept.client.base_url.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    assert serve.seen == []


async def test_what_steers_vllm_from_outside_is_left_out(kept: Kept, serve: Backend) -> None:
    _, text = await kept.create()
    steering = ("x-vllm-priority", "serve_multiplexed_model_id", "x-request-disconnect-disabled",
                "x-request-timeout-seconds", "x-data-parallel-rank")  # fmt: skip
    headers = {**bearer(text), **dict.fromkeys(steering, "-9")}
    assert (await kept.client.post(CHAT, json=ASKED, headers=headers)).status_code == 200
    assert [name for name, _ in serve.seen[0].headers if name in steering] == []


async def test_a_key_asks_no_more_often_than_a_service_bears(kept: Kept, spec: EdgeSpec, serve: Backend) -> None:
    await kept.edge.reload(replace(spec, most_per_second=5))
    _, text = await kept.create()
    answers = await asyncio.gather(*(kept.client.get("/v1/models", headers=bearer(text)) for _ in range(40)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["error"]["code"] for answer in refused} == {"quota_rate"}
    assert len(serve.seen) == 40 - len(refused) < 30


async def test_keys_are_replaced_at_once_or_not_at_all(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    record, old = await kept.create()
    asked = kept.edge._admin.ask
    failed: list[str] = []

    async def fails_once(command: str) -> str:
        if command.startswith("add map") and not failed:
            failed.append(command)
            raise EdgeError("no room")
        return await asked(command)

    monkeypatch.setattr(kept.edge._admin, "ask", fails_once)
    _, fresh = kept.store.rotate(record.id)
    with pytest.raises(EdgeError):
        await kept.take()
    assert [(await kept.ask(each)).status_code for each in (old, fresh)] == [200, 401]
    await kept.take()
    assert [(await kept.ask(each)).status_code for each in (old, fresh)] == [401, 200]
