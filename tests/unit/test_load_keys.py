"""The load test of keys: its profiles are valid, and what it counts is what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from app.settings import load_settings
from loadtests.client.exchange import open_session
from loadtests.keys import KEYS, Service, first_tokens, loaded, profile

EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize("keys", ["off", KEYS])
def test_its_profiles_are_of_one_model(tmp_path: Path, keys: str) -> None:
    settings = load_settings(profile(tmp_path, "pocket-8b", keys), {})
    assert list(settings.models) == ["pocket-8b"]
    assert settings.access.keys == keys
    assert settings.access.file == tmp_path / "keys" / "keys.json"


@asynccontextmanager
async def service(*pieces: bytes, status: int = 200) -> AsyncIterator[tuple[Service, list[str | None]]]:
    """Answers with these pieces; notes the keys that it was asked with."""
    keys: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers.get("authorization"))
        response = web.StreamResponse(status=status, headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Service(f"http://127.0.0.1:{port}", "corral-x"), keys
    finally:
        await runner.cleanup()


async def test_an_answer_is_complete_with_its_last_word() -> None:
    async with open_session() as session:
        async with service(EVENT, b"data: [DONE]\n\n") as (side, keys):
            answer = await side.ask(session, 3, 1)
            assert (answer.status, answer.complete, keys) == (200, True, ["Bearer corral-x"])
            assert 0 < answer.first_s <= answer.whole_s
        async with service(EVENT) as (side, _):
            assert not (await side.ask(session, 3, 1)).complete
        async with service(status=429) as (side, _):
            assert (await side.ask(session, 3, 1)).status == 429
            assert side.seen == {429: 1}
        assert (await Service("http://127.0.0.1:9").ask(session, 3, 1)).status == 0


async def test_users_ask_until_it_is_over() -> None:
    async with open_session() as session, service(EVENT, b"data: [DONE]\n\n") as (side, _):
        async with loaded(lambda: side.ask(session, 1, 1), 3):
            while side.seen[200] < 9:
                await asyncio.sleep(0)
        before = side.seen[200]
        await asyncio.sleep(0)
        assert side.seen[200] == before >= 9


async def test_a_person_who_is_refused_makes_no_figure() -> None:
    async with open_session() as session, service(status=429) as (side, _):
        with pytest.raises(AssertionError):
            await first_tokens(side, session, 1, 1)
