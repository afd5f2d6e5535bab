"""`corral usage`: what it asks, and the table."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.access.mine import VARIABLE
from tests.unit.conftest import Corral

COUNTS = {"requests": 12, "refused": 1, "failed": 0, "prompt_tokens": 3400, "completion_tokens": 56, "bulk_items": 7}
ALICE = {"day": "2026-11-21", "key": "aaaaaaaa", "name": "alice, laptop", "model": "llama", **COUNTS}
GONE = {"day": "2026-11-22", "key": "bbbbbbbb", "model": "/bulk", **COUNTS}


class Service(http.server.ThreadingHTTPServer):
    """Answers /v1/usage with `rows`, or an error; keeps what it was asked."""

    rows: list[dict[str, Any]] = []
    error: str | None = None

    def __init__(self) -> None:
        self.queries: list[dict[str, list[str]]] = []
        self.keys: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        assert asked.path == "/v1/usage"
        self.server.queries.append(parse_qs(asked.query))
        self.server.keys.append(self.headers["authorization"])
        told = {"error": {"message": self.server.error}} if self.server.error else {"data": self.server.rows}
        body = json.dumps(told).encode()
        self.send_response(403 if self.server.error else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv(VARIABLE, "corral-key")
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_table_has_a_line_for_each_row_and_the_names_of_keys(service: Service, corral: Corral) -> None:
    service.rows = [ALICE, GONE]
    code, out, _ = corral(f"usage --url {service.url}")
    assert (code, out.splitlines()) == (
        0,
        [
            "day         key       name           model  requests  refused  failed  prompt tokens  completion tokens"
            "  bulk items",
            "2026-11-21  aaaaaaaa  alice, laptop  llama  12        1        0       3400           56"
            "                 7",
            "2026-11-22  bbbbbbbb  -              /bulk  12        1        0       3400           56"
            "                 7",
        ],
    )


def test_what_is_summed_up_has_no_column(service: Service, corral: Corral) -> None:
    service.rows = [{"group": "", "model": "llama", **COUNTS}, {"group": "lab", "model": "llama", **COUNTS}]
    _, out, _ = corral(f"usage --by model,group --url {service.url}")
    head, without, lab = out.splitlines()
    assert head.split()[:3] == ["group", "model", "requests"]
    assert (without.split()[:3], lab.split()[:3]) == (["-", "llama", "12"], ["lab", "llama", "12"])
    assert service.queries == [{"by": ["model,group"]}]


def test_what_is_asked_reaches_the_service_with_the_key(service: Service, corral: Corral) -> None:
    corral(f"usage --since 2026-11-01 --until 2026-11-21 --key aaaaaaaa --by day --url {service.url}")
    asked = {"since": ["2026-11-01"], "until": ["2026-11-21"], "key": ["aaaaaaaa"], "by": ["day"]}
    assert (service.queries, service.keys) == ([asked], ["Bearer corral-key"])


def test_json_is_the_rows_as_they_are(service: Service, corral: Corral) -> None:
    service.rows = [ALICE, GONE]
    _, out, _ = corral(f"usage --json --url {service.url}")
    assert json.loads(out) == [ALICE, GONE]


def test_nothing_used_is_said(service: Service, corral: Corral) -> None:
    assert corral(f"usage --url {service.url}") == (0, "Nothing was used.\n", "")


def test_a_refusal_is_told_in_the_service_s_words(service: Service, corral: Corral) -> None:
    service.error = "This API key may see its own usage only."
    code, out, err = corral(f"usage --key bbbbbbbb --url {service.url}")
    assert (code != 0, out) == (True, "")
    assert "may see its own usage only" in err
