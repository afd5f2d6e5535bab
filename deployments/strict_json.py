"""JSON from outside, read strictly: what is refused names the field that holds it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from deployments.errors import BadRequest

MAX_DEPTH = 64
Path = tuple["Path", str | int] | None


def parse_json(raw: bytes) -> object:
    """Strict JSON in UTF-8: no NaN, no Infinity, no bottomless nesting."""
    if not raw.strip():
        raise BadRequest("The body is empty; send a JSON object.", "body")
    try:
        value: object = json.loads(raw.decode(), parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: wrong byte at {error.start}.", "body") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"The body is not JSON: {error.msg} at {where}.", "body") from None
    except RecursionError:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", "body") from None
    except ValueError:
        raise BadRequest("The body holds a number with too many digits.", "body") from None
    return value


def as_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("A JSON object is wanted, with double-quoted keys in braces.", "body")
    return value


def check_values(value: object) -> None:
    """Refuse what JSON can spell and no model can take: lone surrogates, infinities, huge integers, great depth."""
    level: list[tuple[object, Path]] = [(value, None)]
    for _ in range(MAX_DEPTH):
        level = [child for item, path in level for child in _children(item, path)]
        if not level:
            return
    raise BadRequest(f"{_dotted(level[0][1])} is nested deeper than {MAX_DEPTH} levels.", _dotted(level[0][1]))


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of the two they take: the edge the first, Python the last."""
    if not pairs:  # many empty objects would cost most
        return {}
    if len(found := dict(pairs)) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadRequest(f"The key {twice[:64]!r} stands twice in one object.", twice[:64])
    return found


def _no_constant(name: str) -> object:
    raise BadRequest(f"The body is not JSON: {name} is not a number there.", "body")


def _children(value: object, path: Path) -> Iterator[tuple[object, Path]]:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_leaf(key, path)
            yield item, (path, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield item, (path, index)
    else:
        _check_leaf(value, path)


def _check_leaf(value: object, path: Path) -> None:
    wrong = None
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        wrong = "half of a surrogate pair, which is not a character"
    elif isinstance(value, float) and not math.isfinite(value):
        wrong = "a number out of range"
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        wrong = "an integer of more than 64 bits"
    if wrong:
        raise BadRequest(f"{_dotted(path)} holds {wrong}.", _dotted(path))


def _dotted(path: Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(str(key)[:64])
    return ".".join(reversed(parts[-8:])) or "body"
