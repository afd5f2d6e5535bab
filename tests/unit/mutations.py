"""Strategies for parsers: what JSON can hold, and valid values that are changed in a few places.

Random values alone are refused at the first field; changed ones reach the branches behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", " ", "null", "~nobody/x", "./x", "a\0b", "\ud800", "\x85\u2028", "a" * 300]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
"""As Python reads JSON: NaN, infinities and halves of surrogate pairs are among them."""
SENDABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
"""As strict JSON in UTF-8 has it."""
HOW = st.sampled_from(["replace", "replace", "leave out", "repeat"])


@st.composite
def changed(draw: DrawFn, whole: Any, others: SearchStrategy[Any] = VALUES) -> Any:
    """A copy of `whole`, as JSON has it, with up to three values replaced, left out, repeated or called otherwise."""
    top = {"top": deepcopy(whole)}
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(top))
        inner, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(HOW)
        if how == "replace" or inner is top:
            inner[key] = draw(others)
        elif how == "leave out":
            del inner[key]
        elif isinstance(inner, dict):
            inner[draw(TEXTS)] = deepcopy(inner[key])
        else:
            inner.append(deepcopy(inner[key]))
    return top["top"]


def _places(inner: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
    for key in keys:
        yield inner, key
        yield from _places(inner[key])


@st.composite
def damaged(draw: DrawFn, whole: bytes) -> bytes:
    """`whole` with up to three places cut out, written over, or said twice."""
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(len(whole), start + 20)))
        middle = draw(st.sampled_from([b"", whole[start:end] * 2]) | st.binary(max_size=4))
        whole = whole[:start] + middle + whole[end:]
    return whole
