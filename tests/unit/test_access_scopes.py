"""Scopes as typed: what is taken, what is refused, and that the refusal names what would do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.scopes import ALLOWS, DEFAULT_SCOPES, EXAMPLE, check_scopes, parse_scopes
from deployments.principal import KINDS, NAMED, Principal

WORDS = st.one_of(
    st.sampled_from(KINDS),
    st.builds(
        "{}:{}".format, st.sampled_from(NAMED), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", fullmatch=True)
    ),
)


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("models:llama-3.1-8b,rag:handbook,tribunal", ("models:llama-3.1-8b", "rag:handbook", "tribunal")),
        (" tribunal , models ", ("tribunal", "models")),
        ("rag,models,rag,rag:rag,models", ("rag", "models", "rag:rag")),
        ("documents:handbook,metrics,admin", ("documents:handbook", "metrics", "admin")),
        (f"models:{'x' * 96}", (f"models:{'x' * 96}",)),
        ("models:a\n", ("models:a",)),
    ],
)
def test_words_are_taken_in_their_order_and_once(text: str, scopes: tuple[str, ...]) -> None:
    assert parse_scopes(text) == scopes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("modles", "unknown scope 'modles' (did you mean 'models'?); scopes are "),
        ("Admin", "did you mean 'admin'?"),
        ("x", "unknown scope 'x'; scopes are "),
        ("models,,rag", "unknown scope ''"),
        ("models,", "unknown scope ''"),
        ("", "at least one scope, for example models:"),
        (" ", "at least one scope"),
        ("metrics:all", "'metrics:all': metrics takes no name; those that take one are models, tribunal, rag, doc"),
        ("admin:", "admin takes no name"),
        ("models:", "behind models: goes a name of letters, digits"),
        ("rag:-x", "behind rag: goes a name"),
        ("rag:a:b", "behind rag: goes a name"),
        ("rag:a b", "behind rag: goes a name"),
        ("rag:ä", "behind rag: goes a name"),
        (f"models:{'x' * 97}", "at most 96"),
    ],
)
def test_others_are_refused_and_the_error_says_what_would_do(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_scopes(text)


def test_a_word_is_checked_as_it_is_in_a_list() -> None:
    with pytest.raises(ValueError, match="goes a name"):
        check_scopes(["models:a\n"])
    with pytest.raises(ValueError, match="unknown scope ' rag'"):
        check_scopes([" rag"])


def test_an_unknown_scope_is_told_with_all_kinds() -> None:
    with pytest.raises(ValueError, match=f"scopes are {', '.join(KINDS)}"):
        parse_scopes("everything")


def test_every_kind_is_explained() -> None:
    assert set(ALLOWS) == set(KINDS)
    assert parse_scopes(EXAMPLE) == tuple(EXAMPLE.split(","))
    assert check_scopes(DEFAULT_SCOPES) == DEFAULT_SCOPES == ("models", "tribunal", "rag")


@given(st.lists(WORDS, min_size=1))
def test_what_is_valid_is_kept(words: list[str]) -> None:
    scopes = parse_scopes(",".join(words))
    assert list(scopes) == list(dict.fromkeys(words))
    assert parse_scopes(",".join(scopes)) == scopes


@given(st.one_of(st.text(), st.lists(st.one_of(WORDS, st.text(max_size=8))).map(",".join)))
def test_any_text_is_scopes_or_an_error_of_few_words(text: str) -> None:
    words = {word.strip() for word in text.split(",")}
    try:
        scopes = parse_scopes(text)
    except ValueError:
        assert any(word.partition(":")[0] not in KINDS or not word.isascii() or ":" in word for word in words)
    else:
        assert set(scopes) == words
        for scope in scopes:
            kind, _, name = scope.partition(":")
            assert Principal(scopes=(scope,)).may(kind, name or None)
