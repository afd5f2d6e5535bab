"""Refinement, the embedded models' words, and tribunals that sit in tribunals, from question to result."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from deployments.errors import EngineFailed
from deployments.pocket import NOT_SUPPORTED, SUPPORTED
from deployments.tribunal.config import virtual_id
from deployments.tribunal.events import EventType
from deployments.tribunal.virtual import TribunalModel
from tests.unit.tribunal_fakes import Panel, Voice, sitting, tribunals_over, trio
from tests.waiting import eventually

DIED = EngineFailed("it died")
CRITIQUE = {"faults": ["too vague"], "verdict": "revise"}
KEEP: dict[str, Any] = {"faults": [], "verdict": "keep"}
MENDS = Voice("In the barn.", mends=lambda _: "In the corral.")


def tried(panel: Panel) -> Counter[str]:
    return Counter(panel.kinds())


# Refine.


async def test_a_draft_is_refined_until_its_critics_would_keep_it() -> None:
    panel = Panel(a=Voice(critique=[CRITIQUE, KEEP]), b=Voice(critique=[CRITIQUE, KEEP]), c=Voice("somewhere"))
    held = await sitting(panel, strategy="refine", members=["a", "b"], chair="c", rounds=4)
    assert panel.kinds() == ["draft", "critique", "critique", "revise", "critique", "critique"]
    assert (held.result.answer, held.result.chosen_by, held.reason) == (
        "in the corral, revised", "revision", "accepted",
    )  # fmt: skip
    assert "- too vague" in str(panel.requests("revise")[0].messages[-1]["content"])


async def test_a_draft_that_is_kept_at_once_is_the_answer() -> None:
    panel = Panel(a=Voice(), b=Voice())
    held = await sitting(panel, strategy="refine", members=["a"], chair="b", rounds=3)
    assert (held.result.chosen_by, held.reason, panel.kinds()) == ("single", "accepted", ["draft", "critique"])


async def test_refining_ends_with_its_rounds_and_where_nothing_changes() -> None:
    stubborn = Panel(a=Voice("fine", revision="Fine.", critique=CRITIQUE))
    await sitting(stubborn, strategy="refine", members=["a"], rounds=5)
    assert stubborn.kinds() == ["draft", "critique", "revise"]
    panel = Panel(a=Voice("0", revision="1", critique=CRITIQUE))
    held = await sitting(panel, strategy="refine", members=["a"], rounds=1)
    assert (held.result.answer, held.reason, len(held.told(EventType.ROUND_DONE))) == ("1", "done", 1)


@pytest.mark.parametrize("kind", ["critique", "revise"])
async def test_a_refinement_that_fails_leaves_the_draft_as_it_was(kind: str) -> None:
    panel = Panel(a=Voice("the draft", critique=CRITIQUE, fails={kind: DIED}))
    held = await sitting(panel, strategy="refine", members=["a"], rounds=3)
    assert (held.result.answer, held.result.chosen_by) == ("the draft", "single")
    assert [each.reason for each in held.result.absent] == ["it died"]


async def test_half_of_the_critics_are_enough_to_keep_a_draft_and_those_who_abstain_do_not_count() -> None:
    panel = Panel(a=Voice(), b=Voice(critique=CRITIQUE), c=Voice(raw={"critique": ["?"]}), d=Voice("the draft"))
    held = await sitting(panel, strategy="refine", members=["a", "b", "c"], chair="d")
    assert (held.result.answer, held.reason) == ("the draft", "accepted")
    assert [step.abstained for step in held.steps("critique")] == [False, False, True]


# The embedded models.

PASSAGE = "The barn is empty. The corral is full.\n\n"
BROUGHT = ({"role": "user", "content": f"{PASSAGE}Draft: In the barn."},)
ASKED = ({"role": "user", "content": f"{PASSAGE}Where are the llamas?"},)


async def test_a_draft_that_was_brought_is_mended_as_most_critics_say_with_a_verdict() -> None:
    panel = Panel(a=MENDS, b=MENDS, c=Voice("unused"))
    held = await sitting(panel, terms={"question": BROUGHT}, strategy="refine", wording="pocket")
    assert held.result.answer == f"In the corral. {NOT_SUPPORTED}"
    assert (held.result.chosen_by, panel.kinds()) == ("revision", ["mend"] * 3)
    kept = await sitting(
        Panel(a=Voice()), terms={"question": BROUGHT}, strategy="refine", wording="pocket", members=["a"]
    )
    assert (kept.result.answer, kept.reason) == (f"In the barn. {SUPPORTED}", "accepted")


async def test_embedded_models_review_by_whether_they_would_change_a_draft() -> None:
    def mends(_: str) -> str:
        return "In the corral."

    panel = Panel(
        a=Voice("In the barn.", mends=mends), b=Voice("In the corral.", mends=mends), c=Voice("On it.", mends=mends)
    )
    held = await sitting(panel, terms={"question": ASKED}, wording="pocket", stop={"leader": False})
    assert tried(panel) == {"draft": 3, "mend": 7}
    assert (held.result.ranking[0].members, held.result.answer) == (("b",), "In the corral.")
    assert held.result.ranking[0].scores == {"agrees": 1.0}


# A tribunal as a member.


async def test_a_tribunal_can_be_a_member_that_drafts_and_does_not_review() -> None:
    inner = Panel(x=Voice("the inner answer"), y=Voice("the inner answer"))
    panel = trio()
    panel.virtual["tribunal/inner"] = TribunalModel(
        tribunals_over(inner, {"inner": {"members": ["x", "y"], "strategy": "debate"}}), "inner"
    )
    held = await sitting(panel, members=["a", "b", virtual_id("inner")], stop={"leader": False})
    assert [step.member for step in held.steps("draft")] == ["a", "b", "tribunal/inner"]
    assert [step.member for step in held.steps("review")] == ["a", "b"]
    assert held.steps("draft")[2].text == "the inner answer"
    assert held.steps("draft")[2].usage.total_tokens == inner.spent
    assert held.result.chosen_by == "chair"


async def test_a_sitting_that_is_cancelled_frees_the_models_of_the_tribunals_in_it() -> None:
    inner = Panel(x=Voice(holds=frozenset("*")), y=Voice(holds=frozenset("*")))
    panel = trio()
    panel.virtual["tribunal/inner"] = TribunalModel(tribunals_over(inner, {"inner": {"members": ["x", "y"]}}), "inner")
    for deltas in (False, True):
        task = asyncio.create_task(sitting(panel, members=["a", "tribunal/inner"], terms={"deltas": deltas}))
        await eventually(lambda: inner.running == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert inner.running == 0
