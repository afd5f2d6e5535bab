"""From a request's bytes to checked values: whatever is wrong is a BadRequest that names the field.

The body's length and pace are bounded before this, in middleware.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import WrongContentType
from deployments.errors import BadRequest

MAX_DEPTH = 64
JSON, NDJSON = "application/json", "application/x-ndjson"
Model = TypeVar("Model", bound=BaseModel)
Path = tuple["Path", str | int] | None
_ANY = object()  # a value that any path leads into


def content_type(request: Request, *allowed: str) -> str:
    """The body's media type, without parameters. Raises WrongContentType."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in allowed:
        given = f"not {media_type[:64]!r}" if media_type else "and the header is missing"
        raise WrongContentType(f"content-type must be {' or '.join(allowed)}, {given}.", "content-type")
    return media_type


async def read_object(request: Request) -> dict[str, Any]:
    """The body's JSON object; its values are not checked yet."""
    content_type(request, JSON)
    return as_object(parse_json(await request.body()))


def parse_json(raw: bytes) -> object:
    """Strict JSON in UTF-8: no NaN, no Infinity, no bottomless nesting."""
    if not raw.strip():
        raise BadRequest("The body is empty; send a JSON object.", "body")
    try:
        value: object = json.loads(raw.decode(), parse_constant=_no_constant)
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


def validate(model: type[Model], value: object) -> Model:
    """`value`, as JSON gave it, as `model`. Raises BadRequest on the first thing wrong."""
    check_values(as_object(value))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise first_error(error.errors(include_url=False), value) from None


def check_values(value: object) -> None:
    """Refuse what JSON can spell and no model can take: lone surrogates, infinities, huge integers, great depth."""
    level: list[tuple[object, Path]] = [(value, None)]
    for _ in range(MAX_DEPTH):
        level = [child for item, path in level for child in _children(item, path)]
        if not level:
            return
    raise BadRequest(f"{_dotted(level[0][1])} is nested deeper than {MAX_DEPTH} levels.", _dotted(level[0][1]))


def first_error(errors: Sequence[Any], value: object = _ANY) -> BadRequest:
    """Pydantic's errors as one: the first field named, and there the branch of a union that got farthest."""
    paths = [_field_path(error, value) for error in errors]
    related = [i for i, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    best = max(related, key=lambda i: len(paths[i]))
    param = ".".join(str(part) for part in paths[best])[:128] or "body"
    return BadRequest(f"{param}: {errors[best]['msg']}", param)


def _field_path(error: Any, value: object) -> list[str | int]:
    """Pydantic's location without the names of union branches, which are no part of the body."""
    path: list[str | int] = []
    for part in error["loc"]:
        if value is _ANY:
            path.append(part)
        elif isinstance(value, dict) and (part in value or error["type"] == "missing"):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            path.append(part)
            value = value[part]
    field = (error.get("ctx") or {}).get("field")
    return [*path, field] if field else path


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
