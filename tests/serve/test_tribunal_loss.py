"""A member's engine is killed in the middle: the others go on, and the trace says who was missing."""

from __future__ import annotations

import json
from typing import Any

import httpx
import psutil
import pytest

from tests.serve.hang_up import asking, read_all, read_until
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve

VICTIM = "pocket-8b"
BODY = {
    "question": "Passage: The joondarpang module was installed by Wendy Cole.\n\nQuestion: Who maintains joondarpang?",
    "stream": True,
    "config": {
        "strategy": "council", "chair": "pocket-1b", "temperature": 0, "max_tokens": 64, "self_review": True,
        "members": ["pocket-1b", "narrow", VICTIM], "stop": {"consensus": None, "leader": False},
    },
}  # fmt: skip
"""A review takes models this small seconds."""


def answers(http: httpx.Client) -> bool:
    body = {"model": VICTIM, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    try:
        return http.post("/v1/chat/completions", json=body, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def kill_engine(service: RunningService) -> None:
    engine = service.engine_processes(VICTIM)[0]
    engine.kill()
    psutil.wait_procs([engine], timeout=10)


def test_a_member_that_dies_is_missed_and_not_waited_for(http: httpx.Client, service: RunningService) -> None:
    until(lambda: answers(http), what=f"{VICTIM} up")
    with asking(service.url, "/v1/tribunal", BODY) as connection:
        read_until(connection, f'"kind": "review", "round": 1, "member": "{VICTIM}"'.encode(), 1)
        kill_engine(service)
        told = read_all(connection).decode()
    last = [line for line in told.splitlines() if line.startswith("data: ")][-1]
    result: dict[str, Any] = json.loads(last.removeprefix("data: "))["result"]
    assert result["answer"]
    (absence,) = result["absent"]
    assert (absence["member"], absence["model"]) == (VICTIM, VICTIM)
    assert absence["reason"]
    lost = next(step for step in result["trace"] if step["model"] == VICTIM and step["kind"] == "review")
    assert lost["failed"] == absence["reason"]
    until(lambda: answers(http), what=f"{VICTIM} back")
