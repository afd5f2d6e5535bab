"""What a tribunal's spec takes and refuses, who sits in it, and loops."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.tribunal.config import (
    SAMPLING,
    STRATEGIES,
    Member,
    StopRules,
    TribunalSpec,
    loop,
    tribunal_name,
    virtual_id,
)
from tests.unit.tribunal_fakes import spec_of


def test_a_member_is_a_model_s_id_or_says_more() -> None:
    spec = spec_of(members=["a", {"model": "a", "name": "the sceptic", "role": "a sceptic", "temperature": 0}])
    assert [member.label for member in spec.members] == ["a", "the sceptic"]
    assert (spec.temperature_of(spec.members[0]), spec.temperature_of(spec.members[1])) == (0.7, 0)
    assert spec_of(chair="z").chair == Member(model="z")
    assert TribunalSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("config", "place", "words"),
    [
        ({"rounds": 0}, "rounds", "greater than or equal to 1"),
        ({"rounds": 9}, "rounds", "less than or equal to 8"),
        ({"strategy": "duel"}, "strategy", "'council'"),
        ({"strategie": "council"}, "", "did you mean 'strategy'"),
        ({"stop": {"deadline": 3}}, "stop", "did you mean 'deadline_s'"),
        ({"stop": {"deadline_s": 0}}, "stop.deadline_s", "greater than 0"),
        ({"stop": {"budget_tokens": 0}}, "stop.budget_tokens", "greater than or equal to 1"),
        ({"stop": {"consensus": 0.5}}, "stop.consensus", "greater than 0.5"),
        ({"stop": {"patience_s": 0}}, "stop.patience_s", "greater than 0"),
        ({"members": []}, "members", "at least 1"),
        ({"members": ["a"] * 17}, "members", "at most 16"),
        ({"members": ["a", 3]}, "members.1", "dictionary"),
        ({"members": [""]}, "members.0.model", "at least 1"),
        ({"members": [{"modell": "a"}]}, "members.0", "valid keys: max_tokens, model, name, role"),
        ({"members": [{"model": "a", "temperature": 3}]}, "members.0.temperature", "less than or equal to 2"),
        ({"members": ["a", "b", "a"]}, "", "two members are called 'a'"),
        ({"members": ["a", {"model": "b", "name": "a"}]}, "", "two members are called 'a'"),
        ({"chair": {"model": "z", "name": "a"}}, "", "a member of another model is called 'a'"),
        ({"chair": "tribunal/quick"}, "", "can be a member, but no chair"),
        ({"quorum": 4}, "", "4 is more than the 3 members"),
        ({"quorum": 0}, "quorum", "greater than or equal to 1"),
        ({"samples": 5}, "", "only best_of_n and self_consistency take samples, not council"),
        ({"strategy": "best_of_n", "samples": 0}, "samples", "greater than or equal to 1"),
        ({"strategy": "best_of_n", "temperature": 0}, "", "at 0 all samples of best_of_n are the same"),
        ({"strategy": "self_consistency", "chair": {"model": "c", "temperature": 0}}, "", "all samples"),
        ({"rubric": {}}, "rubric", "at least 1"),
        ({"rubric": {"accuracy": 0}}, "rubric.accuracy", "greater than 0"),
        ({"rubric": {"Good Taste": 1}}, "rubric.Good Taste.[key]", "match pattern"),
        ({"review": "alone"}, "review", "'apart'"),
        ({"wording": "rude"}, "wording", "'pocket'"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ],
)
def test_what_makes_no_tribunal_is_refused_at_its_place(config: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        spec_of(**config)
    first = refused.value.errors()[0]
    assert ".".join(map(str, first["loc"])) == place
    assert words in first["msg"]


def test_an_unknown_key_is_told_all_valid_ones() -> None:
    with pytest.raises(ValidationError) as refused:
        spec_of(panel=[])
    assert all(key in str(refused.value) for key in TribunalSpec.model_fields)


@pytest.mark.parametrize(
    "config",
    [
        {"strategy": "self_consistency", "members": [{"model": "a", "temperature": 0}, "b"]},
        {"strategy": "best_of_n", "temperature": 0, "samples": 1},
        {"strategy": "best_of_n", "temperature": 0, "chair": {"model": "z", "temperature": 1}},
        {"strategy": "best_of_n", "samples": 64},
        {"chair": {"model": "a", "role": "the chair"}},
        {"stop": {"consensus": None, "patience_s": None}},
    ],
)
def test_what_only_looks_odd_is_taken(config: dict[str, Any]) -> None:
    assert spec_of(**config)


@pytest.mark.parametrize(
    ("count", "quorum", "needed"), [(1, None, 1), (2, None, 1), (3, None, 2), (5, None, 3), (3, 3, 3)]
)
def test_half_of_the_members_are_a_quorum_unless_it_is_said(count: int, quorum: int | None, needed: int) -> None:
    assert spec_of(members=list("abcde")[:count], quorum=quorum).needed == needed


def test_the_last_member_that_is_no_tribunal_is_the_chair_unless_one_is_named() -> None:
    assert spec_of().chair_member.label == "c"
    assert spec_of(members=["a", "b", "tribunal/x"]).chair_member.label == "b"
    assert spec_of(members=["tribunal", "tribunal/x"]).chair_member.label == "tribunal/x"
    assert spec_of(chair="z").chair_member.label == "z"
    assert [member.label for member in spec_of(chair="z").seats] == ["a", "b", "c", "z"]
    assert [member.label for member in spec_of().seats] == ["a", "b", "c"]


def test_as_many_samples_are_drawn_as_members_would_draft() -> None:
    assert spec_of(strategy="best_of_n", members=["a"]).sample_count == 3
    assert spec_of(strategy="best_of_n", members=list("abcde")).sample_count == 5
    assert spec_of(strategy="best_of_n", samples=7).sample_count == 7
    assert set(STRATEGIES) >= SAMPLING


def test_the_embedded_models_review_one_draft_at_a_time() -> None:
    assert [spec_of(**config).apart for config in ({}, {"review": "apart"}, {"wording": "pocket"})] == [
        False,
        True,
        True,
    ]


def test_a_tribunal_answers_under_a_model_id_of_its_own() -> None:
    assert (virtual_id("default"), virtual_id("quick")) == ("tribunal", "tribunal/quick")
    assert [tribunal_name(model) for model in ("tribunal", "tribunal/quick", "tribunals", "a")] == [
        "default", "quick", None, None,
    ]  # fmt: skip


def named(**members: list[str]) -> dict[str, TribunalSpec]:
    return {name: spec_of(members=of_one) for name, of_one in members.items()}


@pytest.mark.parametrize(
    ("known", "way"),
    [
        (named(x=["a"]), []),
        (named(x=["tribunal/x"]), ["x", "x"]),
        (named(x=["a", "tribunal/y"], y=["tribunal/z"], z=["b", "tribunal/x"]), ["x", "y", "z", "x"]),
        (named(x=["tribunal/y"], y=["tribunal/z"], z=["tribunal/y"]), ["x", "y", "z", "y"]),
        (named(x=["tribunal/y", "tribunal/z"], y=["tribunal/z"], z=["a"]), []),
        (named(x=["tribunal"], default=["tribunal/x"]), ["x", "default", "x"]),
        (named(x=["tribunal/unknown"]), []),
    ],
)
def test_a_tribunal_that_asks_itself_is_found_with_the_way(known: dict[str, TribunalSpec], way: list[str]) -> None:
    assert loop("x", known["x"], known) == way


def test_a_spec_does_not_change() -> None:
    with pytest.raises(ValidationError):
        spec_of().rounds = 3  # type: ignore[misc]
    assert StopRules() == spec_of().stop
