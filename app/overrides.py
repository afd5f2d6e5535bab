"""The environment over a profile: CORRAL_EDGE__PORT=9000 is edge.port.

Sections are walked by their types, so that a wrong variable is refused by name with those that would be right.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_settings import BaseSettings

from app.profile import Layer, SettingsError, absolute, absolute_folder
from deployments.config import ModelSpec
from deployments.tribunal.config import TribunalSpec

RESERVED = frozenset(
    {
        "CORRAL_PROFILE",
        "CORRAL_STATE_DIR",
        "CORRAL_RUN_DIR",
        "CORRAL_NAME",
        "CORRAL_PROGRESS_DIR",
        "CORRAL_MODEL",
        "CORRAL_API_KEY",
    }
)
"""Variables that are not settings: read by load_settings and the commands, or set inside a service."""

Keys = Mapping[Any, list[str]]
"""Type of a section of many -> the keys that the profile has there."""


class _UnknownVariableError(Exception):
    """Names the variables that are valid at this place."""

    def __init__(self, valid: list[str]) -> None:
        super().__init__(valid)
        self.valid = valid


def overrides(settings: type[BaseSettings], environ: Mapping[str, str], profile: Mapping[str, Any]) -> list[Layer]:
    """One layer for each variable that is a setting; `profile`: what it is over, for the keys of models and tribunals.

    Raises SettingsError, a line for each variable that is none.
    """
    prefix = settings.model_config["env_prefix"]
    layers, problems = list[Layer](), list[str]()
    keys = {ModelSpec: _keys(profile.get("models")), TribunalSpec: _keys(profile.get("tribunals"))}
    for name in sorted(environ):
        if name.startswith(prefix) and name not in RESERVED:
            try:
                path, value = _walk(settings, name.removeprefix(prefix).split("__"), environ[name], keys, prefix)
                layers.append(Layer(f"${name}", _nest(path, value)))
            except SettingsError as error:
                problems.append(f"${name}: {error}")
            except _UnknownVariableError as error:
                problems.append(_refusal(name, error.valid))
    if problems:
        raise SettingsError(*problems)
    return layers


def env_key(name: str) -> str:
    """How a key of models or tribunals is written in a variable: llama-3.1-8b -> LLAMA_3_1_8B."""
    return re.sub(r"[-.]", "_", name).upper()


def _refusal(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    others = f"valid here: {', '.join(valid)}" if valid else "nothing can be set below a single value"
    return f"${name}: no such setting{hint}; {others}"


def _keys(section: Any) -> list[str]:
    return [str(key) for key in section] if isinstance(section, dict) else []


def _walk(kind: Any, parts: list[str], text: str, keys: Keys, spelled: str) -> tuple[list[str], Any]:
    """Follow `parts` down the type `kind`; `spelled` is the variable's name so far. -> (key path, value)."""
    kind = _not_none(kind)
    if not parts:
        return [], _value(kind, text)
    if get_origin(kind) is dict:
        return _walk_dict(kind, parts, text, keys, spelled)
    fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
    key = parts[0].lower()
    if key not in fields or (kind is ModelSpec and key == "id"):
        raise _UnknownVariableError(
            [f"{spelled}{field.upper()}" for field in fields if (kind, field) != (ModelSpec, "id")]
        )
    path, value = _walk(fields[key].annotation, parts[1:], text, keys, f"{spelled}{parts[0]}__")
    return [key, *path], value


def _walk_dict(kind: Any, parts: list[str], text: str, keys: Keys, spelled: str) -> tuple[list[str], Any]:
    inner = get_args(kind)[1]
    if not isinstance(inner, type) or inner not in keys:
        return ["__".join(parts)], _value(inner, text)
    for length in range(1, len(parts) + 1):
        matches = [key for key in keys[inner] if env_key(key) == "__".join(parts[:length]).upper()]
        if len(matches) == 1:
            rest = "__".join([spelled.removesuffix("__"), *parts[:length], ""])
            path, value = _walk(inner, parts[length:], text, keys, rest)
            return [matches[0], *path], value
    raise _UnknownVariableError([f"{spelled}{env_key(key)}__..." for key in keys[inner]] or [spelled[:-2]])


def _not_none(kind: Any) -> Any:
    """X for `X | None` and for Annotated[X, ...]."""
    if get_origin(kind) is Annotated:
        return _not_none(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        rest = [arg for arg in get_args(kind) if arg is not type(None)]
        return _not_none(rest[0]) if len(rest) == 1 else kind
    return kind


def _value(kind: Any, text: str) -> Any:
    """Text stays text where text is asked for; elsewhere it is read as JSON if it is JSON. `null` unsets."""
    if text == "null":
        return None
    kind = _not_none(kind)
    if kind in (str, timedelta) or get_origin(kind) is Literal:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _nest(path: list[str], value: Any) -> dict[str, Any]:
    """["edge", "port"], 9000 -> {"edge": {"port": 9000}}; paths are made absolute from the working folder."""
    model = len(path) == 3 and path[0] == "models" and path[2] == "source"
    if model or path in (["cluster", "container", "image"], ["rag", "embedding", "model"]):
        value = absolute(str(value), Path.cwd())
    elif path in (["cluster", "shared"], ["cluster", "local"], ["rag", "folder"]) and value is not None:
        value = absolute_folder(str(value), Path.cwd())
    for key in reversed(path):
        value = {key: value}
    return dict(value)
