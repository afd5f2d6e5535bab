"""Bodies and grammars from anybody: a value or a BadRequest, in time, and never more than one request's share."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import BadRequest
from deployments.grammars import MOST_CHARACTERS, MOST_STATES, check_grammars, is_small
from deployments.request_body import MOST_INPUTS, check_foreign, check_request, sequences_of
from deployments.strict_json import check_values, parse_json
from deployments.waiting_room import request_cost

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "input", "n", "best_of", "stop", "bad_words", "priority", "response_format", "max_tokens",
     "structured_outputs", "text", "tools", "tool_choice", "$ref", "regex", "pattern", "schema", "json", "anyOf"]
)  # fmt: skip
BODIES = st.dictionaries(NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=4)))
EXPRESSION = st.text(alphabet=r"ab.*+?(){}[]^\|,0123456789", max_size=40)


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=3).map("|".join)
    return st.builds("({}){{{}}}".format, several, st.integers(1, 40))


def read(raw: bytes) -> Any:
    """What is taken; None if it is refused with a sentence. Anything else is raised."""
    with suppress(BadRequest):
        return check_foreign(raw)
    return None


@settings(deadline=None, max_examples=60)
@given(BODIES)
def test_any_object_is_taken_as_it_is_or_refused(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    if (taken := read(raw)) is not None:
        assert json.dumps(taken) == json.dumps(body)
        assert sequences_of(taken) <= MOST_INPUTS
        assert request_cost(len(raw), taken) > 0


@settings(deadline=None)
@given(st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_a_bad_request(raw: bytes) -> None:
    with suppress(BadRequest):
        value = parse_json(raw)
        check_values(value)
        assert json.loads(json.dumps(value)) == json.loads(raw)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":[', b'"\\ud800', b"1" * 10, b'{"a' + b"\\u0061" * 8])
def test_what_never_ends_is_refused_at_any_length(opening: bytes) -> None:
    for count in (1, 65, 1000, 200_000):
        with pytest.raises(BadRequest):
            check_request(opening * count, frozenset({"a"}))


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a"] * 100, "n": 100}, {"prompt": ["a"] * 3, "best_of": 128}, {"messages": [[{}]] * 257},
        {"messages": [[{}]] * 3, "n": 100}, {"prompt": [[1]] * 129, "n": 2},
    ],
)  # fmt: skip
def test_one_request_is_no_flood_of_sequences(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        check_foreign(json.dumps(body).encode())


def test_a_batch_costs_each_of_its_conversations() -> None:
    one = [{"role": "user", "content": "x"}]
    asked = {"max_tokens": 10}
    assert request_cost(0, {**asked, "messages": [one] * 5}) == 5 * request_cost(0, {**asked, "messages": one})
    assert sequences_of({"messages": [{"role": "user"}] * 1000, "n": 2}) == 2


@pytest.mark.parametrize("number", ["1180591620717411303424", "-9223372036854775809", "1e400", "[{}, -1E+999]"])
@pytest.mark.parametrize("name", ["top_k", "seed", "temperature"])
def test_a_number_that_no_engine_can_take_is_refused(name: str, number: str) -> None:
    with pytest.raises(BadRequest, match=f"^{name}.* holds"):
        check_foreign(f'{{"prompt": "Hi", "{name}": {number}}}'.encode())


def test_long_numbers_in_words_are_words() -> None:
    body = {"prompt": "1180591620717411303424 and 1e999", "seed": (1 << 63) - 1}
    assert check_foreign(json.dumps(body).encode()) == body


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
def test_nobody_says_where_an_engine_fetches_its_cache(name: str) -> None:
    with pytest.raises(BadRequest, match="engines"):
        check_foreign(json.dumps({name: {"remote_host": "10.0.0.1"}}).encode())


def schema(**given: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": given}}}


REFUSED: list[dict[str, Any]] = [
    {"structured_outputs": {"grammar": 'root ::= s\ns ::= s s | "a"'}},
    {"structured_outputs": {"structural_tag": "{}"}},
    {"structured_outputs": ""},
    {"structured_outputs": [{"regex": "a"}]},
    {"response_format": {"type": "structural_tag", "structures": []}},
    {"structured_outputs": {"regex": "(.*a){30}.{300}"}},
    {"structured_outputs": {"regex": "((a{1,99}){1,99}){1,99}"}},
    {"structured_outputs": {"choice": ["x" * 50] * 1000}},
    {"structured_outputs": {"json": '{"type": "string", "pattern": "(.*a){30}"}'}},
    {"text": {"format": {"type": "json_schema", "schema": {"pattern": ".{5000}"}}}},
    {"tool_choice": "required", "tools": [{"function": {"parameters": {"pattern": ".{5000}"}}}]},
    schema(**{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    schema(**{"$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
           properties={"p": {"$ref": "#/$defs/a"}}),
    schema(**{"$ref": "#"}),
    schema(properties={f"property{number}": {"type": "string"} for number in range(2000)}),
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"structured_outputs": {"choice": ["yes", "no"]}},
    {"structured_outputs": {"regex": r"node[0-9]{3}"}},
    {"response_format": {"type": "json_object"}},
    {"tool_choice": "auto", "tools": [{"function": {"description": "x" * MOST_CHARACTERS}}]},
    schema(type="string", pattern=r"^\d{4}-\d{2}-\d{2}T(\d{2}:){2}\d{2}$"),
    schema(**{"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"}),
    schema(properties={"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
]


@pytest.mark.parametrize("body", REFUSED)
def test_a_grammar_that_would_hold_up_the_engine_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        check_grammars(body)
    assert caught.value.param in ("structured_outputs", "response_format", "text", "tools")


@pytest.mark.parametrize("body", TAKEN)
def test_what_people_ask_for_is_taken(body: dict[str, Any]) -> None:
    check_grammars(body)


@given(EXPRESSION)
def test_any_expression_is_counted(expression: str) -> None:
    assert isinstance(is_small(expression), bool)


@given(st.recursive(st.sampled_from(["a", r"\d", "[a-z]", "b*"]), grouped, max_leaves=6), st.integers(2, 30))
def test_what_is_repeated_is_never_smaller(expression: str, times: int) -> None:
    assert is_small(expression) or not is_small(f"({expression}){{{times}}}")
    assert not is_small(f"({expression}){{{MOST_STATES + 1}}}")


def test_a_long_expression_is_read_once() -> None:
    assert not is_small("(" * 100_000 + ")" * 100_000 + "[" * 100_000 + "{9" * 100_000)
    assert is_small("a" * MOST_STATES)
    assert not is_small("a" * (MOST_STATES + 1))
