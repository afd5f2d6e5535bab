"""Counts of what was used: by day (UTC), key, group and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from operator import add, attrgetter
from typing import Any, Literal

Field = Literal["day", "key", "group", "model"]
FIELDS: tuple[Field, ...] = ("day", "key", "group", "model")
Who = tuple[str, str, str, str]
"""Day, key, group and model."""


@dataclass(frozen=True)
class Counts:
    """refused, failed: of the requests. bulk_items: that were answered."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    bulk_items: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, NUMBERS(self), NUMBERS(other)))


COLUMNS = tuple(column.name for column in fields(Counts))
NUMBERS = attrgetter(*COLUMNS)


@dataclass(frozen=True)
class UsageRow:
    """What was not asked for apart is None: it is summed up."""

    day: date | None
    key: str | None
    group: str | None
    model: str | None
    counts: Counts

    @classmethod
    def of(cls, who: Who, counts: Counts, by: Sequence[Field]) -> UsageRow:
        day, key, group, model = (value if name in by else None for name, value in zip(FIELDS, who, strict=True))
        return cls(date.fromisoformat(day) if day else None, key, group, model, counts)

    def to_json(self) -> dict[str, Any]:
        """Without what is summed up."""
        names = {name: getattr(self, name) for name in FIELDS}
        told = {name: str(value) for name, value in names.items() if value is not None}
        return told | asdict(self.counts)


def day_of(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).date().isoformat()


def apart(who: Who, by: Sequence[Field]) -> Who:
    """The same without what is summed up."""
    day, key, group, model = (value if name in by else "" for name, value in zip(FIELDS, who, strict=True))
    return day, key, group, model
