"""A real Prometheus with the files that Corral writes scrapes the service; every expression means something there."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.access.certificate import make_certificate
from app.allocation.records import JobStatus
from app.monitoring.outlook import Outlook
from tests.ports import own_port
from tests.serve.herd import SERVED
from tests.serve.service import CORRAL, ROOT, RunningService
from tests.slurm import packages
from tests.unit.test_monitoring_files import panels
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

PACKAGE = {"prometheus": "prometheus", "promtool": "prometheus"}
NAME = re.compile(r"(?:corral|vllm)[a-z0-9_]*:?[a-z0-9_:]+")
LABELS = re.compile(r"\{[^}]*\}|by \([^)]*\)")
SELDOM = re.compile(r"corral_(job|certificate)_|refus|absent|without_result")
"""Of these a service without keys, TLS and trouble has no series."""


@pytest.fixture(scope="module")
def written(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `corral monitoring` says; every second is scraped, so that nobody waits."""
    if reason := packages.why_not(PACKAGE):
        pytest.skip(f"no Prometheus here: {reason}")
    folder = tmp_path_factory.mktemp("prometheus") / "files"
    done = service.corral("monitoring", "--output", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    said = yaml.safe_load(Path(found["config"]).read_text())
    said["global"].update(scrape_interval="2s", scrape_timeout="2s", evaluation_interval="1s")
    Path(found["config"]).write_text(yaml.safe_dump(said))
    return found


@pytest.fixture(scope="module")
def prometheus(written: dict[str, Any]) -> Iterator[httpx.Client]:
    """Its API. It was started by the command that `corral monitoring` prints, but for the port."""
    address = f"127.0.0.1:{own_port()}"
    words = [re.sub(r"(--web.listen-address=).*", rf"\g<1>{address}", word) for word in written["command"].split()]
    log = Path(written["folder"]) / "log"
    with log.open("wb") as output, subprocess.Popen(words, stdout=output, stderr=output) as process:
        try:
            with httpx.Client(base_url=f"http://{address}/api/v1", timeout=PATIENCE_S, trust_env=False) as client:
                until(lambda: _value(client, 'up{job="corral"}') == 1, what=f"a first scrape (see {log})")
                yield client
        finally:
            process.terminate()


def _query(client: httpx.Client, expression: str) -> list[Any]:
    """The result vector; nothing while Prometheus starts."""
    try:
        answer = client.get("/query", params={"query": expression})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, f"{expression}: {answer.text}"
    result: list[Any] = answer.json()["data"]["result"]
    return result


def _value(client: httpx.Client, expression: str) -> float:
    return sum(float(each["value"][1]) for each in _query(client, expression))


def _rules(written: dict[str, Any]) -> list[dict[str, Any]]:
    groups = yaml.safe_load((Path(written["folder"]) / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _plain(expression: str) -> str:
    """As Grafana would ask with all services and models chosen."""
    for variable, value in {"$service": ".*", "$model": ".*", "$__rate_interval": "1m"}.items():
        expression = expression.replace(variable, value)
    return expression


def _promtool(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], input=text, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_finds_no_fault_with_the_files(written: dict[str, Any]) -> None:
    for what, name in (("config", written["config"]), ("rules", f"{written['folder']}/rules.yaml")):
        checked = _promtool("check", what, name)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_finds_no_fault_with_our_metrics(written: dict[str, Any], http: httpx.Client) -> None:
    checked = _promtool("check", "metrics", text=http.get("/metrics").text)
    assert [line for line in checked.stderr.splitlines() if not line.startswith("vllm:")] == []


def test_prometheus_finds_every_metric_that_the_files_name(
    service: RunningService, http: httpx.Client, written: dict[str, Any], prometheus: httpx.Client, tmp_path: Path
) -> None:
    _traffic(http)
    last = 'count_over_time(corral_retrieval_requests_total{operation="answer"}[5m])'
    until(lambda: _value(prometheus, last) >= 3, what="the last of the traffic in Prometheus")
    until(lambda: _query(prometheus, "corral:ttft_seconds:p95_5m"), what="recorded rules")
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = _rules(written)
    there = set(prometheus.get("/metadata").json()["data"]) | {rule["record"] for rule in rules if "record" in rule}
    there |= _told_by_a_job(tmp_path)
    wanted = [each for each in map(_plain, expressions) if not SELDOM.search(each)]
    until(lambda: all(_query(prometheus, each) for each in wanted), what=f"a result of each of {wanted}")
    for expression in [*expressions, *(rule["expr"] for rule in rules)]:
        _query(prometheus, _plain(expression))
        assert _names(expression) - there == set(), expression


def _traffic(http: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    document = {"file": ("cedar.md", b"The cedar partition has 12 nodes.", "text/markdown")}
    search = {"collection": "watched", "query": "How many nodes has cedar?"}
    for path, body in (
        ("/v1/chat/completions", {"model": "pocket-1b", **chat}),
        ("/v1/tribunal", {"messages": chat["messages"]}),
        ("/bulk", {"items": [{"model": "pocket-1b", "prompt": "Hi", "max_tokens": 4}]}),
    ):
        assert http.post(path, json=body).status_code == 200, path
    assert http.post("/v1/rag/collections/watched/documents", files=document).status_code == 200
    assert http.post("/v1/rag/search", json=search).status_code == 200
    assert http.post("/v1/rag/chat", json={"collection": "watched", "question": search["query"]}).status_code == 200
    assert http.delete("/v1/rag/collections/watched").is_success


def _names(expression: str) -> set[str]:
    """Metrics of an expression; a histogram's by the name of its family."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(LABELS.sub("", expression))}


def _told_by_a_job(folder: Path) -> set[str]:
    """What only a SLURM job, or TLS, has to tell."""
    JobStatus(1, 0, "serving", 0.0, deadline=1.0).write(folder / "status.json")
    made = make_certificate(folder / "tls", ["n"], [], datetime.now(UTC))
    text = Outlook(str(folder / "status.json"), str(made.certificate_path)).read()
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def test_top_counts_every_token(service: RunningService, http: httpx.Client) -> None:
    tokens = 96
    body = {
        "model": "narrow", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens, "ignore_eos": True,
    }  # fmt: skip
    with subprocess.Popen(
        [str(CORRAL), "top", "--json", "--interval", "0.3"], env=service.environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as top:  # fmt: skip
        assert top.stdout
        first = json.loads(top.stdout.readline())
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        counted, ttft_s = 0.0, None
        while round(counted) < tokens:
            look = json.loads(top.stdout.readline())
            assert look["trouble"] is None
            (model,) = [each for each in look["models"] if each["model"] == "narrow"]
            counted += model["completion_tokens_per_s"] * look["interval_s"]
            ttft_s = ttft_s or model["ttft_p50_s"]
        top.send_signal(2)
        _, errors = top.communicate(timeout=PATIENCE_S)
    assert (top.returncode, errors) == (130, "corral: interrupted\n")
    assert round(counted) == tokens
    assert ttft_s
    assert (first["url"], first["phase"], first["interval_s"]) == (service.url, "serving", None)
    states = {model["model"]: model["state"] for model in first["models"]}
    assert states["narrow"] == "ready"
    assert states["broken"] == "failed"


def test_top_on_a_terminal_shows_every_model(service: RunningService) -> None:
    ours, theirs = pty.openpty()
    environment = {**service.environment, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
    with subprocess.Popen(
        [str(CORRAL), "top"], env=environment, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = ""
        while "requests/s" not in shown:
            shown += os.read(ours, 4096).decode(errors="replace")
        process.send_signal(2)
        assert process.wait(PATIENCE_S) == 130
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").split("\n")
    assert max(map(len, lines)) <= 80
    assert {model for model in SERVED if model != "pocket-8b-tilted"} <= {line.split(" ")[0] for line in lines}


def test_top_of_what_is_not_there_says_so(service: RunningService) -> None:
    nowhere = service.corral("top", "--once", "--name", "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (4, "")
    silent = service.corral("top", "--once", "--interval", "0.2", "--url", "http://127.0.0.1:9")
    assert (silent.returncode, silent.stdout) == (7, "")
    assert service.corral("monitoring", "--name", "nowhere").returncode == 4
