"""What a request may hold its answer to: schemas and expressions of bounded size, for a bad one holds up an engine.

vLLM's engine works out at every token what may come next, for all its requests in one thread. A grammar of one line
that is ambiguous enough keeps that thread busy for minutes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

from deployments.errors import BadRequest

FORMATS = ("structured_outputs", "response_format", "text")
MOST_CHARACTERS = 32 << 10
"""Of a schema as JSON, or of a list of choices: twice as much takes four times as long to compile."""
MOST_STATES = 1024
"""Characters of an expression, those that it repeats counted as often as it repeats them."""
MOST_LOOPS = 8
"""Repetitions without an end in it, those that it repeats counted again."""
FREE = ("grammar", "structural_tag")
"""Grammars without any bound."""
SCHEMAS = ("schema", "json", "parameters")
COUNT = re.compile(r"\{(\d{1,6})(,?)(\d{0,6})\}")
ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.S)


def check_grammars(body: Mapping[str, Any]) -> None:
    """Raises BadRequest for what would hold up the engine."""
    for name in FORMATS:
        given = body.get(name)
        if isinstance(given, Mapping):
            _check(given, name)
        elif given is not None and name == "structured_outputs":  # vLLM fails on it
            raise BadRequest(f"{name}: must be an object.", name)
    if isinstance(body.get("tool_choice"), Mapping) or body.get("tool_choice") == "required":
        _check({"tools": body.get("tools")}, "tools")


def _check(given: Mapping[str, Any], name: str) -> None:
    if any(given.get(key) is not None or given.get("type") == key for key in FREE):
        raise BadRequest(f"{name}: free grammars are not taken; send a JSON schema, a regex or choices.", name)
    if len(json.dumps(given)) > MOST_CHARACTERS:
        raise BadRequest(f"{name}: at most {MOST_CHARACTERS} characters, written as JSON.", name)
    for part in _parts(given):
        for expression in (part.get("regex"), part.get("pattern")):
            if isinstance(expression, str) and not is_small(expression):
                raise BadRequest(f"{name}: an expression repeats too much: {expression[:64]!r}.", name)
        if any(_goes_round(part[key]) for key in SCHEMAS if isinstance(part.get(key), Mapping)):
            raise BadRequest(f"{name}: a $ref leads back to itself with nothing between.", name)


def _parts(value: object) -> Iterator[Mapping[str, Any]]:
    """All objects inside of it, itself first; those in a schema that is given as text, too."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += [_read(inner) if key == "json" else inner for key, inner in part.items()]
        elif isinstance(part, list):
            waiting += part


def _read(given: object) -> object:
    """What is no JSON is left to vLLM, which says so."""
    if not isinstance(given, str):
        return given
    with suppress(ValueError, RecursionError):
        return {"schema": json.loads(given)}
    return given


def _goes_round(schema: Mapping[str, Any]) -> bool:
    """Whether there is a $ref in it that stands for itself, which xgrammar follows without end."""
    graph = {"#": set(_heads(schema))}
    waiting = {part["$ref"] for part in _parts(schema) if isinstance(part.get("$ref"), str)}
    for target in waiting:
        graph[target] = set(_heads(_at(schema, target)))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def _heads(schema: object) -> Iterator[str]:
    """The $refs that it stands for itself, not for a part of it."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            waiting += [each for key in ("anyOf", "oneOf", "allOf") for each in _listed(part.get(key))]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _at(root: object, pointer: str) -> object:
    for word in pointer.lstrip("#").split("/")[1:]:
        root = root.get(word) if isinstance(root, Mapping) else None
    return root


def is_small(expression: str) -> bool:
    """Whether an engine can follow it. Counts without understanding: what it misreads it takes for larger."""
    if len(expression) > 4 * MOST_STATES:
        return False
    groups: list[_Size] = [_Size()]
    last, at = _Size(), 0
    while at < len(expression):
        if count := COUNT.match(expression, at):
            groups[-1].add(last.times(count))
            last, at = _Size(), count.end()
        elif expression[at] in "*+":
            groups[-1].add(_Size(0, max(1, last.loops)))
            at += 1
        else:
            atom = ATOM.match(expression, at)
            assert atom is not None
            at = atom.end()
            last = _entered(groups, atom[0])
    total = _Size()
    for group in groups:
        total.add(group)
    return total.states <= MOST_STATES and total.loops <= MOST_LOOPS


class _Size:
    """How much of an expression there is once its repetitions are written out."""

    def __init__(self, states: int = 0, loops: int = 0) -> None:
        self.states, self.loops = states, loops

    def add(self, other: _Size) -> None:
        self.states, self.loops = self.states + other.states, self.loops + other.loops

    def times(self, count: re.Match[str]) -> _Size:
        """What a repetition adds to the one that is counted already; `{2,}` is two and a loop."""
        least, endless, most = int(count[1]), bool(count[2]) and not count[3], int(count[3] or 0)
        more = max(least, most, 1) - 1
        return _Size(more * self.states, more * self.loops + endless * max(1, self.loops))


def _entered(groups: list[_Size], atom: str) -> _Size:
    """Opens or closes a group, or counts an atom; what a repetition after it would repeat."""
    if atom == "(":
        groups.append(_Size())
        return _Size()
    closed = groups.pop() if atom == ")" and len(groups) > 1 else _Size(1)
    groups[-1].add(closed)
    return closed
