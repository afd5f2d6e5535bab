"""A service that asks for keys, end to end: who gets in, what is counted, what nobody else may ever see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import yaml

from loadtests.attack.malformed import Malformer
from loadtests.attack.wire import Outcome, send_all
from tests.edge.keyed import odd_headers
from tests.ports import own_port
from tests.serve.service import RunningService, listening, running_corral, title
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
MARK = "quetzalcoatlus"
"""A word that only a test's prompts have."""
SECRET = re.compile(r"corral-[a-z2-7]{8}-[0-9a-f]{48}")
REVOKED_S = 5
NOBODY = 65534
MALFORMED = 420
TEXTS = (".log", ".out", ".err", ".txt", ".cfg", ".map", ".json", ".lua")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder, port = tmp_path_factory.mktemp("keys"), own_port()
    profile = {
        "extends": "pocket",
        "edge": {"port": port},
        "rag": {"folder": str(folder / "rag"), "model": "pocket-1b"},
        "models": {"pocket-3b": None, "pocket-8b": None, "pocket-70b": None},
        "tribunals": {
            "default": {"members": ["pocket-1b"], "chair": "pocket-1b"},
            "refine": {"members": ["pocket-1b"]},
        },
        "access": {"keys": "required", "file": str(folder / "private" / "keys.json")},
    }
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    with running_corral("keys", path, port, folder / "state") as service:
        yield service


@pytest.fixture(scope="module")
def first(service: RunningService) -> str:
    return Path(service.state.key_file).read_text().strip()


def create(service: RunningService, name: str, *options: str) -> tuple[str, str]:
    """Id and text of a new key, which the service has heard of."""
    made = service.corral("keys", "create", name, "--profile", str(service.profile), "--json", *options)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    until(lambda: get(service, "/v1/models", found["key"]).status_code == 200, what="a new key")
    return found["id"], found["key"]


