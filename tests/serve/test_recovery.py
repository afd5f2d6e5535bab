"""A model's only engine is killed: what was under way says so, and the model comes back by itself."""

from __future__ import annotations

import httpx
import psutil
import pytest

from tests.serve.hang_up import asking, read_all, read_until
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve

VICTIM = "pocket-8b"
MESSAGES = [{"role": "user", "content": "Write and write."}]
LONG = {"model": VICTIM, "messages": MESSAGES, "max_tokens": 1900, "ignore_eos": True}


def answers(http: httpx.Client) -> bool:
    try:
        response = http.post("/v1/chat/completions", json={**LONG, "max_tokens": 4}, timeout=30)
    except httpx.HTTPError:
        return False
    return response.status_code == 200 and bool(response.json()["choices"][0]["message"]["content"])


def kill_engine(service: RunningService) -> None:
    engine = service.engine_processes(VICTIM)[0]
    engine.kill()
    psutil.wait_procs([engine], timeout=10)


def test_the_only_engine_is_killed_and_comes_back(service: RunningService, http: httpx.Client) -> None:
    until(lambda: answers(http), what=f"{VICTIM} up")
    with (
        asking(service.url, "/v1/chat/completions", {**LONG, "stream": True}) as stream,
        asking(service.url, "/v1/chat/completions", LONG) as whole,
    ):
        read_until(stream, b"data: ", 5)
        until(lambda: service.running(VICTIM) == 2, what="both requests in the engine")
        kill_engine(service)
        streamed, waited = read_all(stream), read_all(whole)
    until(lambda: answers(http), what=f"{VICTIM} back")
    assert b'data: {"error"' in streamed, streamed[-500:]
    assert b"[DONE]" not in streamed
    assert b'"finish_reason":"' not in streamed, streamed[-500:]
    assert waited.startswith(b"HTTP/1.1 503"), waited[:500]
    assert b'"code": "engine_failed"' in waited
