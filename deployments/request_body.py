"""The body of a model's request, read once: of bounded size, strict JSON, known fields, and something to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from deployments.config import unknown_key
from deployments.errors import BadRequest, BodyTooLarge
from deployments.grammars import check_grammars
from deployments.strict_json import as_object, check_values, parse_json

MOST_INPUTS = 256
"""Prompts or texts of one request: each is a sequence of its own."""
MOST_STOPS = 64
"""Words at which an answer ends, or that it may not have: each is looked for at every token."""
TRANSFERS = ("kv_transfer_params", "ec_transfer_params")
"""Where an engine is to fetch a cache from, if its profile connects it with others: any host, anybody's cache."""
LARGE_NUMBER = re.compile(rb"\d{19}|[eE]\+?\d{3}")
"""What could be more than 64 bits, which vLLM fails on, or infinite."""
INPUT_FIELDS = ("messages", "prompt", "input")


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a whole request body of at most `limit` bytes. Raises BodyTooLarge."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(chunks)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.", "body")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def check_request(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    """The JSON object that `body` is. Raises BadRequest unless its keys are of `fields` and it has an input."""
    parsed = as_object(parse_json(body))
    for key in parsed:
        if key not in fields:
            raise BadRequest(_unknown_field(key, fields), key[:64])
    return _checked(parsed, body)


def check_foreign(body: bytes) -> dict[str, Any]:
    """The same of a path that has its own way to say what is wrong: any key passes, and what is no object is {}."""
    parsed = parse_json(body)
    return _checked(parsed, body) if isinstance(parsed, dict) else {}


def _checked(parsed: dict[str, Any], body: bytes) -> dict[str, Any]:
    if LARGE_NUMBER.search(body) or (b"\\u" in body and not _is_encodable(parsed)):
        check_values(parsed)
    for name in INPUT_FIELDS:
        if name in parsed and parsed[name] in ("", [], [""]):
            raise BadRequest(f"'{name}' is empty: send at least one {_unit(name)}.", name)
    _check_amounts(parsed)
    return parsed


def _is_encodable(parsed: dict[str, Any]) -> bool:
    """Whether no half of a surrogate pair is in it; check_values, which names the field, takes ten times as long."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _check_amounts(parsed: dict[str, Any]) -> None:
    """Raises BadRequest for what one request may not ask so much of, or not in that way."""
    for name in INPUT_FIELDS:
        if inputs_in(parsed, name) > MOST_INPUTS:
            given = parsed[name]
            raise BadRequest(f"{name}: at most {MOST_INPUTS}, got {len(given)}; POST /bulk has room for more.", name)
    sequences = sequences_of(parsed)
    if sequences > MOST_INPUTS:
        raise BadRequest(f"n: {sequences} answers are wanted, and one request has at most {MOST_INPUTS}.", "n")
    for name in ("stop", "bad_words", "stop_token_ids"):
        if isinstance(given := parsed.get(name), list) and len(given) > MOST_STOPS:
            raise BadRequest(f"{name}: at most {MOST_STOPS}, got {len(given)}.", name)
    if type(parsed.get("priority") or 0) is not int:
        raise BadRequest("priority: must be an integer.", "priority")
    for name in TRANSFERS:
        if parsed.get(name) is not None:
            raise BadRequest(f"{name}: is between the service's own engines.", name)
    check_grammars(parsed)


def inputs_in(parsed: Mapping[str, Any], name: str) -> int:
    """Sequences of their own in that field: a list of numbers is one prompt, and one of objects one conversation."""
    given = parsed.get(name)
    several = isinstance(given, list) and given and isinstance(given[0], list if name == "messages" else str | list)
    return len(given) if several else 1  # type: ignore[arg-type]


def sequences_of(parsed: Mapping[str, Any]) -> int:
    """How many the engine runs for it."""
    most = max((parsed[name] for name in ("n", "best_of") if type(parsed.get(name)) is int), default=1)
    return max(1, most) * max(inputs_in(parsed, name) for name in INPUT_FIELDS)


def _unknown_field(key: str, fields: frozenset[str]) -> str:
    """Name the field and the nearest valid one; the whole list would be longer than help is."""
    return unknown_key(key[:64], fields).split("; valid keys")[0].replace("unknown key", "Unknown field")


def _unit(name: str) -> str:
    return "message" if name == "messages" else "character"
