"""The body of a model's request: what of strict JSON, known fields and amounts it must keep to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import BadRequest
from deployments.request_body import check_foreign, check_request

FIELDS = frozenset({"model", "messages", "prompt", "max_tokens"})


@settings(deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(_dumped := json.dumps))
def test_any_body_passes_or_is_a_bad_request(body: Any) -> None:
    raw = body if isinstance(body, bytes) else body.encode()
    refused = None
    try:
        check_request(raw, FIELDS)
    except BadRequest as error:
        refused = error
    assert refused is not None or set(json.loads(raw)) <= FIELDS


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "model": "b"}', b'{"model": "a", "mod\\u0065l": "b"}', b'{"x": {"y": 1, "y": 1}}',
        b'[{"a": 1}, {"b": 1, "b": null}]',
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused(body: bytes) -> None:
    """The edge would read the first, and vLLM the last."""
    with pytest.raises(BadRequest, match="twice"):
        check_foreign(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a"] * 257}, "prompt"), ({"input": [[1]] * 257}, "input"), ({"stop": ["a"] * 65}, "stop"),
        ({"bad_words": ["a"] * 65}, "bad_words"), ({"priority": "-5"}, "priority"), ({"priority": -5.0}, "priority"),
        ({"priority": True}, "priority"), ({"priority": [1]}, "priority"),
    ],
)  # fmt: skip
def test_one_request_asks_for_no_more_than_its_share(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_foreign(json.dumps(body).encode())
    assert caught.value.param == param


def test_long_prompts_of_tokens_are_one_sequence() -> None:
    body = {"prompt": [1] * 2000, "stop": ["a"] * 64, "priority": None}
    assert check_foreign(json.dumps(body).encode()) == body


def test_a_key_among_very_many_that_stands_twice_is_named() -> None:
    """Each key is looked at once: looking for it among those before would take minutes."""
    keys = [f'"key-{number}": 1' for number in range(60_000)]
    with pytest.raises(BadRequest, match="'key-31' stands twice"):
        check_foreign(f"{{{', '.join([*keys, keys[31]])}}}".encode())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (rb'{"model": "m", "user": {"name": ["a", "\ud83d"]}}', "user.name.1"), (rb'{"\udc00": 1}', "body"),
        (rb'{"model": "\u00e9", "x": "\ude00\ud83d"}', "x"),
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_refused_with_its_field(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest, match="half of a surrogate pair") as caught:
        check_foreign(body)
    assert caught.value.param == param


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", "\\ud83d", "é", "\x00"])
def test_whatever_is_text_passes_however_it_is_escaped(text: str) -> None:
    for escaped in (True, False):
        assert check_foreign(json.dumps({"prompt": text}, ensure_ascii=escaped).encode()) == {"prompt": text}


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b'[{"prompt": ""}]'])
def test_what_is_no_object_is_a_model_s_own_to_refuse_where_it_names_no_field(body: bytes) -> None:
    assert check_foreign(body) == {}
    with pytest.raises(BadRequest, match="JSON object"):
        check_request(body, FIELDS)
