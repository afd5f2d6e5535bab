"""Each strategy from question to result: who is asked what in which order, what the answer is, and what stops it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from deployments.errors import EngineFailed
from deployments.tribunal.events import EventType
from tests.unit.tribunal_fakes import Panel, Sitting, Voice, shown_in, sitting, trio

DIED = EngineFailed("it died")


def tried(panel: Panel) -> Counter[str]:
    return Counter(panel.kinds())


def places(of: Sitting) -> list[tuple[tuple[str, ...], float]]:
    return [(ranked.members, ranked.points) for ranked in of.result.ranking]


# Council.


async def test_a_council_drafts_reviews_and_lets_the_chair_write_the_answer() -> None:
    panel = trio()
    held = await sitting(panel, stop={"leader": False})
    assert panel.kinds() == ["draft"] * 3 + ["review"] * 3 + ["synthesis"]
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("the synthesis", "chair", "done")
    assert places(held) == [(("a",), 1.0), (("b",), 0.5), (("c",), 0.0)]
    assert held.result.ranking[0].scores == {"accuracy": 5.0, "completeness": 5.0, "clarity": 5.0}
    assert [step.step for step in held.result.trace] == [1, 2, 3, 4, 5, 6, 7]
    assert [step.round for step in held.result.trace] == [0, 0, 0, 1, 1, 1, 1]
    assert held.result.single == held.result.trace[2]
    assert [each["round"] for each in held.told(EventType.ROUND_DONE)] == [1]


async def test_the_chair_sees_the_drafts_best_first_with_their_scores_and_no_names() -> None:
    panel = trio()
    await sitting(panel, chair="c", members=["c", "b", "a"], stop={"leader": False})
    (request,) = panel.requests("synthesis", "c")
    assert [text.split(")\n")[1] for text in numbered(request)] == ["the stable", "the meadow", "the barn"]
    assert "(place 1; accuracy 5.0, completeness 5.0, clarity 5.0)" in str(request.messages[0]["content"])


def numbered(request: Any) -> list[str]:
    content = str(request.messages[-1]["content"])
    return [part.split("\n</draft")[0] for part in content.split("<draft-")[1:]]


async def test_authors_do_not_review_their_own_drafts() -> None:
    panel = trio()
    await sitting(panel, stop={"leader": False})
    own = {"a": "the stable", "b": "the meadow", "c": "the barn"}
    for name, text in own.items():
        (request,) = panel.requests("review", name)
        assert sorted(shown_in(request)) == sorted(set(own.values()) - {text})


async def test_authors_review_their_own_where_the_spec_says_so_or_only_one_other_would_be_left() -> None:
    panel = trio()
    await sitting(panel, self_review=True, stop={"leader": False})
    assert all(len(shown_in(request)) == 3 for request in panel.requests("review"))
    two = trio()
    await sitting(two, members=["a", "b"], stop={"leader": False})
    assert [len(shown_in(request)) for request in two.requests("review")] == [2, 2]


async def orders(seed: int | None) -> list[list[str]]:
    panel = Panel(**{name: Voice(f"it is {name}") for name in "abcdefgh"})
    await sitting(panel, members=list("abcdefgh"), self_review=True, stop={"leader": False}, terms={"seed": seed})
    return [shown_in(request) for request in panel.requests("review")]


async def test_every_reviewer_sees_the_drafts_in_an_order_of_its_own_which_the_seed_decides() -> None:
    seen = await orders(7)
    assert len({tuple(order) for order in seen}) == 8
    assert {tuple(sorted(order)) for order in seen} == {tuple(sorted(seen[0]))}
    assert seen == await orders(7) != await orders(8)


async def test_reviews_apart_show_one_draft_at_a_time() -> None:
    panel = trio()
    held = await sitting(panel, review="apart", stop={"leader": False})
    assert [len(shown_in(request)) for request in panel.requests("review")] == [1] * 6
    assert places(held)[0] == (("a",), 1.0)
    assert {name for step in held.steps("review") for name in step.scores or {}} == {"a", "b", "c"}


async def test_a_review_s_step_says_whose_draft_got_which_scores() -> None:
    held = await sitting(trio(), rubric={"accuracy": 1}, stop={"leader": False})
    assert held.steps("review")[0].scores == {"b": {"accuracy": 3.0}, "c": {"accuracy": 1.0}}


async def test_what_does_not_parse_is_asked_for_once_more_and_then_the_reviewer_abstains() -> None:
    panel = trio()
    panel.speakers["a"].voice.raw = {"review": ["nonsense", None]}
    panel.speakers["b"].voice.raw = {"review": ["nonsense"]}
    held = await sitting(panel, stop={"leader": False})
    assert [len(panel.requests("review", name)) for name in "abc"] == [2, 2, 1]
    assert [(step.retried, step.abstained) for step in held.steps("review")] == [
        (True, False), (True, True), (False, False),
    ]  # fmt: skip
    told = {each["member"]: each.get("abstained", False) for each in held.told(EventType.REVIEW_DONE)}
    assert told == {"a": False, "b": True, "c": False}
    assert held.result.to_json()["abstained"] == [{"member": "b", "step": 5}]
    assert held.result.absent == ()
    first, second = panel.requests("review", "a")
    assert (first.params["temperature"], second.params["temperature"]) == (0, 0.5)
    assert first.params["seed"] != second.params["seed"]


async def test_without_a_review_the_votes_decide() -> None:
    panel = Panel(a=Voice("in A"), b=Voice("in B"), c=Voice("in b."), d=Voice(fails={"*": DIED}))
    for speaker in panel.speakers.values():
        speaker.voice.raw = {"review": ["?"]}
    held = await sitting(panel, chair="d")
    assert (held.result.answer, held.result.chosen_by) == ("in B", "vote")
    assert places(held) == [(("b", "c"), 2 / 3), (("a",), 1 / 3)]


async def test_a_chair_that_fails_leaves_the_leading_draft_as_the_answer() -> None:
    panel = trio()
    panel.speakers["c"].voice.fails = {"synthesis": DIED}
    held = await sitting(panel)
    assert (held.result.answer, held.result.chosen_by) == ("the stable", "borda")
    assert [each.reason for each in held.result.absent] == ["it died"]


async def test_a_chair_that_was_lost_on_the_way_is_not_asked_again() -> None:
    panel = trio()
    panel.speakers["c"].voice.fails = {"review": DIED}
    held = await sitting(panel, stop={"leader": False})
    assert (held.result.answer, held.result.chosen_by) == ("the stable", "borda")
    assert panel.requests("synthesis") == []


async def test_members_that_agree_are_not_asked_to_review() -> None:
    panel = Panel(a=Voice("in the corral"), b=Voice("In the corral."), c=Voice("in the  corral"))
    held = await sitting(panel)
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("in the corral", "consensus", "consensus")
    assert panel.kinds() == ["draft"] * 3
    assert held.result.dissent == ()


async def test_a_share_that_agrees_is_enough_where_the_spec_says_so() -> None:
    panel = Panel(a=Voice("yes"), b=Voice("no"), c=Voice("no"))
    held = await sitting(panel, stop={"consensus": 0.6})
    assert (held.result.answer, held.reason) == ("no", "consensus")
    assert held.result.dissent == ({"members": ["a"], "text": "yes", "points": 0.3333},)
    never = await sitting(Panel(a=Voice(), b=Voice(), c=Voice()), stop={"consensus": None})
    assert never.result.chosen_by == "chair"


async def test_who_comes_to_agree_in_a_later_round_is_not_asked_to_review_again() -> None:
    panel = trio(reconsidered="in the corral")
    held = await sitting(panel, rounds=2, stop={"leader": False})
    assert tried(panel) == {"draft": 3, "review": 3, "reconsider": 3}
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("in the corral", "consensus", "consensus")


async def test_in_a_second_round_all_draft_anew_and_are_reviewed_anew() -> None:
    panel = trio()
    panel.speakers["b"].voice.reconsidered = "the stable, of course"
    held = await sitting(panel, rounds=2, stop={"leader": False, "consensus": None})
    assert panel.kinds() == ["draft"] * 3 + ["review"] * 3 + ["reconsider"] * 3 + ["review"] * 3 + ["synthesis"]
    assert [each["round"] for each in held.told(EventType.ROUND_DONE)] == [1, 2]
    assert {ranked.text for ranked in held.result.ranking} == {"the stable", "the stable, of course", "the barn"}


async def test_reviews_that_cannot_change_who_leads_are_left_out_and_cancelled() -> None:
    likes = {"in A": 5}
    names = "abcdefgh"
    voices = {name: Voice(f"in {name.upper()}", scores=lambda text: likes.get(text, 1)) for name in names}
    voices["h"].holds = frozenset({"review"})
    panel = Panel(**voices)
    held = await sitting(panel, members=list(names), rounds=3)
    assert held.reason == "leader"
    assert (panel.running, panel.cancelled) == (0, 1)
    assert held.steps("review")[-1].failed == "cancelled"
    assert held.result.absent == ()
    assert (held.result.chosen_by, held.result.ranking[0].members) == ("chair", ("a",))
    assert len(panel.requests("reconsider")) == 0


async def test_who_put_another_draft_first_dissents_but_not_the_leading_draft_s_author() -> None:
    panel = trio()
    panel.speakers["c"].voice.scores = lambda text: 5 if text == "the meadow" else 4
    held = await sitting(panel, members=["a", "b", "c"], rubric={"accuracy": 1}, stop={"leader": False})
    assert held.result.ranking[0].members == ("b",)
    assert [each for each in held.result.dissent if "reviewer" in each] == []
    panel.speakers["a"].voice.scores = lambda text: 5 if text == "the barn" else 1
    held = await sitting(panel, self_review=True, rubric={"accuracy": 1}, stop={"leader": False})
    assert {"reviewer": "a", "preferred": ["c"]} in held.result.dissent


async def test_a_member_with_a_role_is_asked_in_it() -> None:
    panel = trio()
    members = [{"model": "a", "name": "sceptic", "role": "a sceptic", "temperature": 0.2}, "b", "c"]
    held = await sitting(panel, members=members, terms={"priority": 10, "max_tokens": 50})
    (request,) = panel.requests("draft", "a")
    assert request.messages[0] == {"role": "system", "content": "You are a sceptic."}
    assert (request.params["temperature"], request.params["max_tokens"], request.priority) == (0.2, 50, 10)
    assert panel.requests("review", "b")[0].params["max_tokens"] == 512
    assert held.steps("draft")[0].member == "sceptic"


# Debate and mixture.


async def test_in_a_debate_all_see_what_the_others_say_and_then_vote() -> None:
    panel = Panel(a=Voice("in A"), b=Voice("in B"), c=Voice("in C", reconsidered="in B"))
    held = await sitting(panel, strategy="debate")
    assert panel.kinds() == ["draft"] * 3 + ["reconsider"] * 3
    (request,) = panel.requests("reconsider", "a")
    assert request.messages[1] == {"role": "assistant", "content": "in A"}
    content = str(request.messages[2]["content"])
    assert "in B" in content
    assert "in C" in content
    assert "in A" not in content
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("in B", "vote", "done")
    assert places(held) == [(("b", "c"), 2 / 3), (("a",), 1 / 3)]


async def test_a_debate_ends_as_soon_as_all_agree() -> None:
    panel = Panel(a=Voice("in A"), b=Voice("in B", reconsidered="in A"), c=Voice("in C", reconsidered=["x", "in A"]))
    held = await sitting(panel, strategy="debate", rounds=5)
    assert tried(panel) == {"draft": 3, "reconsider": 6}
    assert (held.result.answer, held.result.chosen_by, held.reason) == ("in A", "consensus", "consensus")


async def test_who_fails_in_a_debate_stands_by_what_it_said_and_is_missing() -> None:
    panel = Panel(a=Voice("in A"), b=Voice("in B", fails={"reconsider": DIED}), c=Voice("in C", reconsidered="in B"))
    held = await sitting(panel, strategy="debate", rounds=2)
    assert held.result.ranking[0].members == ("b", "c")
    assert [(each.member, each.reason) for each in held.result.absent] == [("b", "it died")]
    assert len(panel.requests("reconsider", "b")) == 1


async def test_each_layer_of_a_mixture_sees_the_one_before_and_the_chair_aggregates() -> None:
    panel = trio()
    panel.speakers["a"].voice.reconsidered = ["second A", "third A"]
    held = await sitting(panel, strategy="mixture", rounds=3)
    assert panel.kinds() == ["draft"] * 3 + ["reconsider"] * 6 + ["synthesis"]
    second, third = [str(request.messages[-1]["content"]) for request in panel.requests("reconsider", "b")]
    assert "the stable" in second
    assert "second A" in third
    assert "third A" in str(panel.requests("synthesis")[0].messages[-1]["content"])
    assert (held.result.answer, held.result.chosen_by) == ("the synthesis", "chair")


async def test_a_mixture_of_one_layer_is_drafts_and_the_chair() -> None:
    panel = trio()
    await sitting(panel, strategy="mixture")
    assert panel.kinds() == ["draft"] * 3 + ["synthesis"]
    same = Panel(a=Voice(), b=Voice(), c=Voice())
    assert (await sitting(same, strategy="mixture")).result.chosen_by == "consensus"


# One model, several times.


async def test_single_asks_the_chair_once() -> None:
    panel = trio()
    held = await sitting(panel, strategy="single", chair="b")
    assert panel.log == [("draft", "b")]
    assert (held.result.answer, held.result.chosen_by) == ("the meadow", "single")


async def test_self_consistency_answers_with_what_is_said_most_often() -> None:
    panel = Panel(a=Voice(["4", "5", "4", "6", "4."]))
    held = await sitting(panel, members=["a"], strategy="self_consistency", samples=5)
    assert panel.kinds() == ["draft"] * 5
    assert (held.result.answer, held.result.chosen_by) == ("4", "vote")
    assert places(held)[0] == (("a #1", "a #3", "a #5"), 0.6)
    assert len({request.params["seed"] for request in panel.requests("draft")}) == 5


async def test_best_of_n_answers_with_what_the_chair_judges_best() -> None:
    panel = Panel(a=Voice(["bad", "good", "so so"], scores=lambda text: {"good": 5, "so so": 3}.get(text, 1)))
    held = await sitting(panel, members=["a"], strategy="best_of_n")
    assert panel.kinds() == ["draft"] * 3 + ["review"]
    assert (held.result.answer, held.result.chosen_by) == ("good", "borda")
    assert held.result.ranking[0].members == ("a #2",)
    same = await sitting(Panel(a=Voice("yes")), members=["a"], strategy="best_of_n")
    assert (same.result.chosen_by, len(same.result.trace)) == ("consensus", 3)


async def test_as_many_samples_as_the_spec_allows_can_be_judged() -> None:
    panel = Panel(a=Voice([f"it is {number}" for number in range(64)], scores=lambda text: 1 + text.endswith(" 63")))
    held = await sitting(panel, members=["a"], strategy="best_of_n", samples=64, review_max_tokens=2000)
    assert held.result.answer == "it is 63"
    assert len(shown_in(panel.requests("review")[0])) == 64
