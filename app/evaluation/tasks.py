"""Tasks: what is asked, what would be right, and how that is told. A file has one task as JSON on each line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from app.evaluation.numbers import numbers
from app.settings import SettingsError
from deployments.config import Section
from deployments.pocket.tribunal_tasks import FILE as POCKET_FILE

POCKET = "pocket"
"""The name that stands for the tasks that are shipped for the pocket herd."""
SHOWN = 3
"""So many problems of a file are told; the rest are counted."""

Checker = Literal["exact", "number", "choice", "rubric"]


class EvaluationError(SettingsError):
    """The tasks, or what a run is to go on from, are wrong."""


class Message(Section):
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


def _labelled(choices: Any) -> Any:
    return dict.fromkeys(choices, "") if isinstance(choices, list) else choices


class Task(Section):
    """One question, or a conversation whose last message is the user's, and how its answer is checked."""

    id: str = Field(min_length=1, max_length=200)
    question: str | None = Field(None, min_length=1)
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    reference: str = Field("", coerce_numbers_to_str=True, description="What is right; of a choice, its label.")
    checker: Checker = "exact"
    choices: Annotated[dict[str, str], BeforeValidator(_labelled)] | None = Field(None, description="Label -> text.")
    rubric: str | None = Field(None, min_length=1, description="What a judge model is to look for.")
    tags: tuple[str, ...] = Field((), description="Kinds that the figures are broken down by.")

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if (self.question is None) == (self.messages is None):
            raise ValueError("question: give either this or `messages`")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's")
        if self.checker != "rubric" and not self.reference.strip():
            raise ValueError(f"reference: the checker {self.checker} needs one")
        if self.checker == "number" and len(numbers(self.reference)) != 1:
            raise ValueError(f"reference: {self.reference!r} is not one number")
        if (self.checker == "rubric") != (self.rubric is not None):
            raise ValueError("rubric: the checker rubric needs one, and no other takes one")
        return self._with_choices()

    def _with_choices(self) -> Task:
        if (self.checker == "choice") != bool(self.choices):
            raise ValueError("choices: the checker choice needs some, and no other takes any")
        if self.choices and self.reference not in self.choices:
            raise ValueError(f"reference: {self.reference!r} is no label of {', '.join(self.choices)}")
        return self

    def asked(self) -> list[dict[str, str]]:
        """The task as chat messages."""
        if self.messages:
            return [message.model_dump() for message in self.messages]
        return [{"role": "user", "content": self.question or ""}]


@dataclass(frozen=True)
class TaskFile:
    """Tasks, where they are from, and the hash of that file."""

    path: Path
    sha256: str
    tasks: tuple[Task, ...]

    @property
    def needs_judge(self) -> bool:
        return any(task.checker == "rubric" for task in self.tasks)


def read_tasks(name: str) -> TaskFile:
    """The tasks of a file, or of the built-in name `pocket`. Raises EvaluationError with line and field."""
    path = POCKET_FILE if name == POCKET else Path(name)
    try:
        data = path.read_bytes()
        lines = data.decode().split("\n")  # splitlines() would also split at what JSON allows inside strings
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}; --tasks takes a file or `{POCKET}`") from None
    except UnicodeDecodeError:
        raise EvaluationError(f"{path}: this is not UTF-8 text") from None
    return TaskFile(path, hashlib.sha256(data).hexdigest(), _read_lines(path, lines))


def _read_lines(path: Path, lines: Sequence[str]) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    first: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        task, found = _read_line(line, number)
        problems += [f"{path}, line {number}: {problem}" for problem in found]
        if task and first.setdefault(task.id, number) != number:
            problems.append(f"{path}, line {number}: id: {task.id!r} is already the one of line {first[task.id]}")
        elif task:
            tasks[task.id] = task
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise EvaluationError("; ".join([*problems[:SHOWN], *more]))
    if not tasks:
        raise EvaluationError(f"{path}: there is no task in it")
    return tuple(tasks.values())


def _read_line(line: str, number: int) -> tuple[Task | None, list[str]]:
    """The task, or what is wrong with it, each problem with its field. Without an id it is called by its line."""
    try:
        data = json.loads(line)
    except ValueError as error:
        return None, [f"this is not JSON: {error}"]
    if not isinstance(data, dict):
        return None, ["this must be a JSON object"]
    data.setdefault("id", f"line-{number}")
    try:
        return Task.model_validate(data), []
    except ValidationError as error:
        return None, [_problem(problem) for problem in error.errors(include_url=False)]


def _problem(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        message = "this key is required, but missing"
    return f"{field}: {message}" if field else message


def chosen(tasks: Sequence[Task], limit: int | None, seed: int) -> tuple[Task, ...]:
    """All tasks as they come, or the first `limit` of a shuffle, so that a larger limit only adds to a smaller one."""
    if limit is None:
        return tuple(tasks)
    mixed = list(tasks)
    Random(f"tasks-{seed}").shuffle(mixed)
    return tuple(mixed[:limit])
