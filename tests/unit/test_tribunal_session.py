"""A sitting: members in parallel, absences, the quorum, patience, budget, deadline, cancellation, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.chat import ChatDelta
from deployments.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineFailed,
    NoQuorum,
    Overloaded,
    PromptTooLong,
    ServingError,
    Unavailable,
)
from deployments.tribunal.config import STRATEGIES
from deployments.tribunal.events import EventType
from deployments.tribunal.result import Step
from tests.unit.tribunal_fakes import Panel, Sitting, Voice, kind_of, sitting, trio
from tests.waiting import eventually

DIED = EngineFailed("it died")
HOLD = frozenset("*")
PATIENCE_S = 0.02


def voices(panel: Panel, names: str, **changes: Any) -> Panel:
    for name in names:
        for key, value in changes.items():
            setattr(panel.speakers[name].voice, key, value)
    return panel


# In parallel.


async def test_members_are_asked_in_parallel_step_by_step() -> None:
    panel = trio(holds=HOLD)
    task = asyncio.create_task(sitting(panel, stop={"leader": False}))
    for step in (["draft"] * 3, ["review"] * 3, ["synthesis"]):
        await eventually(lambda step=step: panel.kinds()[-len(step) :] == step)  # type: ignore[misc]
        assert panel.running == len(step)
        for _ in step:
            panel.step.release()
    assert (await task).result.chosen_by == "chair"


async def test_samples_are_drawn_in_parallel() -> None:
    panel = Panel(a=Voice(holds=HOLD))
    task = asyncio.create_task(sitting(panel, members=["a"], strategy="self_consistency", samples=9))
    await eventually(lambda: panel.running == 9)
    for _ in range(9):
        panel.step.release()
    await task
    assert max(fake.peak for fake in panel.fakes) == 9


# Who is missing.


async def test_a_member_that_dies_is_missing_and_the_others_still_answer() -> None:
    panel = voices(trio(), "b", fails={"*": DIED})
    held = await sitting(panel)
    assert held.result.answer == "the synthesis"
    assert [vars(each) for each in held.result.absent] == [
        {"member": "b", "model": "b", "step": 2, "reason": "it died"},
    ]  # fmt: skip
    assert held.told(EventType.MEMBER_ABSENT) == [vars(held.result.absent[0])]
    assert [step.failed for step in held.steps("draft")] == [None, "it died", None]
    assert held.result.to_json()["absent"] == held.told(EventType.MEMBER_ABSENT)
    assert len(panel.requests("review", "b")) == 0


async def test_who_is_known_to_be_away_is_not_asked_at_all() -> None:
    panel = trio()
    held = await sitting(panel, {"b": "b is failed"})
    assert [(each.member, each.step, each.reason) for each in held.result.absent] == [("b", 0, "b is failed")]
    assert [name for _, name in panel.log if name == "b"] == []


async def test_a_member_that_breaks_off_by_itself_is_missing() -> None:
    held = await sitting(voices(trio(), "a", fails={"*": asyncio.CancelledError()}))
    assert [each.reason for each in held.result.absent] == ["it broke off"]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (DIED, NoQuorum),
        (PromptTooLong("too long", "messages"), PromptTooLong),
        (BadRequest("no"), BadRequest),
        (Overloaded("full", 17), Overloaded),
        (Unavailable("gone"), NoQuorum),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_without_a_draft_the_failure_of_all_is_raised(
    strategy: str, failure: ServingError, expected: type[ServingError]
) -> None:
    with pytest.raises(expected) as raised:
        await sitting(voices(trio(), "abc", fails={"draft": failure}), strategy=strategy)
    assert type(raised.value) is expected
    assert failure.message in raised.value.message


async def test_too_few_drafts_are_no_quorum_and_it_says_who_is_missing() -> None:
    panel = voices(voices(trio(), "a", fails={"*": DIED}), "b", fails={"*": Overloaded("full")})
    with pytest.raises(NoQuorum, match=r"1 of at least 2 members drafted\. a: it died; b: full"):
        await sitting(panel)
    assert (await sitting(panel, quorum=1)).result.answer == "the synthesis"


async def test_members_that_say_nothing_are_asked_twice_and_then_there_is_no_quorum() -> None:
    panel = voices(trio(), "abc", draft="")
    with pytest.raises(NoQuorum, match="0 of at least 2"):
        await sitting(panel)
    assert panel.kinds() == ["draft"] * 6


async def test_an_error_that_no_model_may_raise_ends_the_sitting_and_frees_the_others() -> None:
    panel = voices(voices(trio(), "ab", holds=HOLD), "c", fails={"*": TimeoutError("of its own")})
    with pytest.raises(TimeoutError, match="of its own"):
        await sitting(panel)
    assert (panel.running, panel.cancelled) == (0, 2)


# Patience.


async def test_who_is_late_after_the_quorum_is_missing_and_cancelled() -> None:
    panel = voices(trio(), "c", holds=HOLD)
    held = await sitting(panel, chair="a", stop={"patience_s": PATIENCE_S})
    assert [each.reason for each in held.result.absent] == ["it was later than patience_s after the quorum"]
    assert (panel.running, held.result.chosen_by) == (0, "chair")


async def test_patience_is_from_the_quorum_on_and_not_from_the_last_draft() -> None:
    names = [f"m{number}" for number in range(16)]
    panel = Panel(**{name: Voice(name, holds=HOLD) for name in names})
    task = asyncio.create_task(
        sitting(panel, members=names, quorum=1, strategy="debate", stop={"patience_s": PATIENCE_S})
    )
    await eventually(lambda: panel.running == 16)
    while panel.running:
        panel.step.release()
        await asyncio.sleep(PATIENCE_S / 4)
    assert panel.cancelled > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_a_quorum_there_is_no_end_to_patience() -> None:
    panel = voices(trio(), "bc", holds=HOLD)
    task = asyncio.create_task(sitting(panel, stop={"patience_s": 0.001}))
    await eventually(lambda: panel.running == 2)
    await asyncio.sleep(PATIENCE_S)
    assert panel.running == 2
    for _ in range(9):
        panel.step.release()
    assert (await task).result.absent == ()


# The budget.

LONG = "the llamas of this house live " + " ".join(["in the corral"] * 20)


def talkers() -> Panel:
    return Panel(**{name: Voice(f"{name} {LONG}", reconsidered=f"{name} again {LONG}") for name in "abc"})


@settings(max_examples=120, deadline=None)
@given(st.integers(70, 6000), st.sampled_from(STRATEGIES), st.integers(1, 3), st.booleans())
def test_no_more_is_spent_than_the_budget_and_there_is_still_an_answer(
    limit: int, strategy: str, rounds: int, deltas: bool
) -> None:
    panel = talkers()
    config: dict[str, Any] = {"strategy": strategy, "rounds": rounds, "stop": {"budget_tokens": limit, "leader": False}}
    held = asyncio.run(sitting(panel, terms={"deltas": deltas}, **config))
    assert held.result.answer
    assert panel.spent <= limit
    assert held.result.usage.total_tokens == panel.spent
    unpaid = [step for step in held.result.trace if step.failed]
    assert held.reason == "budget" if unpaid else held.reason in ("done", "consensus", "accepted")


async def test_a_budget_for_one_draft_gives_one() -> None:
    panel = talkers()
    held = await sitting(panel, stop={"budget_tokens": 70})
    assert (held.result.answer.split()[0], held.result.chosen_by, held.reason) == ("a", "vote", "budget")
    assert panel.kinds() == ["draft"]
    assert [step.failed for step in held.steps("draft")] == [None, *["the budget does not pay for it"] * 2]
    assert held.told(EventType.STOP_REASON) == [{"reason": "budget", "detail": "70 tokens do not pay for more"}]
    assert held.result.absent == ()


async def test_a_budget_for_less_than_one_draft_is_the_request_s_fault() -> None:
    with pytest.raises(BadRequest, match="does not pay for one draft") as refused:
        await sitting(talkers(), stop={"budget_tokens": 50})
    assert refused.value.param == "config.stop.budget_tokens"


async def test_a_budget_is_shared_so_that_reviews_and_the_answer_get_their_part() -> None:
    panel = talkers()
    held = await sitting(panel, stop={"budget_tokens": 3000, "leader": False})
    assert panel.kinds() == ["draft"] * 3 + ["review"] * 3 + ["synthesis"]
    assert held.reason == "done"
    assert {request.params["max_tokens"] for request in panel.requests("draft")} == {500 - 32 - 12}


# The deadline.


async def late(panel: Panel, **config: Any) -> Sitting:
    return await sitting(panel, **{**config, "stop": {"deadline_s": 0.1, "leader": False}})


async def test_at_the_deadline_the_leading_draft_so_far_is_the_answer() -> None:
    panel = trio(holds=frozenset({"synthesis"}))
    held = await late(panel)
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("the stable", "borda", "deadline")
    assert (panel.running, panel.cancelled) == (0, 1)
    assert held.result.stopped["detail"] == "0.1 s have passed"
    assert held.steps("synthesis")[0].failed == "cancelled"


async def test_drafts_that_came_before_the_deadline_count_without_a_quorum() -> None:
    held = await late(voices(trio(), "ac", holds=HOLD))
    assert (held.result.answer, held.result.chosen_by) == ("the meadow", "vote")


async def test_reviews_that_came_before_the_deadline_count() -> None:
    held = await late(voices(trio(), "a", holds=frozenset({"review"})))
    assert (held.result.answer, held.result.chosen_by) == ("the stable", "borda")
    assert held.result.ranking[0].scores["accuracy"] == 5


async def test_a_deadline_without_a_draft_is_exceeded() -> None:
    panel = trio(holds=HOLD)
    with pytest.raises(DeadlineExceeded, match=r"No member had drafted when the deadline of 0\.1 s passed"):
        await late(panel)
    assert (panel.running, panel.cancelled) == (0, 3)


async def test_a_deadline_in_a_debate_leaves_what_was_said_before() -> None:
    panel = voices(trio(reconsidered="in the corral"), "b", holds=frozenset({"reconsider"}))
    held = await late(panel, strategy="debate")
    assert (held.result.answer, held.reason) == ("the barn", "deadline")


# Cancellation.


@pytest.mark.parametrize("deltas", [False, True])
@pytest.mark.parametrize(("strategy", "kind", "running"), [
    ("council", "draft", 3), ("council", "review", 3), ("council", "synthesis", 1), ("debate", "reconsider", 3),
    ("refine", "critique", 3), ("single", "draft", 1), ("self_consistency", "draft", 3), ("best_of_n", "draft", 3),
])  # fmt: skip
async def test_cancelling_frees_every_model_at_once(strategy: str, kind: str, running: int, deltas: bool) -> None:
    panel = trio(holds=frozenset({kind}))
    stop = {"leader": False}
    task = asyncio.create_task(sitting(panel, strategy=strategy, terms={"deltas": deltas}, stop=stop))
    await eventually(lambda: panel.running == running)
    asked = len(panel.log)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (panel.running, panel.cancelled, len(panel.log)) == (0, running, asked)


# What is told.


async def test_with_deltas_drafts_and_the_answer_are_told_piece_by_piece() -> None:
    panel = trio()
    held = await sitting(panel, terms={"deltas": True}, stop={"leader": False})
    pieces = held.told(EventType.DRAFT_DELTA)
    assert [each["text"] for each in pieces if each["member"] == "a"] == ["the", " stable"]
    assert {each["step"] for each in pieces} == {1, 2, 3}
    assert [each["text"] for each in held.told(EventType.ANSWER_DELTA)] == ["the", " synthesis"]
    assert held.result.usage.total_tokens == panel.spent
    quiet = await sitting(trio(), stop={"leader": False})
    assert quiet.told(EventType.DRAFT_DELTA) == quiet.told(EventType.ANSWER_DELTA) == []


async def test_every_step_is_told_when_it_starts_and_when_it_is_done() -> None:
    held = await sitting(voices(trio(), "b", fails={"*": DIED}), stop={"leader": False})
    started = held.told(EventType.STEP_STARTED)
    assert [each["step"] for each in started] == [1, 2, 3, 4, 5, 6]
    assert started[0] == {"step": 1, "kind": "draft", "round": 0, "member": "a", "model": "a"}
    done = [*held.told(EventType.DRAFT_DONE), *held.told(EventType.REVIEW_DONE), *held.told(EventType.MEMBER_ABSENT)]
    assert sorted(each["step"] for each in done) == [1, 2, 3, 4, 5, 6]
    first = held.told(EventType.DRAFT_DONE)[0]
    assert (first["text"], first["usage"]["completion_tokens"]) == ("the stable", 2)


async def test_the_usage_of_both_tries_counts() -> None:
    panel = voices(trio(), "a", raw={"review": ["nonsense"]})
    held = await sitting(panel, stop={"leader": False})
    (step,) = [step for step in held.steps("review") if step.member == "a"]
    prompts = [len(str(each.messages[0]["content"]).split()) for each in panel.requests("review", "a")]
    assert (step.usage.prompt_tokens, step.usage.completion_tokens) == (sum(prompts), 2)
    assert held.result.usage.total_tokens == panel.spent


async def test_a_stream_without_an_end_is_a_failure() -> None:
    panel = trio()
    panel.speakers["a"].free.stream = no_end  # type: ignore[assignment, method-assign]
    held = await sitting(panel, terms={"deltas": True})
    assert [each.reason for each in held.result.absent] == ["a broke off while answering."]


async def no_end(_: Any) -> AsyncIterator[ChatDelta]:
    yield ChatDelta("half an")


async def test_times_are_the_clock_s() -> None:
    ticks = iter(range(1000))
    held = await sitting(trio(), terms={"clock": lambda: next(ticks)}, strategy="single")
    (step,) = held.result.trace
    assert isinstance(step, Step)
    assert (step.started_s, step.seconds, held.result.seconds) == (1, 1, 3)


def test_the_fakes_know_the_steps_apart() -> None:
    panel = trio()
    asyncio.run(sitting(panel, strategy="council", rounds=2, stop={"leader": False}))
    assert {kind_of(request) for request in panel.requests("draft")} == {"draft"}
    assert set(panel.kinds()) == {"draft", "review", "reconsider", "synthesis"}
