"""From a request's bytes to checked values: whatever is wrong is a BadRequest that names the field.

The body's length and pace are bounded before this, in middleware.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from deployments.errors import BadRequest, WrongContentType
from deployments.strict_json import as_object, check_values, parse_json

JSON, NDJSON = "application/json", "application/x-ndjson"
Model = TypeVar("Model", bound=BaseModel)
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


def validate(model: type[Model], value: object) -> Model:
    """`value`, as JSON gave it, as `model`. Raises BadRequest on the first thing wrong."""
    check_values(as_object(value))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise first_error(error.errors(include_url=False), value) from None


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
