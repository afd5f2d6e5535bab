"""Models that do no work: one that sleeps until it is asked, one that cannot load, and engines at rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serve.herd import READY
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve

HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, "temperature": 0}
CAUSE = re.compile(r"SafetensorError: .*incomplete", re.I)
"""What the safetensors library says of a file that ends in the middle."""


def asleep(service: RunningService) -> bool:
    return service.model_state("sleepy") == "idle" and not service.engine_processes("sleepy")


async def test_a_sleeping_model_wakes_for_requests_and_sleeps_again(
    service: RunningService, ahttp: httpx.AsyncClient
) -> None:
    until(lambda: asleep(service), what="sleepy asleep")
    assert (await ahttp.get("/ready/sleepy")).json()["replicas"] == 0
    chatted, streamed, twin = await asyncio.gather(
        ahttp.post("/v1/chat/completions", json={"model": "sleepy", **HELLO}),
        ahttp.post("/generate", json={"model": "sleepy", "prompt": "Hello!", "max_tokens": 4, "stream": True}),
        ahttp.post("/v1/chat/completions", json={"model": "pocket-1b", **HELLO}),
    )
    assert chatted.status_code == 200, chatted.text
    assert chatted.json()["choices"][0]["message"] == twin.json()["choices"][0]["message"]
    assert streamed.status_code == 200, streamed.text
    assert streamed.text.rstrip().endswith("data: [DONE]")
    assert service.engine_processes("sleepy")
    until(lambda: asleep(service), what="sleepy asleep again")


async def test_a_deadline_is_kept_while_a_model_wakes(service: RunningService, ahttp: httpx.AsyncClient) -> None:
    """The request waits in Serve, where nobody looks at its deadline: the edge does."""
    until(lambda: asleep(service), what="sleepy asleep")
    headers, long = {"x-request-timeout": "1"}, {"model": "sleepy", "max_tokens": 1900, "ignore_eos": True}
    late = await ahttp.post("/v1/chat/completions", json={**long, "messages": HELLO["messages"]}, headers=headers)
    assert late.status_code == 504, late.text
    message = "There was no whole answer within the 1 s that the request gave."
    error = {"message": message, "type": "server_error", "param": None, "code": "deadline_exceeded"}
    assert late.json() == {"error": error}
    until(lambda: asleep(service), what="sleepy asleep again")


def test_a_model_that_cannot_load_says_why_everywhere(service: RunningService, http: httpx.Client) -> None:
    card = http.get("/v1/models/broken").json()
    assert card["state"] == "failed"
    assert CAUSE.search(card["reason"])
    ready = http.get("/ready/broken")
    assert ready.status_code == 503
    assert ready.json()["ready"] is False
    assert CAUSE.search(ready.json()["reason"])
    status = json.loads(service.corral("status", "--json").stdout)["models"]["broken"]
    assert (status["state"], status["reason"]) == ("failed", card["reason"])
    line = next(line for line in service.corral("status").stdout.splitlines() if line.startswith("broken"))
    assert CAUSE.search(line)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
def test_a_request_to_it_is_refused_at_once_with_the_reason(http: httpx.Client, path: str) -> None:
    asked = HELLO if "chat" in path else {"prompt": "Hello!"}
    response = http.post(path, json={"model": "broken", **asked}, timeout=5)
    assert response.status_code == 503
    error = response.json()["error"]
    assert error["code"] == "model_unavailable"
    assert CAUSE.search(error["message"])


def thread_names(process: psutil.Process) -> set[str]:
    """Names of its threads, as the kernel keeps them: 15 characters of each."""
    found = set()
    for file in Path(f"/proc/{process.pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # this thread has just ended
            found.add(file.read_text().strip())
    return found


@pytest.mark.parametrize("model", READY)
def test_an_engine_of_one_process_has_no_threads_that_wait_for_others(service: RunningService, model: str) -> None:
    engines = service.engine_processes(model)
    assert engines
    for engine in engines:
        names = thread_names(engine)
        assert names
        assert not [name for name in names if "gloo" in name]  # gloo_tcp_loop and pt_gloo_runloop


def test_up_reported_it_and_went_on(service: RunningService) -> None:
    states = {model: status["state"] for model, status in service.started["models"].items()}
    assert states == {
        "pocket-1b": "ready", "pocket-8b": "ready", "sleepy": "idle", "broken": "failed", "embedder": "ready",
        "narrow": "ready",
    }  # fmt: skip
