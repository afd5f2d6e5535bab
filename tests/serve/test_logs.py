"""What the running service writes down: a line for each request at the edge and at the engine, and nobody's words.

Marked words are sent in every place where a client can put one; then whatever the service wrote, and its processes'
arguments and environments, are searched for them. Paths are logged as they are, by the edge alone; queries are not.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serve.marked import CHAT, COLLECTION, GENERATE, Marks, every_route, uploads, wrong_and_right
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def mark(service: RunningService, http: httpx.Client) -> Marks:
    """The words, after all have been sent, and what was written about the last request is there."""
    mark = Marks()
    sending = [*uploads(mark), *wrong_and_right(mark)]
    for path, sent in sending:
        headers = {**mark.headers, **sent.pop("headers", {})}
        with suppress(httpx.TransportError):  # one whose body is too long may be hung up on
            http.post(f"{path}?q={mark('query')}", headers=headers, **sent)
    for method, path in every_route(http, mark):
        body = {"json": {mark("field"): mark("value")}} if method == "POST" else {}
        http.request(method, f"{path}?model={mark('querymodel')}", headers=mark.headers, **body)  # type: ignore[arg-type]
    http.delete(COLLECTION).raise_for_status()
    service.until_logged()
    return mark


def told_by_processes(service: RunningService) -> Iterator[tuple[str, str]]:
    for process in service.processes():
        with suppress(psutil.Error):
            yield process.name(), f"{process.cmdline()} {process.environ()}"


def test_no_word_of_a_client_is_written_down(service: RunningService, mark: Marks) -> None:
    found, looked, paths = {}, 0, set()
    for path, content in service.written():
        looked += 1
        if (at := content.find(mark.prefix.encode())) >= 0:
            found[str(path)] = content[max(0, at - 200) : at + 100]
        if mark.path.encode() in content:
            paths.add(path.name)
    assert found == {}
    assert looked > 30
    assert paths == {"edge.log"}


def test_no_word_of_a_client_is_in_arguments_or_environments(service: RunningService, mark: Marks) -> None:
    told = dict(told_by_processes(service))
    assert len(told) > 5
    assert [name for name, text in told.items() if mark.prefix in text or mark.path in text] == []


def test_logs_are_their_owners_alone(service: RunningService, mark: Marks) -> None:
    run_dir = Path(service.state.run_dir)
    assert run_dir.stat().st_mode & 0o777 == 0o700
    own = [*run_dir.glob("logs/*.log"), service.edge_log, *service.state.ray_logs.glob("serve/requests_*.log")]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in own if path.stat().st_mode & 0o077} == {}
    assert len(own) > 8


def lines_about(service: RunningService, request: str) -> dict[str, list[dict[str, Any]]]:
    """By file, as `corral logs --request` prints them."""
    said = service.corral("logs", "--request", request, "--json")
    assert said.returncode == 0, said.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (json.loads(each) for each in said.stdout.splitlines()):
        if line["line"].startswith("{"):
            found.setdefault(line["file"].partition("_")[0], []).append(json.loads(line["line"]))
    return found


def test_a_request_is_told_of_by_the_edge_and_by_the_engine(service: RunningService, http: httpx.Client) -> None:
    name = f"told-{secrets.token_hex(6)}"
    asked = {"model": "pocket-1b", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "ignore_eos": True}
    usage = http.post(CHAT, json=asked, headers={"x-request-id": name}).json()["usage"]
    until(lambda: len(lines_about(service, name)) == 2, what="both lines")
    found = lines_about(service, name)
    (edge,), (engine,) = found["edge.log"], found["requests"]
    assert (edge["id"], edge["model"], edge["status"], edge["path"]) == (name, "pocket-1b", 200, CHAT)
    assert edge["total_ms"] >= edge["first_byte_ms"] >= 0
    assert edge["trace"] == engine["trace"]
    assert (engine["id"], engine["model"], engine["finish_reason"], engine["outcome"]) == (
        name,
        "pocket-1b",
        "length",
        "done",
    )
    assert (engine["prompt_tokens"], engine["completion_tokens"]) == (usage["prompt_tokens"], 5)
    assert {"turn_ms", "ttft_ms", "total_ms", "queue_ms", "prefill_ms", "decode_ms"} < set(engine)


def test_the_gateway_tells_of_its_routes(service: RunningService, http: httpx.Client) -> None:
    name = f"told-{secrets.token_hex(6)}"
    http.post(GENERATE, json={"model": "pocket-1b", "prompt": "Hi", "max_tokens": 4}, headers={"x-request-id": name})
    until(lambda: len(lines_about(service, name).get("requests", [])) == 2, what="both lines")
    by_event = {line["event"]: line for line in lines_about(service, name)["requests"]}
    gateway = by_event["request"]
    assert (gateway["route"], gateway["model"], gateway["status"]) == (GENERATE, "pocket-1b", 200)
    assert gateway["id"] == by_event["engine"]["id"] == name
