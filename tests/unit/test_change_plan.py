"""Plans: what a profile changes, how each model gets there, and what a running service does not take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.change.plan import How, ModelChange, counted, last_generation, plan_of
from app.settings import Settings
from tests.unit.change_fakes import profile, profile_of


def test_models_come_and_go_and_the_others_stay() -> None:
    plan = plan_of(profile("a", "b"), profile("b", "c"))
    assert plan.models == (
        ModelChange("b", How.UNCHANGED),
        ModelChange("c", How.NEW),
        ModelChange("a", How.REMOVED),
    )
    assert (plan.settings, plan.fixed, plan.refusal) == ((), (), None)


@pytest.mark.parametrize(
    ("keys", "how", "fields"),
    [
        ({"max_sequences": 8}, How.REPLACED, ("max_sequences",)),
        ({"source": "pocket:pocket-3b"}, How.REPLACED, ("source",)),
        ({"env": {"A.B": "1"}}, How.REPLACED, ("env.A.B",)),
        ({"hardware": {"kind": "cpu", "cpus": 2}}, How.REPLACED, ("hardware.cpus",)),
        ({"lora": {"adapters": {"tuned": "/tmp"}}}, How.REPLACED, ("lora",)),
        ({"autoscaling": {"max_replicas": 3}}, How.IN_PLACE, ("autoscaling.max_replicas",)),
        ({"max_queued_requests": 1, "retry_after_s": 9}, How.IN_PLACE, ("max_queued_requests", "retry_after_s")),
        ({"beside_quiet": 0.5, "max_ongoing_requests": 3}, How.IN_PLACE, ("max_ongoing_requests", "beside_quiet")),
        ({"max_queued_requests": 1, "eager": True}, How.REPLACED, ("eager", "max_queued_requests")),
        ({}, How.UNCHANGED, ()),
    ],
)
def test_a_model_is_replaced_unless_its_replicas_can_be_told(
    keys: dict[str, Any], how: How, fields: tuple[str, ...]
) -> None:
    (change,) = plan_of(profile("a"), profile_of({"a": keys})).models
    assert change == ModelChange("a", how, fields)


@pytest.mark.parametrize(
    ("sections", "taken", "fixed"),
    [
        ({"gateway": {"max_body": 1000}}, ("gateway.max_body",), ()),
        ({"bulk": {"max_items": 3}, "edge": {"idle_timeout_s": 9}}, ("bulk.max_items", "edge.idle_timeout_s"), ()),
        ({"tribunals": {"x": {"strategy": "single", "members": ["a"]}}}, ("tribunals.x",), ()),
        ({"rag": {"model": "a", "max_upload": 5, "floor": 0.3}}, ("rag.model", "rag.max_upload"), ("rag.floor",)),
        ({"edge": {"port": 9, "host": "::1"}}, (), ("edge.host", "edge.port")),
        ({"access": {"keys": "required", "tls": {}}}, (), ("access.keys", "access.tls")),
        ({"ray": {"cpus": 3}}, (), ("ray.cpus",)),
        ({"cluster": {"walltime": "1:00:00", "shared": "/x"}}, (), ("cluster",)),
    ],
)
def test_settings_are_taken_or_refused_by_name(
    sections: dict[str, Any], taken: tuple[str, ...], fixed: tuple[str, ...]
) -> None:
    plan = plan_of(profile("a"), profile("a", **sections))
    assert (plan.settings, plan.fixed) == (taken, fixed)
    assert all(field in (plan.refusal or "") for field in fixed)
    assert (plan.refusal is None) == (not fixed)
    assert not plan.empty


def test_another_order_of_models_is_a_change() -> None:
    assert plan_of(profile("a", "b"), profile("b", "a")).settings == ("models (their order)",)


def test_what_is_started_anew_gets_the_next_generation_and_nothing_else() -> None:
    old = counted(profile("a", "b", "c"), profile_of({"a": {}, "b": {"eager": True}, "c": {}}), 4)
    new = counted(old, profile_of({"a": {"eager": True}, "b": {"eager": True}, "c": {"retry_after_s": 1}, "d": {}}), 7)
    assert {spec.id: spec.deployed_id for spec in new.models.values()} == {"a": "a:7", "b": "b:4", "c": "c", "d": "d:7"}
    assert {spec.id: spec.app_name for spec in new.models.values()}["b"] == "model-b:4"
    assert new.models["d"].route_prefix == "/models/d:7"
    assert (last_generation(old), last_generation(new), last_generation(profile("a"))) == (4, 7, 0)


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "max_sequences": st.integers(1, 3),
        "context_tokens": st.integers(16, 18),
        "max_queued_requests": st.integers(0, 2),
        "autoscaling": st.builds(lambda most: {"max_replicas": most}, st.integers(1, 3)),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"])),
        "generation": st.integers(0, 3),
    },
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "bulk": st.builds(lambda most: {"max_items": most}, st.integers(1, 3)),
        "gateway": st.builds(lambda most: {"replicas": most}, st.integers(1, 2)),
    },
)
PROFILES = st.builds(
    lambda models, sections: profile_of(models, **sections),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), KEYS, min_size=1),
    SECTIONS,
)


def written(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"models": {"__all__": {"generation"}}})


@given(PROFILES, PROFILES, st.integers(4, 9))
def test_a_plan_leads_from_any_profile_to_any_other(old: Settings, new: Settings, generation: int) -> None:
    reached = counted(old, new, generation)
    assert written(reached) == written(new)
    assert plan_of(reached, new).empty
    assert plan_of(new, new).empty
    fresh = {each for each in new.models if reached.models[each].generation == generation}
    assert fresh == set(plan_of(old, new).of(How.NEW, How.REPLACED))
    ways = plan_of(old, new)
    assert {each.model for each in ways.models} == {*old.models, *new.models}
    assert set(ways.of(How.REMOVED)) == old.models.keys() - new.models.keys()
