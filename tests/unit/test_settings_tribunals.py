"""The profile's tribunals: who sits in them, what becomes of them when a model is dropped, and the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.settings import SettingsError, load_settings
from deployments.tribunal.config import TribunalSpec

Write = Callable[..., Path]

THREE = """models:
  a: {source: pocket:pocket-1b, lora: {adapters: {a-tuned: ./tuned}}}
  b: {source: pocket:pocket-3b}
  c: {source: pocket:pocket-8b}
  e: {source: x/y, task: embed}
"""
OVER = "extends: base.yaml\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def with_tribunals(specs: str) -> str:
    """A profile of three models that chat, an adapter and one that embeds."""
    return f"{THREE}tribunals: {specs}\n"


def tribunals(profile: str | Path, **environ: str) -> dict[str, TribunalSpec]:
    return load_settings(profile, environ).tribunals


def members(spec: TribunalSpec) -> list[str]:
    return [member.model for member in spec.members]


def refusal(profile: str | Path, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(profile, environ)
    return str(caught.value)


# --- what a profile may say ---


@pytest.mark.parametrize("name", ["pocket", "peers", "llama"])
def test_built_in_profiles_have_a_default_tribunal_of_their_own_models(name: str) -> None:
    settings = load_settings(name, {})
    default = settings.tribunals["default"]
    assert {member.model for member in default.seats} <= set(settings.models)
    assert len(default.members) == 3
    assert default.chair_member.model == members(default)[-1]
    assert default.wording == ("general" if name == "llama" else "pocket")


def test_a_profile_without_tribunals_has_none() -> None:
    assert tribunals("laptop") == {}


def test_members_are_ids_or_say_more_and_all_of_it_survives_yaml(write: Write) -> None:
    path = write(
        with_tribunals(
            "{default: {members: [a, {model: a-tuned, role: a sceptic, temperature: 0}, tribunal/wise],"
            " chair: c, rounds: 2, rubric: {truth: 2}, stop: {consensus: null, budget_tokens: 900}},"
            " wise: {strategy: self_consistency, members: [b], samples: 5}}"
        )
    )
    settings = load_settings(path, {})
    default, wise = settings.tribunals.values()
    assert [member.label for member in default.members] == ["a", "a-tuned", "tribunal/wise"]
    assert (default.rounds, default.stop.consensus, wise.sample_count) == (2, None, 5)
    assert load_settings(write(settings.to_yaml(), "again.yaml"), {}) == settings


@pytest.mark.parametrize(
    ("specs", "told"),
    [
        (
            "{default: {members: [a, nobody]}}",
            "tribunals.default: no model 'nobody' chats here; there are a, a-tuned, b, c, tribunal",
        ),
        ("{wise: {members: [a], chair: nobody}}", "tribunals.wise: no model 'nobody' chats here"),
        ("{default: {members: [a, e]}}", "tribunals.default: no model 'e' chats here"),
        ("{default: {members: [a, tribunal/x]}}", "tribunals.default: no model 'tribunal/x' chats here"),
        ("{default: {members: [a, tribunal]}}", "tribunals.default: it asks itself: default -> default"),
        (
            "{x: {members: [a, tribunal/y]}, y: {members: [tribunal/x]}}",
            "tribunals.x: it asks itself: x -> y -> x",
        ),
        (
            "{default: {membres: [a]}}",
            "tribunals.default: unknown key 'membres' (did you mean 'members'?); valid keys: chair, max_tokens",
        ),
        ("{default: {members: [a], stop: {deadline: 3}}}", "tribunals.default.stop: unknown key 'deadline'"),
        (
            "{default: {members: [a], rounds: 0}}",
            "tribunals.default.rounds: input should be greater than or equal to 1",
        ),
        ("{default: {members: [a, a]}}", "tribunals.default: two members are called 'a'; give one a `name`"),
        ("{default: {members: a}}", "tribunals.default.members: input should be a valid tuple (got 'a')"),
        ("{default: {}}", "tribunals.default.members: this key is required, but missing"),
        ("{default: null}", "tribunals.default: this must hold keys and values, not None"),
        ("{a b: {members: [a]}}", "'a b' is not an id: letters, digits, '.', '_' and '-', at most 64"),
        ("{default: {members: [a], rubric: {Good: 1}}}", "should match pattern '^[a-z][a-z0-9_]{0,31}$' (got 'Good')"),
    ],
)
def test_mistakes_are_told_by_file_and_key(specs: str, told: str, write: Write) -> None:
    path = write(with_tribunals(specs))
    message = refusal(path)
    assert message.startswith(str(path))
    assert told in message


@pytest.mark.parametrize(
    "models",
    ["{tribunal: {source: x/y}}", "{a: {source: x/y, lora: {adapters: {tribunal: ./l}}}}"],
)
def test_no_model_takes_the_default_tribunal_s_id(models: str, write: Write) -> None:
    message = refusal(write(f"models: {models}\n"))
    assert "models: the id 'tribunal' is the default tribunal's; call the model otherwise" in message


# --- profiles over profiles ---


def test_a_dropped_model_leaves_the_inherited_tribunals(write: Write) -> None:
    kept = tribunals(write("extends: pocket\nmodels: {pocket-3b: null}\n"))
    assert members(kept["default"]) == ["pocket-8b", "pocket-70b"]
    assert kept["refine"] == tribunals("pocket")["refine"]


def test_tribunals_go_with_their_chair_and_with_their_last_member(write: Write) -> None:
    assert tribunals(write("extends: pocket\nmodels: {pocket-70b: null}\n")) == {}


@pytest.mark.parametrize(
    ("spec", "dropped", "left"),
    [
        ("{members: [a, b, c]}", "c", ["a", "b"]),
        ("{members: [a, b, {model: c, name: see}], chair: b}", "c", ["a", "b"]),
        ("{members: [a-tuned, b, c]}", "a", ["b", "c"]),
        ("{members: [a, b], chair: a-tuned}", "a", None),
        ("{members: [a, b, c], quorum: 2}", "c", ["a", "b"]),
        ("{members: [a, b, c], quorum: 3}", "c", None),
        ("{members: [{model: a, temperature: 0}, b], strategy: best_of_n}", "b", None),
    ],
)
def test_an_inherited_tribunal_sits_without_the_dropped_or_goes(
    spec: str, dropped: str, left: list[str] | None, write: Write
) -> None:
    write(with_tribunals(f"{{default: {spec}}}"), "base.yaml")
    found = tribunals(write(f"{OVER}models: {{{dropped}: null}}\n"))
    assert (members(found["default"]) if "default" in found else None) == left


def test_a_tribunal_that_goes_leaves_those_it_sits_in(write: Write) -> None:
    write(
        with_tribunals(
            "{default: {members: [a, tribunal/inner]}, outer: {members: [tribunal/default, b]},"
            " inner: {members: [tribunal/wise], chair: a}, wise: {members: [c]}}"
        ),
        "base.yaml",
    )
    gone = tribunals(write(f"{OVER}models: {{c: null}}\n"))
    assert {name: members(spec) for name, spec in gone.items()} == {
        "default": ["a"],
        "outer": ["tribunal/default", "b"],
    }
    assert members(tribunals(write(f"{OVER}tribunals: {{default: null}}\n"))["outer"]) == ["b"]


def test_a_dropped_tribunal_is_no_model_of_its_name(write: Write) -> None:
    write(with_tribunals("{a: {members: [b]}, default: {members: [a, c]}}"), "base.yaml")
    found = tribunals(write(f"{OVER}tribunals: {{a: null}}\n"))
    assert {name: members(spec) for name, spec in found.items()} == {"default": ["a", "c"]}


def test_a_tribunal_that_the_profile_writes_is_refused_rather_than_changed(write: Write) -> None:
    path = write("extends: pocket\nmodels: {pocket-8b: null}\ntribunals: {default: {rounds: 2}}\n")
    assert refusal(path).startswith(f"{path}: tribunals.default: no model 'pocket-8b' chats here; there are pocket-1b")


def test_a_mistake_below_is_told_though_a_model_is_dropped_above(write: Write) -> None:
    base = write(with_tribunals("{default: {members: 5}}"), "base.yaml")
    message = refusal(write(f"{OVER}models: {{c: null}}\n"))
    assert message == f"{base}: tribunals.default.members: input should be a valid tuple (got 5)"


def test_null_drops_an_inherited_tribunal(write: Write) -> None:
    assert list(tribunals(write("extends: pocket\ntribunals: {default: null}\n"))) == ["refine"]


def test_a_tribunal_is_extended_key_by_key(write: Write) -> None:
    spec = tribunals(write("extends: pocket\ntribunals: {default: {stop: {deadline_s: 9}, members: [pocket-70b]}}\n"))
    assert (spec["default"].stop.deadline_s, spec["default"].stop.consensus) == (9, 0.6)
    assert members(spec["default"]) == ["pocket-70b"]


# --- the environment ---


def test_the_environment_beats_yaml(write: Write) -> None:
    environ = {
        "CORRAL_TRIBUNALS__DEFAULT__ROUNDS": "2",
        "CORRAL_TRIBUNALS__DEFAULT__STOP__CONSENSUS": "null",
        "CORRAL_TRIBUNALS__DEFAULT__CHAIR": "a",
        "CORRAL_TRIBUNALS__DEFAULT__MEMBERS": '["a", {"model": "b"}]',
        "CORRAL_TRIBUNALS__DEFAULT__RUBRIC__truth": "2",
        "CORRAL_TRIBUNALS__very_wise__STRATEGY": "debate",
    }
    path = write(with_tribunals("{default: {members: [c]}, Very-wise: {members: [a, b]}}"))
    found = tribunals(path, **environ)
    default = found["default"]
    assert (default.rounds, default.stop.consensus, default.chair_member.model) == (2, None, "a")
    assert (members(default), default.rubric) == (["a", "b"], {"truth": 2})
    assert found["Very-wise"].strategy == "debate"


def test_a_whole_section_can_come_from_the_environment() -> None:
    specs = '{"default": {"members": ["smollm2-135m", "smollm2-360m"]}}'
    assert list(tribunals("laptop", CORRAL_TRIBUNALS=specs)) == ["default"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CORRAL_TRIBUNALS__DEFAULT__ROUND", "did you mean CORRAL_TRIBUNALS__DEFAULT__ROUNDS?"),
        ("CORRAL_TRIBUNALS__DEFAULT__STOP__DEADLINE", "valid here: CORRAL_TRIBUNALS__DEFAULT__STOP__CONSENSUS"),
        ("CORRAL_TRIBUNALS__DEFALT__ROUNDS", "CORRAL_TRIBUNALS__DEFAULT__..., CORRAL_TRIBUNALS__REFINE__..."),
    ],
)
def test_unknown_variables_are_refused_with_the_valid_ones(name: str, told: str) -> None:
    text = refusal("pocket", **{name: "1"})
    assert text.startswith(f"${name}: no such setting")
    assert told in text


def test_where_no_tribunal_is_the_section_is_what_can_be_set() -> None:
    text = refusal("laptop", CORRAL_TRIBUNALS__DEFAULT__ROUNDS="2")
    assert text.endswith("no such setting (did you mean CORRAL_TRIBUNALS?); valid here: CORRAL_TRIBUNALS")


def test_a_bad_value_names_its_variable() -> None:
    text = refusal("pocket", CORRAL_TRIBUNALS__DEFAULT__ROUNDS="many")
    assert text.startswith("$CORRAL_TRIBUNALS__DEFAULT__ROUNDS: tribunals.default.rounds: ")


@pytest.mark.parametrize(
    ("environ", "left"),
    [
        ({"CORRAL_MODELS__POCKET_3B": "null"}, {"default": ["pocket-8b", "pocket-70b"], "refine": ["pocket-70b"]}),
        ({"CORRAL_MODELS__POCKET_70B": "null"}, {}),
        ({"CORRAL_TRIBUNALS__REFINE": "null"}, {"default": ["pocket-3b", "pocket-8b", "pocket-70b"]}),
    ],
)
def test_variables_drop_models_and_tribunals(environ: dict[str, str], left: dict[str, Any]) -> None:
    assert {name: members(spec) for name, spec in tribunals("pocket", **environ).items()} == left


def test_variables_that_drop_a_model_and_seat_others_count_together() -> None:
    found = tribunals(
        "pocket",
        CORRAL_MODELS__POCKET_70B="null",
        CORRAL_TRIBUNALS__DEFAULT__CHAIR="pocket-8b",
        CORRAL_TRIBUNALS__DEFAULT__MEMBERS='["pocket-3b", "pocket-8b"]',
    )
    assert list(found) == ["default"]
    assert (found["default"].chair_member.model, found["default"].wording) == ("pocket-8b", "pocket")
