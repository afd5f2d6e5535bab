"""Malformed requests: the same ones for the same seed, with the word that is looked for afterwards in what they say."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from loadtests.attack.command import KEYS, malformed_of, without
from loadtests.attack.malformed import WORD, Malformer

MANY = 700
MARK = "quetzalcoatlus"
KEY = f"corral-abcdefgh-{'0' * 48}"


def sent(word: str, seed: int = 1) -> list[tuple[str, bytes, bytes]]:
    """Kind, head and body."""
    found = []
    for each in Malformer("m", KEY, seed, word).many(MANY):
        head, _, body = each.data.partition(b"\r\n\r\n")
        found.append((each.kind, head, body))
    return found


@pytest.mark.parametrize("word", [WORD, MARK])
def test_the_same_seed_gives_the_same(word: str) -> None:
    assert sent(word) == sent(word)
    assert sent(word) != sent(word, seed=2)


def test_prompts_of_every_kind_that_has_some_carry_the_word() -> None:
    marked = Counter(kind for kind, _, body in sent(MARK) if MARK.encode() in body)
    each = MANY // 7
    assert set(marked) == {"field", "json", "header", "type", "key"}
    assert min(marked[kind] for kind in ("field", "header", "key")) > each // 2
    assert not any(WORD.encode() in body for kind, _, body in sent(MARK) if kind in ("field", "header", "key"))


def test_the_word_is_in_no_head() -> None:
    """Paths are logged as they are."""
    assert not any(MARK.encode() in head for _, head, _ in sent(MARK))


def test_the_word_is_junk_too() -> None:
    bodies = [json.loads(body) for kind, _, body in sent(MARK) if kind in ("field", "header")]
    assert any(body.get(name) == {MARK: MARK} for body in bodies for name in body)
    assert any(body.get("model") != "m" for body in bodies)


def test_the_length_is_that_of_the_body() -> None:
    for kind, head, body in sent(MARK):
        if kind in ("field", "json", "header", "key"):
            assert f"content-length: {len(body)}\r\n".encode() in head + b"\r\n"


def test_keys_share_the_requests_in_turn() -> None:
    """One key alone would be refused for coming too often, and nobody would read what it sends."""
    keys = [f"corral-{'abcdefghijklmnop'[number]}bcdefgh-{number:048x}" for number in range(KEYS)]
    requests = [each.data for each in malformed_of(keys, MANY, seed=1)]
    assert len(requests) == MANY
    for number, key in enumerate(keys):
        assert not any(
            key.encode() in data for other in range(KEYS) if other != number for data in requests[other::KEYS]
        )
        assert sum(key.encode() in data for data in requests[number::KEYS]) > MANY / KEYS / 3
    assert not any(key.encode() in without(keys, data) for key in keys for data in requests)
