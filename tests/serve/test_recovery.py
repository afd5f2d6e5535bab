"""An engine process is killed: its model comes back by itself, and no other model notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.serve.hang_up import asking, read_all, read_until
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve

VICTIM, BYSTANDER = "pocket-8b", "pocket-1b"
MESSAGES = [{"role": "user", "content": "Write and write."}]
LONG = {"model": VICTIM, "messages": MESSAGES, "max_tokens": 1900, "ignore_eos": True}
SHORT = {"model": BYSTANDER, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}


@contextmanager
def steady_load(url: str) -> Iterator[list[str]]:
    """Ask the bystander again and again; yields what it answered, errors too."""
    answers: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while not ended.wait(0.1):
                try:
                    response = http.post("/v1/chat/completions", json=SHORT)
                    answers.append(response.json()["choices"][0]["message"]["content"])
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    answers.append(f"failed: {error!r}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def answers_again(http: httpx.Client) -> bool:
    try:
        response = http.post("/v1/chat/completions", json={**LONG, "max_tokens": 4}, timeout=30)
    except httpx.HTTPError:
        return False
    return response.status_code == 200 and bool(response.json()["choices"][0]["message"]["content"])


def kill_engine(service: RunningService) -> None:
    engine = service.engine_processes(VICTIM)[0]
    engine.kill()
    psutil.wait_procs([engine], timeout=10)


def test_a_killed_engine_comes_back_and_no_other_model_notices(service: RunningService, http: httpx.Client) -> None:
    until(lambda: answers_again(http), what=f"{VICTIM} up")
    with steady_load(service.url) as answers:
        until(lambda: len(answers) >= 3, what="a load on the bystander")
        with (
            asking(service.url, "/v1/chat/completions", {**LONG, "stream": True}) as stream,
            asking(service.url, "/v1/chat/completions", LONG) as whole,
        ):
            read_until(stream, b"data: ", 5)
            until(lambda: service.running(VICTIM) == 2, what="both requests in the engine")
            kill_engine(service)
            streamed, waited = read_all(stream), read_all(whole)
        seen = len(answers)
        until(lambda: answers_again(http), what=f"{VICTIM} back")
        until(lambda: len(answers) > seen, what="more of the load answered")
    assert b'"error"' in streamed or not streamed.endswith(b"0\r\n\r\n"), streamed[-500:]
    assert b'"finish_reason":"' not in streamed, streamed[-500:]
    assert not waited.startswith(b"HTTP/1.1 200")
    assert len(set(answers)) == 1, set(answers)
    assert not answers[0].startswith("failed")
