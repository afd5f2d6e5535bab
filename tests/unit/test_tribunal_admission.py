"""What is refused before anyone is asked, with its words and its field; and who is known to be away."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.chat import ChatRequest
from deployments.errors import BadRequest, NotReady, ServingError, Unavailable, UnknownModel
from deployments.status import ModelState, ModelStatus
from deployments.tribunal.admission import INLINE, Admission, overlaid
from deployments.tribunal.budget import TEMPLATE, TokenRates
from deployments.tribunal.config import TribunalSpec
from tests.unit.tribunal_fakes import Panel, Voice, admission_over, asked, spec_of

ABC = ["a", "b", "c"]
SPECS: dict[str, dict[str, Any]] = {
    "quick": {"strategy": "single", "members": ["a"]},
    "default": {"members": ABC, "stop": {"deadline_s": 9, "budget_tokens": 5000}},
    "deep": {"members": ["a", "tribunal"]},
}


def panel(**states: ModelStatus | Exception) -> Panel:
    found = Panel(a=Voice(), b=Voice(), c=Voice(), d=Voice())
    found.states |= states
    return found


def admission(**states: ModelStatus | Exception) -> Admission:
    return admission_over(panel(**states), **SPECS)


def down(model: str, state: ModelState = ModelState.FAILED, reason: str | None = None) -> ModelStatus:
    return ModelStatus(model, state, reason=reason)


async def refused(of: Admission, kind: type[ServingError] = BadRequest, **ask: Any) -> tuple[str, str | None]:
    with pytest.raises(kind) as error:
        await of.admit(asked(**ask))
    assert type(error.value) is kind
    return error.value.message, getattr(error.value, "param", None)


@pytest.mark.parametrize(
    ("config", "message", "param"),
    [
        ({}, "config.members: Field required", "config.members"),
        ({"members": ABC, "rounds": 0}, "config.rounds: Input should be greater than", "config.rounds"),
        ({"members": ABC, "strategy": "duel"}, "config.strategy: Input should be 'refine', ", "config.strategy"),
        ({"members": ABC, "chairs": "a"}, "config: unknown key 'chairs' (did you mean 'chair'?)", "config"),
        ({"members": ABC, "quorum": 4}, "config: quorum: 4 is more than the 3 members", "config"),
        ({"members": ["a", {"model": "b", "nam": "x"}]}, "config.members.1: unknown key 'nam'", "config.members.1"),
        ({"members": ["a", "nope"]}, "members.1: there is no model 'nope' that chats", "config.members.1.model"),
        ({"members": ABC, "chair": "nope"}, "chair: there is no model 'nope'", "config.chair.model"),
        ({"members": ["tribunal/nope"]}, "members.0: there is no model 'tribunal/nope'", "config.members.0.model"),
        ({"members": ABC, "stop": None}, "config.stop: ", "config.stop"),
        ({"members": "abc"}, "config.members: ", "config.members"),
        (
            {"members": ABC, "stop": {"budget_tokens": 20}},
            "stop.budget_tokens: 20 tokens do not pay for one draft: the question has about ",
            "config.stop.budget_tokens",
        ),
    ],
)
async def test_a_wrong_inline_configuration_is_refused_with_its_field(
    config: dict[str, Any], message: str, param: str
) -> None:
    told, field = await refused(admission(), config=config)
    assert told.startswith(message)
    assert field == param


async def test_an_unknown_member_is_told_who_there_is() -> None:
    told, _ = await refused(admission(), config={"members": ["x" * 200]})
    assert "there are a, b, c, d" in told
    assert len(told) < 200


async def test_an_unknown_tribunal_is_told_which_there_are() -> None:
    told, field = await refused(admission(), tribunal="nope")
    assert (told, field) == (
        "tribunal: there is no tribunal 'nope'; there are default, quick, deep.", "tribunal",
    )  # fmt: skip
    without = Admission({}, {}, panel().find, panel().status)
    assert "the profile has none" in (await refused(without))[0]


async def test_a_tribunal_that_would_ask_itself_is_refused_with_the_way() -> None:
    told, field = await refused(admission(), tribunal="quick", config={"members": ["tribunal/deep", "tribunal/quick"]})
    assert (told, field) == ("members: the tribunal asks itself: quick -> quick.", "config.members")
    told, _ = await refused(admission(), tribunal="default", config={"members": ["a", "tribunal/deep"]})
    assert told == "members: the tribunal asks itself: default -> deep -> default."


async def test_what_is_named_alone_is_the_profile_s() -> None:
    admitted = await admission().admit(asked(max_tokens=7, priority=3, deltas=True))
    assert (admitted.name, admitted.terms.spec, admitted.absent) == ("default", spec_of(**SPECS["default"]), {})
    assert (admitted.terms.max_tokens, admitted.terms.priority, admitted.terms.deltas) == (7, 3, True)
    assert (await admission().admit(asked(tribunal="quick", config={}))).terms.spec.strategy == "single"
    assert (await admission().admit(asked(config={"members": ["d"]}))).name == INLINE
    assert admission().names == ("default", "quick", "deep")


async def test_a_configuration_lies_over_the_named_tribunal_and_its_stop_key_by_key() -> None:
    config = {"temperature": 0.1, "stop": {"deadline_s": 3}}
    spec = (await admission().admit(asked(tribunal="default", config=config))).terms.spec
    assert (spec.temperature, spec.stop.deadline_s, spec.stop.budget_tokens) == (0.1, 3, 5000)
    assert overlaid(spec_of(), {"stop": {"deadline_s": 3}})["stop"] == {"deadline_s": 3}
    assert TribunalSpec.model_validate(overlaid(spec, {})) == spec


# Who is away.


@pytest.mark.parametrize("state", [ModelState.FAILED, ModelState.STOPPING])
async def test_a_chair_that_is_not_ready_is_refused(state: ModelState) -> None:
    config = {"members": ABC, "chair": "d"}
    told, field = await refused(admission(d=down("d", state, "no GPU")), NotReady, config=config)
    assert (told, field) == (f"The chair does not answer: d is {state.value}: no GPU.", "config.chair")


async def test_who_is_asked_alone_must_be_there() -> None:
    told, field = await refused(admission(a=down("a")), NotReady, tribunal="quick")
    assert (told, field) == ("The chair does not answer: a is failed.", "tribunal")


async def test_too_few_members_are_refused_with_all_that_are_away() -> None:
    away = admission(a=down("a"), c=down("c", reason="it ran out of memory"))
    told, field = await refused(away, NotReady, config={"members": ABC})
    words = "Only 1 of at least 2 members answer: a is failed; c is failed: it ran out of memory."
    assert (told, field) == (words, "config.members")


@pytest.mark.parametrize("state", [ModelState.STARTING, ModelState.IDLE, ModelState.READY])
async def test_who_will_answer_soon_is_not_away(state: ModelState) -> None:
    assert (await admission(a=down("a", state)).admit(asked())).absent == {}


async def test_a_quorum_can_sit_and_knows_who_is_away() -> None:
    admitted = await admission(c=down("c")).admit(asked())
    assert admitted.absent == {"c": "c is failed"}


async def test_who_cannot_be_asked_how_it_is_counts_as_away() -> None:
    admitted = await admission(b=Unavailable("nobody knows b")).admit(asked())
    assert admitted.absent == {"b": "nobody knows b"}


async def test_a_tribunal_that_cannot_sit_is_an_absent_member_of_another() -> None:
    away = admission(b=down("b"), c=down("c"))
    assert (await away.admit(asked(tribunal="deep"))).absent == {
        "tribunal": "Only 1 of at least 2 members answer: b is failed; c is failed"
    }
    assert await away.missing("deep") is None
    assert await away.missing("quick") is None
    assert "Only 1 of at least 2" in str(await away.missing("default"))
    with pytest.raises(UnknownModel, match="tribunal, tribunal/quick, tribunal/deep"):
        await away.missing("nope")


# The budget.


async def test_a_budget_that_pays_for_one_draft_is_enough() -> None:
    prompt = TokenRates().estimate("a", asked().messages)
    config: dict[str, Any] = {"members": ABC, "stop": {"budget_tokens": prompt + 16}}
    assert await admission().admit(asked(config=config))
    await refused(admission(), config={**config, "stop": {"budget_tokens": prompt + 15}})
    assert await admission().admit(asked(config={**config, "stop": {"budget_tokens": prompt + 4}}, max_tokens=4))


def test_a_prompt_s_tokens_are_rather_guessed_too_many_and_learnt_from_longer_ones() -> None:
    rates, short, long = TokenRates(), ({"content": "hi"},), ({"content": "x" * 1000},)
    assert rates.estimate("a", long) == 300 + TEMPLATE
    rates.learn("a", short, 40)
    assert rates.estimate("a", long) == 300 + TEMPLATE
    rates.learn("a", long, 900)
    assert (rates.estimate("a", long), rates.estimate("b", long)) == (900, 300 + TEMPLATE)
    rates.learn("a", long, 100)
    rates.learn("a", (), 0)
    assert rates.estimate("a", long) == 900
    assert rates.estimate("b", ({"content": "\u4e2d" * 1000},)) == 900 + TEMPLATE


async def test_what_one_sitting_learns_of_tokens_costs_no_other_anything() -> None:
    of = admission()
    question = ({"role": "user", "content": "x" * 1000},)
    config = {"members": ["a"], "stop": {"budget_tokens": 400}}
    for _ in range(2):
        admitted = await of.admit(asked(messages=question, config=config))
        admitted.terms.rates.learn("a", ChatRequest(question).messages, 1000)


async def test_the_lesser_budget_counts() -> None:
    of = admission()
    config = {"members": ["a"], "stop": {"budget_tokens": 400}}
    for more, budget in (({}, 400), ({"budget_tokens": 300}, 300), ({"budget_tokens": 900}, 400)):
        assert (await of.admit(asked(config=config, **more))).terms.spec.stop.budget_tokens == budget


async def test_tribunals_in_tribunals_are_looked_at_once_each() -> None:
    looked = 0

    async def status(model: str) -> ModelStatus:
        nonlocal looked
        looked += 1
        return ModelStatus(model, ModelState.READY)

    inner = {"members": ["a"]}
    outer = {f"t{at}": {"members": [{"model": f"tribunal/t{at - 1}", "name": str(n)} for n in range(8)]}
             for at in range(1, 9)}  # fmt: skip
    specs = {name: TribunalSpec.model_validate(spec) for name, spec in {"t0": inner, **outer}.items()}
    of = Admission(specs, {"a": 1000}, panel().find, status)
    assert await of.missing("t8") is None
    assert looked == 1
