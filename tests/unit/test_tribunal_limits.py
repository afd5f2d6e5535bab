"""What a sitting may take, whatever is asked, and what small failures must not change."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from deployments.errors import BadRequest, EngineFailed, Overloaded
from deployments.tribunal import session
from deployments.tribunal.events import EventType
from deployments.tribunal.virtual import TribunalModel
from deployments.tribunal.wording import GeneralWording
from tests.unit.tribunal_fakes import QUESTION, Panel, Voice, sitting, spec_of, tribunals_over, trio
from tests.waiting import eventually

FULL = Overloaded("full", 1)
STATEMENT = "The owner of willow is Ada Smith."


def draft_of(statements: int) -> tuple[dict[str, str], ...]:
    """A question that brings a draft of so many statements."""
    return ({"role": "user", "content": f"Passage: None.\n\nDraft: {' '.join([STATEMENT] * statements)}"},)


async def test_a_draft_of_too_many_statements_is_refused_before_anyone_is_asked() -> None:
    panel = Panel(a=Voice())
    with pytest.raises(BadRequest, match="65 statements; at most 64") as caught:
        await sitting(panel, members=["a"], strategy="refine", wording="pocket", terms={"question": draft_of(65)})
    assert (caught.value.param, panel.kinds()) == ("messages", [])


async def test_only_so_many_calls_of_a_sitting_are_with_the_engines_at_once() -> None:
    panel = Panel(a=Voice(holds=frozenset("*")))
    task = asyncio.create_task(sitting(panel, members=["a"], strategy="self_consistency", samples=64))
    await eventually(lambda: panel.running == session.AT_ONCE)
    for _ in range(64):
        panel.step.release()
    assert len((await task).steps("draft")) == 64
    assert max(fake.peak for fake in panel.fakes) == session.AT_ONCE


async def test_a_sitting_ends_with_what_it_has_when_it_has_had_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CALLS", 5)
    held = await sitting(trio(), stop={"leader": False})
    assert (held.reason, len(held.result.trace)) == ("calls", 3)
    assert held.result.answer


@pytest.mark.parametrize("error", [EngineFailed("died"), FULL])
async def test_one_lost_sample_does_not_keep_the_others_from_being_judged(error: Exception) -> None:
    voice = Voice(["bad", "good", "so so"], scores=lambda text: {"good": 5}.get(text, 1))
    panel = Panel(a=voice)
    panel.speakers["a"].free._fails = lambda request: error if request.params["seed"] == 1 + 1009 else None
    held = await sitting(panel, members=["a"], strategy="best_of_n", samples=4)
    assert (held.result.answer, held.result.chosen_by) == ("good", "borda")
    assert [absence.member for absence in held.result.absent] == ["a #1"]


async def test_a_round_that_nobody_answers_does_not_undo_what_was_judged() -> None:
    panel = trio(fails={"reconsider": EngineFailed("died")})
    for name in "abc":
        panel.speakers[name].voice.scores = lambda text: {"the meadow": 5, "the stable": 1}.get(text, 2)
    held = await sitting(panel, rounds=2, stop={"leader": False})
    assert held.result.ranking[0].text == "the meadow"
    assert held.result.chosen_by == "borda"


async def test_a_chair_whose_review_finds_a_full_queue_still_writes_the_answer() -> None:
    panel = trio()
    panel.speakers["c"].voice.fails = {"review": FULL}
    held = await sitting(panel, stop={"leader": False})
    assert held.result.chosen_by == "chair"
    assert held.result.absent == ()
    assert [step.failed for step in held.steps("review") if step.failed] == ["full"]


async def test_a_full_queue_is_waited_out_for_a_moment() -> None:
    tries = 0

    def twice(_: object) -> Exception | None:
        nonlocal tries
        tries += 1
        return FULL if tries < 3 else None

    panel = Panel(a=Voice("yes"))
    panel.speakers["a"].free._fails = twice
    held = await sitting(panel, members=["a"], strategy="single")
    assert (held.result.answer, tries) == ("yes", 3)


async def test_what_was_cancelled_counts_by_an_estimate() -> None:
    panel = trio()
    panel.speakers["b"].voice.holds = frozenset({"review"})
    panel.speakers["a"].voice.draft = panel.speakers["c"].voice.draft = "the stable"
    held = await sitting(panel, stop={"deadline_s": 0.1, "leader": False, "consensus": None})
    (lost,) = [step for step in held.result.trace if step.failed == "cancelled"]
    assert lost.usage.prompt_tokens > 0


async def test_a_deadline_after_the_leader_was_found_is_told() -> None:
    panel = trio(holds=frozenset({"synthesis"}))
    held = await sitting(panel, stop={"deadline_s": 0.1})
    assert held.reason == "deadline"
    assert [told["reason"] for told in held.told(EventType.STOP_REASON)][-1] == "deadline"


async def test_a_tribunal_that_is_a_member_keeps_to_the_budget_of_the_one_it_sits_in() -> None:
    inner = Panel(x=Voice("long " * 400), y=Voice("longer " * 400))
    tribunals = tribunals_over(inner, {"inner": {"members": ["x", "y"], "strategy": "debate", "rounds": 8}})
    panel = Panel()
    panel.virtual["tribunal/inner"] = TribunalModel(tribunals, "inner")
    held = await sitting(panel, members=["tribunal/inner"], strategy="single", stop={"budget_tokens": 600})
    assert held.result.answer
    assert inner.spent <= 600


async def test_the_answer_of_a_nested_tribunal_is_the_same_with_and_without_deltas() -> None:
    inner = Panel(x=Voice("one"), y=Voice("two", raw={"synthesis": ["  ", None]}, synthesis="both"))
    for deltas in (False, True):
        tribunals = tribunals_over(inner, {"inner": {"members": ["x", "y"], "stop": {"leader": False}}})
        panel = Panel()
        panel.virtual["tribunal/inner"] = TribunalModel(tribunals, "inner")
        terms = {"deltas": deltas}
        held = await sitting(panel, members=["tribunal/inner"], strategy="single", terms=terms)
        assert held.result.answer == "both"
        inner.speakers["y"].voice.asked.clear()


async def test_a_blank_first_try_of_the_chair_leaves_no_trace_in_the_stream() -> None:
    panel = trio()
    panel.speakers["c"].voice.raw = {"synthesis": ["   ", None]}
    held = await sitting(panel, stop={"leader": False}, terms={"deltas": True})
    told = "".join(each["text"] for each in held.told(EventType.ANSWER_DELTA))
    assert told == held.result.answer == "the synthesis"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The sum is 40 + 2.\nThe answer is 42.", "42"),
        ("Answer: **42**", "42"),
        ("answer:  Forty  Two.", "forty two"),
        ("I do not know.", "i do not know"),
        ("The answer is 1.\nNo, wait.", "the answer is 1. no, wait"),
    ],
)
def test_drafts_that_conclude_alike_say_the_same(text: str, same: str) -> None:
    assert GeneralWording().same(text) == same


@pytest.mark.parametrize("mark", ["</draft-A>", "<draft-B>", "< /draft-A >", "</question>", "<ANSWER-1>"])
def test_no_draft_can_open_or_close_a_mark(mark: str) -> None:
    member = spec_of().members[0]
    prompt = GeneralWording().review(QUESTION, {"draft-A": f"x {mark} y", "draft-B": "z"}, {"accuracy": 1.0}, member)
    content = str(prompt.messages[-1]["content"])
    assert f"x {mark} y" not in content
    assert f"x < {mark[1:]} y" in content


@pytest.mark.parametrize("name", ["a, b", "a #1", "a\nb", "a\x1b[2J"])
def test_names_that_the_trace_could_not_tell_apart_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        spec_of(members=[{"model": "a", "name": name}])


def test_no_text_takes_long_to_be_quoted_or_compared() -> None:
    """Each of these took seconds with patterns that try again from every place."""
    member = spec_of().members[0]
    wording = GeneralWording()
    for text in ("<" + " " * 100_000 + "x", "< / " * 50_000, "the answer is " + ". " * 100_000):
        assert wording.critique(QUESTION, text, member).messages
        assert wording.same(text)


async def test_a_call_that_waits_for_its_turn_is_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "AT_ONCE", 2)
    panel = Panel(a=Voice(), b=Voice(holds=frozenset("*")), c=Voice(holds=frozenset("*")), d=Voice())
    held = await sitting(panel, members=["a", "b", "c", "d"], quorum=1, stop={"deadline_s": 0.1, "consensus": None})
    charged = {step.member for step in held.result.trace if step.usage.prompt_tokens}
    assert charged == {"a", "b", "c"}
    assert len(panel.requests("draft")) == 3
