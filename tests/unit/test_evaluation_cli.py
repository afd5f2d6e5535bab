"""`corral eval tribunal` as typed: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.conftest import Corral
from tests.unit.evaluation import FakeService, number_of, questions


def answer(body: dict[str, Any]) -> str:
    members = body["config"].get("members")
    return "No." if members and number_of(body) % 3 == 0 else f"It is {number_of(body)}."


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    made = FakeService(answer, lambda config: 100 * int(config.get("samples") or 1))
    monkeypatch.setattr("app.evaluation.service.client_for", lambda name, url, timeout_s: made.client())
    monkeypatch.chdir(tmp_path)
    tasks = [task.model_dump(exclude_none=True, mode="json") for task in questions(60, tags=["sums"])]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return made


def test_a_whole_evaluation(fake: FakeService, corral: Corral, tmp_path: Path) -> None:
    code, out, _ = corral("eval tribunal --tasks tasks.jsonl --out found --max-samples 2")
    assert code == 0
    assert re.search(r"council +60 +100\.0% +94\.0 to 100\.0%", out)
    assert "council beats the best single member" in out
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert written == {
        "run.json", "outcomes.jsonl", "report.json", "report.md", "accuracy_by_tokens.svg", "accuracy_by_tokens.png",
    }  # fmt: skip
    asked = len(fake.asked)
    code, out, _ = corral("eval tribunal --tasks tasks.jsonl --out found --max-samples 2 --json")
    assert code == 0
    assert json.loads(out)["standings"] == dict.fromkeys(("refine", "council", "debate", "mixture"), "beats")
    assert len(fake.asked) == asked + 1  # only who sits was asked again


def test_some_strategies_and_tasks(fake: FakeService, corral: Corral, tmp_path: Path) -> None:
    code, out, _ = corral("eval tribunal --tasks tasks.jsonl --out found --strategies council --limit 20 --json")
    assert code == 0
    told = json.loads(out)
    assert [each["label"] for each in told["contestants"]] == [
        "single small", "single large", "single chair", "council",
    ]  # fmt: skip
    assert {each["n"] for each in told["contestants"]} == {20}
    assert "best_of_n" not in (tmp_path / "found" / "report.md").read_text()


def test_changed_tasks_are_refused(fake: FakeService, corral: Corral, tmp_path: Path) -> None:
    line = "eval tribunal --tasks tasks.jsonl --out found --strategies council --limit 5"
    assert corral(line)[0] == 0
    file = tmp_path / "tasks.jsonl"
    file.write_text(file.read_text() + "\n")
    code, _, error = corral(line)
    assert (code, error) == (3, "corral: found holds a run with another tasks file; choose another --out\n")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--tasks none.jsonl", 3, "none.jsonl: No such file"),
        ("--tasks wrong.jsonl", 3, "wrong.jsonl, line 1: this is not JSON"),
        ("--tasks rubric.jsonl", 2, "name the model that judges"),
        ("--tasks tasks.jsonl --strategies council,vote", 2, "'vote' is none of refine"),
    ],
)
def test_what_is_refused_before_anything_runs(
    fake: FakeService, corral: Corral, tmp_path: Path, options: str, code: int, said: str
) -> None:
    (tmp_path / "wrong.jsonl").write_text("{\n")
    rubric = {"id": "r", "question": "Write.", "checker": "rubric", "rubric": "It rhymes."}
    (tmp_path / "rubric.jsonl").write_text(json.dumps(rubric) + "\n")
    found = corral(f"eval tribunal {options}")
    assert (found[0], found[1]) == (code, "")
    assert said in found[2]
    assert found[2].count("\n") == 1
    assert not fake.asked


def test_a_service_that_refuses_or_is_gone(fake: FakeService, corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.down = True
    assert corral("eval tribunal --tasks tasks.jsonl")[0] == 7
    refusing = httpx.MockTransport(lambda request: httpx.Response(404, json={"error": {"message": "no tribunal 'x'"}}))
    client = httpx.AsyncClient(transport=refusing, base_url="http://service")
    monkeypatch.setattr("app.evaluation.service.client_for", lambda name, url, timeout_s: client)
    assert corral("eval tribunal --tasks tasks.jsonl --tribunal x") == (6, "", "corral: no tribunal 'x'\n")


def test_no_service_of_that_name(corral: Corral, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path))
    code, _, error = corral("eval tribunal --name nobody")
    assert code == 4
    assert "no service 'nobody' runs here" in error


def test_interrupted_it_says_how_to_go_on(
    fake: FakeService, corral: Corral, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(body: dict[str, Any]) -> str:
        if len(fake.asked) > 30:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(body)

    fake.answer = interrupt
    code, _, error = corral("eval tribunal --tasks tasks.jsonl --out found")
    assert code == 130
    assert "the same command with --out found goes on" in error
    kept = (tmp_path / "found" / "outcomes.jsonl").read_text()
    assert kept.endswith("\n")
    fake.answer = answer
    assert corral("eval tribunal --tasks tasks.jsonl --out found --max-samples 2")[0] == 0
