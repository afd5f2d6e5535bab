"""`corral tribunal` as typed: what it asks, what it prints where, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.cli import _guarded, app
from app.talk import Talk
from app.tribunal.deliberation import Deliberation
from deployments.tribunal.events import EventType
from tests.unit.tribunal_stream import LARGE, NASTY, Service, envelopes, failing, refusal, result, started

Corral = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setattr(Talk, "open", lambda name, url: made.talk())
    return made


@pytest.fixture
def corral(capsys: pytest.CaptureFixture[str]) -> Corral:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = _guarded(lambda: app(["tribunal", *arguments], standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def asked(service: Service) -> dict[str, Any]:
    """The first body, without what every ask has."""
    (body,) = service.bodies
    return {key: value for key, value in body.items() if key not in ("stream", "resume_s")}


def test_the_answer_goes_to_one_place_and_all_else_to_the_other(service: Service, corral: Corral) -> None:
    code, out, err = corral("Which nodes are free?")
    assert (code, out) == (0, "Ask sinfo.\n")
    assert err.startswith("pocket-70b drafted in 0.2 s: Ask sinfo.\npocket-1b was absent: it failed\n")
    assert err.endswith("3.4 times what asking pocket-70b once took\n")
    assert asked(service) == {"question": "Which nodes are free?"}


def test_json_is_the_result_and_nothing_else(service: Service, corral: Corral) -> None:
    code, out, err = corral("Which nodes are free?", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == result()
    assert [step["kind"] for step in json.loads(out)["trace"]] == ["draft", "review"]


def test_options_become_the_config(service: Service, corral: Corral) -> None:
    options = (
        "--tribunal careful --strategy debate --rounds 2 --member a --member b --chair b --budget 900 --deadline 7.5 "
        "--max-tokens 64 --seed 0"
    )
    assert corral("Why?", *options.split())[0] == 0
    assert asked(service) == {
        "question": "Why?", "tribunal": "careful", "max_tokens": 64, "seed": 0,
        "config": {
            "strategy": "debate", "rounds": 2, "members": ["a", "b"], "chair": "b",
            "stop": {"budget_tokens": 900, "deadline_s": 7.5},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ("--tribunal careful", {"tribunal": "careful"}),
        ("--samples 5", {"tribunal": "default", "config": {"samples": 5}}),
        ("--budget 9", {"tribunal": "default", "config": {"stop": {"budget_tokens": 9}}}),
        ("--max-tokens 5", {"max_tokens": 5}),
    ],
)
def test_only_what_was_given_is_sent(service: Service, corral: Corral, options: str, body: dict[str, Any]) -> None:
    assert corral("Why?", *options.split())[0] == 0
    assert asked(service) == {"question": "Why?", **body}


def test_the_question_may_come_through_a_pipe(
    service: Service, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\nAnd when?\n"))
    assert corral("-")[0] == 0
    assert asked(service)["question"] == "Why?\nAnd when?\n"


def test_an_answer_does_not_command_the_terminal(service: Service, corral: Corral) -> None:
    service.script = envelopes((EventType.RESULT, {"result": result(NASTY)}))
    assert corral("Why?")[1] == "[red]bold[/red] [31m:smile:2J\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_errors_are_one_line_with_a_code(service: Service, corral: Corral, options: tuple[str, ...]) -> None:
    service.refuses["POST"] = [refusal(400, "rounds: at most 8"), refusal(503, "No model answers.")]
    assert corral("Why?", *options) == (6, "", "corral: rounds: at most 8\n")
    assert corral("Why?", *options) == (7, "", "corral: No model answers.\n")
    service.script = failing("2 of 4 members drafted.", "server_error")
    assert corral("Why?", *options) == (7, "", "corral: 2 of 4 members drafted.\n")


@pytest.mark.parametrize("wrong", ["--strategy=coin", "--rounds=0", "--budget=0"])
def test_wrong_usage_asks_nobody(service: Service, corral: Corral, wrong: str) -> None:
    code, out, err = corral("Why?", wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert service.asked == []


def test_ctrl_c_stops_the_tribunal(service: Service, corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    service.script = envelopes(started(1, LARGE))
    monkeypatch.setattr(Deliberation, "fold", interrupt)
    code, out, err = corral("Why?")
    assert (code, out, err) == (130, "", "corral: interrupted\n")
    assert service.asked == ["POST /v1/tribunal", "DELETE /v1/tribunal/tri-1"]
