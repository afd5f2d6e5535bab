"""The Python client's tribunals: what is asked, and the result as it comes back from JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from app.client import ask_of
from deployments.chat import Usage
from deployments.errors import BadRequest
from deployments.tribunal.result import Result
from deployments.tribunal.service import TribunalAsk
from tests.unit.tribunal_fakes import Panel, Voice, sitting, trio
from tests.unit.tribunal_script import GONE, LATER, RESULT, TOLD, step

USER = {"role": "user", "content": "where?"}


def through_json(result: Result) -> Result:
    return Result.of(json.loads(json.dumps(result.to_json())))


def test_a_result_comes_back_as_it_was() -> None:
    assert through_json(TOLD) == TOLD
    assert through_json(TOLD).usage == TOLD.usage
    assert Result.of(RESULT).ranking[0].scores == {"accuracy": 8.0}


def test_a_result_without_a_draft_to_compare_with_comes_back() -> None:
    bare = replace(TOLD, ranking=(), dissent=(), absent=(), trace=(GONE,), single=None, finish_reason="length")
    assert through_json(bare) == bare


def test_what_the_cost_is_compared_with_is_no_draft_that_failed() -> None:
    failed = step(1, "draft", "small", 0, 0.1, failed="it broke off")
    drafted = step(2, "draft", "small", 0.2, 0.5, text="In the corral.", usage=Usage(5, 4))
    twice = replace(TOLD, trace=(failed, drafted, LATER), single=drafted)
    assert through_json(twice) == twice


@pytest.mark.parametrize(
    ("panel", "config"),
    [
        (trio(), {"self_review": True, "stop": {"consensus": None, "leader": False}}),
        (trio(), {"strategy": "debate", "rounds": 2}),
        (trio(), {"strategy": "mixture", "rounds": 2}),
        (Panel(a=Voice(["one", "two", "two"])), {"strategy": "self_consistency", "members": ["a"], "samples": 3}),
        (Panel(a=Voice()), {"strategy": "refine", "members": ["a"]}),
    ],
    ids=["council", "debate", "mixture", "self_consistency", "refine"],
)
async def test_every_strategy_s_result_comes_back(panel: Panel, config: dict[str, Any]) -> None:
    told = (await sitting(panel, **config)).result.to_json()
    again = Result.of(told).to_json()
    ratios = ("times_tokens", "times_seconds")  # of seconds that are rounded by now
    assert {**again, "cost": None} == {**told, "cost": None}
    assert {key: again["cost"][key] for key in told["cost"] if key not in ratios} == {
        key: told["cost"][key] for key in told["cost"] if key not in ratios
    }


def test_a_question_is_one_message_and_messages_stay_as_they_are() -> None:
    assert ask_of("where?", None, None, None, None) == TribunalAsk((USER,))
    told = [{"role": "system", "content": "Be brief."}, USER]
    asked = ask_of(told, "wise", {"rounds": 2}, 64, 7)
    assert asked == TribunalAsk(tuple(told), "wise", {"rounds": 2}, 64, 7)
    assert not asked.deltas


def test_messages_become_plain_text() -> None:
    parts = [{"type": "text", "text": "where"}, MappingProxyType({"type": "text", "text": "is it?"})]
    told = (MappingProxyType({"role": "developer", "content": "Be brief."}), {"role": "user", "content": parts})
    plain = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "where\nis it?"})
    assert ask_of(told, None, None, None, None).messages == plain


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ([], "messages"),
        ((), "messages"),
        (None, "messages"),
        ({"role": "user", "content": "where?"}, "messages"),
        ("", "question"),
        (" \n", "question"),
        (["where?"], "messages.0"),
        ([{"content": "where?"}], "messages.0.role"),
        ([{"role": "tool", "content": "x"}, USER], "messages.0.role"),
        ([USER, {"role": "assistant", "content": "there"}], "messages.1.role"),
        ([{"role": "user", "content": " \n"}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0"),
    ],
)
def test_what_a_tribunal_cannot_answer_is_refused(question: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ask_of(question, None, None, None, None)
    assert refused.value.param == param