def get(service: RunningService, path: str, key: str | None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.get(service.url + path, headers=headers, timeout=PATIENCE_S, trust_env=False)


def ask(service: RunningService, key: str | None, path: str = CHAT, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    asked = {"model": "pocket-1b", "max_tokens": 8, "temperature": 0, **body}
    if path == CHAT:
        asked.setdefault("messages", [{"role": "user", "content": f"Hello {MARK}!"}])
    return httpx.post(service.url + path, json=asked, headers=headers, timeout=PATIENCE_S, trust_env=False)


def send(service: RunningService, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(service.url + path, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)


def test_the_first_key_is_its_owners_alone_and_commands_use_it(service: RunningService, first: str) -> None:
    assert Path(service.state.key_file).stat().st_mode & 0o777 == 0o600
    assert SECRET.fullmatch(first)
    said = service.corral("generate", "Hello")
    assert said.returncode == 0, said.stderr
    assert "Corral" in said.stdout


def test_every_route_but_health_and_the_page_needs_a_key(service: RunningService, first: str) -> None:
    paths = json.loads(get(service, "/openapi.json", first).text)["paths"]
    assert len(paths) > 20
    for path in [*paths, "/docs", "/openapi.json", "/v1/usage", "/models/pocket-1b/v1/models", "/internal/replicas"]:
        answer = get(service, path.replace("{", "").replace("}", ""), None)
        if path in ("/health", "/"):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401, path


def test_what_is_used_is_counted_for_its_key(service: RunningService) -> None:
    key_id, key = create(service, "counted")
    replies = [ask(service, key), ask(service, key, "/generate", prompt="Hello")]
    streamed = ask(service, key, stream=True, stream_options={"include_usage": True})
    used = [replies[0].json()["usage"], replies[1].json()["usage"]]
    used.append(json.loads(streamed.text.split("data: ")[-2])["usage"])
    wanted = sum(usage["prompt_tokens"] for usage in used), sum(usage["completion_tokens"] for usage in used)

    def told() -> tuple[int, int]:
        rows = get(service, "/v1/usage?by=model", key).json()["data"]
        return sum(row["prompt_tokens"] for row in rows), sum(row["completion_tokens"] for row in rows)

    until(lambda: told() == wanted, what=f"usage of {wanted}")
    table = service.corral("usage", "--key", key_id, "--by", "key,model", "--json")
    rows = json.loads(table.stdout)
    assert {row["key"] for row in rows} == {key_id}
    assert sum(row["requests"] for row in rows) == 3


def test_a_tribunal_is_counted_for_who_asked_it(service: RunningService) -> None:
    _, key = create(service, "judge", "--scopes", "tribunal")
    answer = send(service, key, "/v1/tribunal", {"question": "Hello"})
    assert answer.status_code == 200, answer.text
    cost = answer.json()["usage"]
    until(
        lambda: (
            sum(row["completion_tokens"] for row in get(service, "/v1/usage", key).json()["data"])
            == cost["completion_tokens"]
        ),
        what="the tribunal's tokens",
    )
    assert ask(service, key).status_code == 403


def test_a_key_sees_and_asks_only_what_it_may(service: RunningService) -> None:
    _, key = create(service, "narrow", "--scopes", "models:other,rag:handbook")
    assert ask(service, key).status_code == 403
    assert ask(service, key, "/generate", prompt="x").json()["error"]["code"] == "not_allowed"
    bulk = send(service, key, "/bulk", {"items": [{"model": "pocket-1b", "prompt": "x"}]})
    assert bulk.json()["items"][0]["error"]["code"] == "not_allowed"
    assert "pocket-1b" not in [card["id"] for card in get(service, "/v1/models", key).json()["data"]]
    assert get(service, "/v1/rag/collections", key).json()["data"] == []
    assert get(service, "/v1/usage?key=someoneelse", key).status_code == 403


def test_a_revoked_key_ends_within_seconds(service: RunningService) -> None:
    key_id, key = create(service, "leaver")
    assert ask(service, key).status_code == 200
    assert service.corral("keys", "revoke", key_id, "--profile", str(service.profile)).returncode == 0
    until(lambda: ask(service, key).status_code == 401, patience_s=REVOKED_S, what="the end of a revoked key")


def test_bulk_items_have_a_quota(service: RunningService) -> None:
    _, key = create(service, "bulky", "--bulk-items", "3")
    item = {"model": "pocket-1b", "prompt": "Hello", "max_tokens": 4}
    refused = send(service, key, "/bulk", {"items": [item] * 4})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert "3 items" in refused.json()["error"]["message"]
    for _ in range(3):
        assert send(service, key, "/bulk", {"items": [item] * 3}).json()["summary"]["succeeded"] == 3


def test_a_deadline_is_kept_on_every_way(service: RunningService, first: str) -> None:
    headers = {"authorization": f"Bearer {first}", "x-request-timeout": "0.4"}
    long: dict[str, Any] = {"model": "pocket-1b", "max_tokens": 1900, "ignore_eos": True}
    chat = {**long, "messages": [{"role": "user", "content": "Hi"}]}
    whole = httpx.post(service.url + CHAT, json=chat, headers=headers, timeout=PATIENCE_S)
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
    stream = httpx.post(service.url + CHAT, json={**chat, "stream": True}, headers=headers, timeout=PATIENCE_S)
    last = stream.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in stream.text
    wrong = httpx.post(service.url + CHAT, json=chat, headers={**headers, "x-request-timeout": "soon"}, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-request-timeout")

    def idle() -> bool:
        text = get(service, "/metrics", first).text
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", text, re.M)
        return bool(found) and not any(map(float, found))

    until(idle, what="an idle engine")


def test_no_secret_and_no_prompt_is_left_anywhere(service: RunningService, first: str) -> None:
    """After odd requests, and hundreds of malformed ones with a key, whose prompts say the word."""
    ask(service, first, messages=[{"role": "user", "content": MARK * 3}], stream=True)
    ask(service, first, messages=[{"role": "user", "content": MARK}], max_tokens=-1)
    ask(service, first, messages=MARK)
    ask(service, first, "/generate", prompt=MARK, unknown=MARK)
    ask(service, f"{first[:-1]}x", prompt=MARK)
    for headers in odd_headers(first):
        asked = {"model": "pocket-1b", "prompt": MARK, "max_tokens": 1}
        httpx.post(service.url + "/generate", json=asked, headers=headers, timeout=PATIENCE_S, trust_env=False)
    send_malformed(service, first)
    service.until_logged()
    hidden, token = first.rpartition("-")[2], (Path(service.state.run_dir) / "token").read_text().strip()
    for process in service.processes():
        try:
            told = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert not any(secret in told for secret in (hidden, token, MARK)), process.name()
    texts = 0
    for path, content in service.written():
        assert MARK.encode() not in content, path
        assert hidden.encode() not in content.lower(), path
        if path.suffix in TEXTS:  # the token has a file of its own
            texts += 1
            assert token.encode() not in content, path
    assert texts > 10
    assert SECRET.search(service.edge_log.read_text()) is None


def send_malformed(service: RunningService, key: str) -> None:
    """Some are answered, some refused for what they say, some for their key: what they leave is left by all parts."""
    outcome, address = Outcome(), urlsplit(service.url)
    requests = Malformer("pocket-1b", key, seed=1, word=MARK).many(MALFORMED)
    asyncio.run(send_all(str(address.hostname), int(address.port or 80), requests, outcome))
    assert sum(outcome.statuses.values()) + outcome.hung == MALFORMED
    assert {"200", "400", "401"} <= outcome.statuses.keys(), outcome.statuses


def test_another_user_reads_none_of_its_folders(service: RunningService) -> None:
    folders = [service.state.run_dir, str(service.state_dir), str(Path(service.state.key_file).parent)]
    if os.getuid() != 0:
        assert [Path(folder).stat().st_mode & 0o077 for folder in folders] == [0, 0, 0]
        return
    look = 'for path; do if [ -r "$path" ] || [ -x "$path" ]; then echo "$path"; fi; done; echo looked'
    said = subprocess.run(["/bin/sh", "-c", look, "sh", *folders], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert said.stdout == "looked\n", said.stderr


def test_ports_of_its_own_let_nobody_in(service: RunningService) -> None:
    mine = {int(service.url.rpartition(":")[2])}
    told = {}
    for process in service.processes():
        for port in set(listening([process])) - mine:
            for path in ("/", "/v1/models", "/-/routes", "/metrics", "/ready", "/v1/usage", "/admit", "/stats"):
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5, trust_env=False)
                except httpx.HTTPError:
                    continue  # closed, or no HTTP/1
                if answer.status_code not in (401, 403):
                    told[f"{title(process)} {port} {path}"] = (answer.status_code, answer.text[:80])
    assert told == {}
