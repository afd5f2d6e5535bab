"""Scopes: the words that say what a key may do, read and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from deployments.principal import ADMIN, DOCUMENTS, KINDS, METRICS, MODELS, NAMED, RAG, TRIBUNAL

DEFAULT_SCOPES = (MODELS, TRIBUNAL, RAG)
ALLOWS = {
    MODELS: "ask models: all, or one",
    TRIBUNAL: "ask tribunals: all, or one",
    RAG: "ask and search collections: all, or one",
    DOCUMENTS: "add and delete documents: in all collections, or in one",
    METRICS: "read /metrics",
    ADMIN: "everything, everybody's usage included",
}
"""A line for each kind."""
EXAMPLE = "models:llama-3.1-8b,rag:handbook,tribunal"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHOWN = 128
"""Characters of a wrong word."""


def parse_scopes(text: str) -> tuple[str, ...]:
    """Words with commas between them, as EXAMPLE has them. Raises ValueError."""
    return check_scopes(word.strip() for word in text.split(",")) if text.strip() else check_scopes(())


def check_scopes(words: Iterable[str]) -> tuple[str, ...]:
    """The same words in their order, each once. Raises ValueError for what is no scope, and if there is none."""
    checked = tuple(dict.fromkeys(map(_checked, words)))
    if not checked:
        raise ValueError(f"a key needs at least one scope, for example {EXAMPLE}; {_all_kinds()}")
    return checked


def _checked(word: str) -> str:
    kind, colon, name = word.partition(":")
    if kind not in KINDS:
        raise ValueError(_unknown(kind))
    if colon and kind not in NAMED:
        raise ValueError(f"{word[:_SHOWN]!r}: {kind} takes no name; those that take one are {', '.join(NAMED)}")
    if colon and not _NAME.fullmatch(name):
        raise ValueError(
            f"{word[:_SHOWN]!r}: behind {kind}: goes a name of letters, digits, '.', '_' and '-', at most 96, a letter "
            f"or digit first; {kind} alone is for all"
        )
    return word


def _unknown(kind: str) -> str:
    near = difflib.get_close_matches(kind[:_SHOWN].lower(), KINDS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown scope {kind[:_SHOWN]!r}{hint}; {_all_kinds()}"


def _all_kinds() -> str:
    return f"scopes are {', '.join(KINDS)}"
