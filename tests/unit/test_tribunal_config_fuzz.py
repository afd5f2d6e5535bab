"""Tribunals as people write them: a spec or the field that is wrong; never a way round in a circle."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.errors import BadRequest, NotReady
from deployments.strict_json import check_values
from deployments.tribunal.admission import Admission, overlaid
from deployments.tribunal.config import DEFAULT, STRATEGIES, TribunalSpec, loop, tribunal_name, virtual_id
from tests.unit.mutations import SENDABLE, VALUES, changed
from tests.unit.tribunal_fakes import admission_over, asked, trio

WHOLE: dict[str, Any] = {
    "strategy": "council",
    "members": ["a", {"model": "b", "name": "the sceptic", "role": "a sceptic", "system": "Doubt.", "temperature": 0.5},
                {"model": "c", "max_tokens": 64}],
    "chair": {"model": "c"},
    "rounds": 2,
    "samples": None,
    "rubric": {"accuracy": 3.0, "clarity": 1},
    "review": "apart",
    "self_review": True,
    "stop": {"consensus": 0.6, "leader": False, "budget_tokens": 100_000, "deadline_s": 60, "patience_s": 5},
    "quorum": 2,
    "temperature": 0.7,
    "max_tokens": 512,
    "review_max_tokens": 128,
    "wording": "general",
}  # fmt: skip
WORDS = st.sampled_from([*STRATEGIES, "a", "b", "tribunal", "tribunal/deep", 0, 1, 0.5, -1, 1 << 70])
SPECS = changed(WHOLE, VALUES | WORDS) | VALUES


def admission() -> Admission:
    deep = {"members": ["a", "tribunal"]}
    return admission_over(trio(), default={"members": ["a", "b"]}, deep=deep)


@settings(deadline=None, max_examples=200)
@given(SPECS)
@example({**WHOLE, "stop": {"patience_s": float("inf")}})
@example({**WHOLE, "temperature": float("nan")})
def test_any_value_is_a_spec_that_can_be_told_or_is_refused(value: Any) -> None:
    with suppress(ValidationError):
        spec = TribunalSpec.model_validate(value)
        told = json.dumps(spec.model_dump(mode="json"), allow_nan=False)
        assert TribunalSpec.model_validate(json.loads(told)) == spec
        labels = [member.label for member in spec.members]
        assert len(set(labels)) == len(labels)
        assert spec.needed <= len(labels)
        assert spec.chair_member in spec.seats
        assert spec.sample_count >= 1


@settings(deadline=None, max_examples=100)
@given(config=changed(WHOLE, SENDABLE | WORDS) | st.dictionaries(st.sampled_from([*WHOLE]), SENDABLE | WORDS),
       tribunal=st.none() | st.sampled_from(["default", "deep", "nope"]))  # fmt: skip
async def test_any_config_is_admitted_or_its_field_named(config: Any, tribunal: str | None) -> None:
    if not isinstance(config, dict):
        return
    try:
        check_values(config)  # as every body is looked at
        admitted = await admission().admit(asked(config=config, tribunal=tribunal))
    except (BadRequest, NotReady) as error:
        assert error.param  # noqa: PT017
        return
    if tribunal is not None:
        there = TribunalSpec.model_validate(admission().spec(tribunal))
        assert TribunalSpec.model_validate(overlaid(there, config))
    assert admitted.terms.spec.members


GRAPHS = st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=8)


def member(number: int) -> str:
    return virtual_id(DEFAULT if number == 0 else f"t{number}")


@settings(deadline=None, max_examples=200)
@given(GRAPHS)
def test_a_way_back_is_found_where_there_is_one(graph: list[list[int]]) -> None:
    specs = {
        str(tribunal_name(member(number))): TribunalSpec(
            members=tuple(dict.fromkeys(["a", *(member(other) for other in others)]))
        )
        for number, others in enumerate(graph)
    }
    found = loop(DEFAULT, specs[DEFAULT], specs)
    assert bool(found) == leads_into_a_circle(graph)
    for one, other in pairwise(found):
        assert virtual_id(other) in [each.model for each in specs[one].members]
    if found:
        assert found[-1] in found[:-1]


def leads_into_a_circle(graph: list[list[int]]) -> bool:
    """Whether after more steps than there are tribunals some way from the first still goes on."""
    reached = {0}
    for _ in graph:
        reached = {other for one in reached for other in graph[one] if other < len(graph)}
    return bool(reached)
