"""Tribunals on the real thing: by REST, by OpenAI's client, in bulk, by the command, and what leaving does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.serve.hang_up import asking, read_until
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve

PASSAGE = "The willow partition has a time limit of 48 hours."
QUESTION = f"Passage: {PASSAGE}\n\nQuestion: How long may a job run on willow?"
ANSWER = "The time limit of willow is 48 hours."
# Two words that the smaller models read differently, so that there is something to review.
DISPUTED = "Passage: The joondarpang module was installed by Wendy Cole.\n\nQuestion: Who maintains joondarpang?"
PANEL = ("pocket-1b", "narrow", "pocket-8b")
ENDLESS = {
    "strategy": "council", "rounds": 8, "members": ["pocket-1b", "pocket-8b", "pocket-8b-tilted"], "temperature": 0,
    "max_tokens": 64, "stop": {"consensus": None, "leader": False}, "self_review": True,
}  # fmt: skip
"""Models this small fill the notes of a review to their last character: every round takes seconds."""
REVIEWS = b'"kind": "review"'


def sit(http: httpx.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/v1/tribunal", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def envelopes(lines: Iterator[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_a_question_comes_back_with_answer_trace_and_cost(http: httpx.Client) -> None:
    result = sit(http, question=QUESTION)
    assert result["answer"] == ANSWER
    assert (result["tribunal"], result["strategy"]) == ("default", "council")
    drafts = [step for step in result["trace"] if step["kind"] == "draft"]
    assert [step["model"] for step in drafts] == list(PANEL)
    assert all(step["seconds"] > 0 and step["usage"]["total_tokens"] > 0 for step in drafts)
    assert result["usage"]["total_tokens"] == sum(step["usage"]["total_tokens"] for step in result["trace"])
    assert result["cost"]["single"]["model"] == "pocket-8b"
    assert result["cost"]["times_tokens"] > 2


def test_where_they_differ_the_peers_review_and_the_chair_concludes(http: httpx.Client) -> None:
    result = sit(http, question=DISPUTED)
    kinds = [step["kind"] for step in result["trace"]]
    assert kinds.count("draft") == 3
    assert "review" in kinds
    assert result["chosen_by"] in ("chair", "borda")
    assert result["scores"]
    assert result["dissent"]
    assert [ranked["rank"] for ranked in result["ranking"]] == list(range(1, len(result["ranking"]) + 1))


@pytest.mark.parametrize(
    "strategy", ["refine", "council", "debate", "mixture", "single", "best_of_n", "self_consistency"]
)
def test_every_strategy_answers(http: httpx.Client, strategy: str) -> None:
    config = {"strategy": strategy, "temperature": 0.5, "rounds": 2}
    result = sit(http, question=DISPUTED, tribunal="default", config=config, seed=7)
    assert result["strategy"] == strategy
    assert result["answer"].startswith("The maintainer of ")
    assert not result["absent"]


def test_a_general_review_keeps_to_its_schema_even_with_models_this_small(http: httpx.Client) -> None:
    result = sit(http, question=DISPUTED, config={**ENDLESS, "rounds": 1})
    reviews = [step for step in result["trace"] if step["kind"] == "review"]
    assert len(reviews) == 3
    for review in (review for review in reviews if not review.get("abstained")):
        for scores in review["scores"].values():
            assert set(scores) == {"accuracy", "completeness", "clarity"}
            assert all(1 <= score <= 5 for score in scores.values())
    assert any("scores" in review for review in reviews)


def test_a_tribunal_can_sit_in_a_tribunal(http: httpx.Client) -> None:
    result = sit(http, question=QUESTION, tribunal="nested")
    inner = next(step for step in result["trace"] if step["model"] == "tribunal")
    assert inner["text"] == ANSWER
    assert inner["usage"]["total_tokens"] > 2 * result["trace"][0]["usage"]["total_tokens"]


def test_a_stream_tells_everything_in_order_and_can_be_read_again(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/tribunal", json={"question": DISPUTED, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = envelopes(response.iter_lines())
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))
    assert {each["v"] for each in told} == {1}
    kinds = [each["type"] for each in told]
    assert {"step.started", "draft.delta", "draft.done", "review.done", "round.done"} < set(kinds)
    assert kinds[-1] == "result"
    answer = "".join(each["text"] for each in told if each["type"] == "answer.delta")
    assert answer == told[-1]["result"]["answer"]
    run_id, middle = told[0]["id"], len(told) // 2
    again = http.get(f"/v1/tribunal/{run_id}", params={"after": middle}, headers={"accept": "text/event-stream"})
    assert envelopes(iter(again.text.splitlines())) == told[middle:]
    assert http.get(f"/v1/tribunal/{run_id}", headers={"accept": "application/json"}).json() == told[-1]["result"]


def test_a_lost_connection_can_be_taken_up_while_the_run_goes_on(http: httpx.Client, service: RunningService) -> None:
    body = {"question": QUESTION, "stream": True, "resume_s": 60, "config": {**ENDLESS, "rounds": 1}}
    with asking(service.url, "/v1/tribunal", body) as connection:
        seen = read_until(connection, REVIEWS, 3).decode()
    run_id = seen.partition('"id": "')[2].partition('"')[0]
    with http.stream("GET", f"/v1/tribunal/{run_id}", headers={"last-event-id": "2"}) as response:
        told = envelopes(response.iter_lines())
    assert [each["seq"] for each in told] == list(range(3, len(told) + 3))
    assert told[-1]["type"] == "result", told[-1]


def test_who_leaves_in_the_middle_stops_everything(http: httpx.Client, service: RunningService) -> None:
    def running() -> int:
        return service.running("pocket-1b") + service.running("pocket-8b")

    until(lambda: running() == 0, what="idle engines")
    with asking(service.url, "/v1/tribunal", {"question": QUESTION, "stream": True, "config": ENDLESS}) as connection:
        seen = read_until(connection, REVIEWS, 3).decode()
        until(lambda: running() >= 2, what="both engines at work")
    until(lambda: running() == 0, what="idle engines again")
    run_id = seen.partition('"id": "')[2].partition('"')[0]
    ended = http.get(f"/v1/tribunal/{run_id}", headers={"accept": "text/event-stream"})
    last = envelopes(iter(ended.text.splitlines()))[-1]
    assert (last["type"], last["error"]["code"]) == ("error", "cancelled")


@pytest.mark.parametrize("body", [{}, {"stream": True, "resume_s": 60}], ids=["whole", "resumable"])
def test_an_order_to_stop_or_a_lost_whole_answer_stops_it_too(
    http: httpx.Client, service: RunningService, body: dict[str, Any]
) -> None:
    def running() -> int:
        return service.running("pocket-1b") + service.running("pocket-8b")

    until(lambda: running() == 0, what="idle engines")
    with asking(service.url, "/v1/tribunal", {"question": QUESTION, "config": ENDLESS, **body}) as connection:
        until(lambda: running() >= 2, what="both engines at work")
        if body:
            seen = read_until(connection, REVIEWS, 1).decode()
            run_id = seen.partition('"id": "')[2].partition('"')[0]
            assert http.delete(f"/v1/tribunal/{run_id}").status_code == 204
            assert read_until(connection, b'"cancelled"', 1)
    until(lambda: running() == 0, what="idle engines again")


def test_openai_s_client_asks_a_tribunal_like_a_model(openai: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    reply = openai.chat.completions.create(model="tribunal", messages=messages)
    assert reply.choices[0].message.content == ANSWER
    assert reply.model == "tribunal"
    assert reply.usage is not None
    assert reply.usage.total_tokens > 100
    trace = getattr(reply.choices[0].message, "reasoning_content", "")
    assert all(model in trace for model in PANEL)
    chunks = list(
        openai.chat.completions.create(
            model="tribunal", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == ANSWER
    reasoning = [getattr(choice.delta, "reasoning_content", None) or "" for chunk in chunks for choice in chunk.choices]
    assert all(model in "".join(reasoning) for model in PANEL)
    assert chunks[-1].usage is not None


def test_bulk_takes_tribunals_among_models(http: httpx.Client) -> None:
    items = [{"model": "tribunal", "prompt": QUESTION}, {"model": "pocket-1b", "prompt": "Hello!"},
             {"model": "tribunal/nowhere", "prompt": QUESTION}]  # fmt: skip
    lines = http.post("/bulk", json={"items": items}).json()["items"]
    assert lines[0]["result"]["text"] == ANSWER
    assert "pocket-8b" in lines[0]["result"]["reasoning_content"]
    assert "reasoning_content" not in lines[1]["result"]
    assert lines[2]["error"]["code"] == "model_not_found"


def test_the_models_list_says_which_tribunal_could_not_sit(http: httpx.Client) -> None:
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards["tribunal"]["state"] == "ready"
    assert cards["tribunal/hollow"]["state"] == "failed"
    assert "broken" in cards["tribunal/hollow"]["reason"]


BAD = {
    "unknown tribunal": ({"tribunal": "nowhere"}, 400, "tribunal"),
    "unknown member": ({"config": {"members": ["nobody"]}}, 400, "config.members.0.model"),
    "a member that does not chat": ({"config": {"members": ["embedder"]}}, 400, "config.members.0.model"),
    "unknown strategy": ({"config": {"members": ["pocket-1b"], "strategy": "war"}}, 400, "config.strategy"),
    "zero rounds": ({"config": {"members": ["pocket-1b"], "rounds": 0}}, 400, "config.rounds"),
    "no members": ({"config": {"strategy": "debate"}}, 400, "config.members"),
    "an unknown key": ({"config": {"members": ["pocket-1b"], "round": 1}}, 400, "config"),
    "a chair that is not ready": ({"config": {"members": ["pocket-1b"], "chair": "broken"}}, 409, "config.chair"),
    "a named tribunal's chair that is not ready": ({"tribunal": "hollow"}, 409, "tribunal"),
    "a loop": ({"tribunal": "default", "config": {"members": ["pocket-1b", "tribunal/nested"]}}, 400, "config.members"),
    "a budget too small": (
        {"tribunal": "default", "config": {"stop": {"budget_tokens": 20}}}, 400, "config.stop.budget_tokens",
    ),
    "no question": ({"question": None}, 400, "question"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_is_refused_before_anyone_is_asked(
    http: httpx.Client, service: RunningService, body: dict[str, Any], status: int, param: str, stream: bool
) -> None:
    asked = {"question": QUESTION, "stream": stream, **body}
    response = http.post("/v1/tribunal", json={key: value for key, value in asked.items() if value is not None})
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    assert service.running("pocket-1b") == 0


def test_a_prompt_too_long_for_everyone_is_the_client_s_fault(http: httpx.Client) -> None:
    response = http.post("/v1/tribunal", json={"question": "llama " * 3000})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_budget_ends_the_deliberation_but_not_without_an_answer(http: httpx.Client) -> None:
    config = {"stop": {"budget_tokens": 400, "consensus": None}, "strategy": "debate", "rounds": 8}
    result = sit(http, question=DISPUTED, tribunal="default", config=config)
    assert result["stopped"]["reason"] == "budget"
    assert result["answer"]
    assert result["usage"]["total_tokens"] <= 400


def test_the_command_shows_the_sitting_and_prints_the_answer(service: RunningService) -> None:
    shown = service.corral("tribunal", QUESTION)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == ANSWER
    assert all(f"{model} drafted" in shown.stderr for model in PANEL)
    traced = service.corral("tribunal", QUESTION, "--strategy", "debate", "--json")
    assert json.loads(traced.stdout)["strategy"] == "debate"
    refused = service.corral("tribunal", QUESTION, "--tribunal", "nowhere")
    assert refused.returncode == 6
    assert "nowhere" in refused.stderr
