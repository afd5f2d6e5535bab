"""What a changed profile changes in a running service, and how: pure data, from two Settings to a Plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.settings import Settings
from deployments.config import ModelSpec

IN_PLACE = ("autoscaling", "beside_quiet", "max_ongoing_requests", "max_queued_requests", "retry_after_s")
"""Fields of a model that its replicas take while they run; any other needs another engine."""
TAKEN = ("gateway", "bulk", "edge", "tribunals", "rag.model", "rag.max_upload")
"""What else is taken while the service runs, all below included."""
FIXED = ("edge.host", "edge.port")
"""Parts of it that are not."""
OF_MODELS = "gateway.max_body"
"""Every model's replicas have it, too."""
ORDER = "models (their order)"


class How(StrEnum):
    """What becomes of a model."""

    NEW = "new"
    REMOVED = "removed"
    REPLACED = "replaced"
    IN_PLACE = "in place"
    UNCHANGED = "unchanged"


WORDING = {
    How.NEW: "is started",
    How.REMOVED: "takes no new requests, finishes those under way, and ends",
    How.REPLACED: "a new one is started beside the old one, which ends when the new one answers; "
    "where there is no room for both, the old one ends first",
    How.IN_PLACE: "is told, and goes on",
    How.UNCHANGED: "is left alone",
}


@dataclass(frozen=True)
class ModelChange:
    """One model. fields: which of its keys differ."""

    model: str
    how: How
    fields: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "how": self.how.value, "fields": list(self.fields), "means": WORDING[self.how]}


@dataclass(frozen=True)
class Plan:
    """models: all, those of the new profile first. settings: other fields that differ and are taken.

    fixed: fields that differ and cannot be changed while the service runs.
    """

    models: tuple[ModelChange, ...]
    settings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.settings and not self.fixed and all(each.how is How.UNCHANGED for each in self.models)

    def of(self, *how: How) -> tuple[str, ...]:
        """Models to which one of these happens."""
        return tuple(each.model for each in self.models if each.how in how)

    @property
    def refusal(self) -> str | None:
        """Why it cannot be done, and what would work; None if it can."""
        if not self.fixed:
            return None
        return (
            f"{', '.join(self.fixed)}: cannot be changed while the service runs; "
            f"end it and start it with the new profile, or leave {'it' if len(self.fixed) == 1 else 'them'} as before"
        )

    def to_json(self) -> dict[str, Any]:
        models = [each.to_json() for each in self.models]
        return {"models": models, "settings": list(self.settings), "fixed": list(self.fixed)}


def plan_of(old: Settings, new: Settings) -> Plan:
    """What it takes to get from one profile to the other."""
    models = [_change(key, old.models.get(key), spec) for key, spec in new.models.items()]
    models += [ModelChange(key, How.REMOVED) for key in old.models if key not in new.models]
    differ = list(_differences(_sections(old), _sections(new)))
    taken = [field for field in differ if _is_taken(field)]
    if [key for key in old.models if key in new.models] != [key for key in new.models if key in old.models]:
        taken.append(ORDER)
    return Plan(tuple(models), tuple(taken), tuple(field for field in differ if field not in taken))


def counted(old: Settings, new: Settings, generation: int) -> Settings:
    """The new profile with each model's generation: this one where it is new or replaced, else as before."""
    models = {}
    for key, spec in new.models.items():
        change = _change(key, old.models.get(key), spec)
        fresh = change.how in (How.NEW, How.REPLACED)
        models[key] = spec.model_copy(update={"generation": generation if fresh else old.models[key].generation})
    return new.model_copy(update={"models": models})


def last_generation(settings: Settings) -> int:
    return max((spec.generation for spec in settings.models.values()), default=0)


def _change(key: str, old: ModelSpec | None, new: ModelSpec) -> ModelChange:
    if old is None:
        return ModelChange(key, How.NEW)
    fields = tuple(_differences(_written(old), _written(new)))
    if not fields:
        return ModelChange(key, How.UNCHANGED)
    lightly = all(field.split(".")[0] in IN_PLACE for field in fields)
    return ModelChange(key, How.IN_PLACE if lightly else How.REPLACED, fields)


def _written(spec: ModelSpec) -> dict[str, Any]:
    """As a profile says it."""
    return spec.model_dump(mode="json", exclude={"generation"})


def _sections(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"models"})


def _is_taken(field: str) -> bool:
    return any(field == part or field.startswith(f"{part}.") for part in TAKEN) and field not in FIXED


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys whose values differ, those inside of sections with a dot; of lists and of what is null the key alone."""
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after or (key in old) != (key in new):
            yield f"{prefix}{key}"
