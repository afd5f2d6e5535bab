"""What a model is doing, in words that people and programs can both use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol


class ModelState(StrEnum):
    """READY and IDLE answer requests (IDLE starts a replica first); STARTING will; FAILED will not."""

    STARTING = "starting"
    READY = "ready"
    IDLE = "idle"
    FAILED = "failed"
    STOPPING = "stopping"

    @property
    def answers(self) -> bool:
        """Whether a request sent now is worth waiting for."""
        return self in (ModelState.READY, ModelState.IDLE, ModelState.STARTING)


@dataclass(frozen=True)
class ModelStatus:
    """State of one model. `phase` is a finer word while starting, `reason` says why it failed."""

    id: str
    state: ModelState
    replicas: int = 0
    target_replicas: int = 0
    phase: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


class Herd(Protocol):
    """Where states come from: Ray Serve in life, a dict in tests."""

    async def statuses(self) -> Mapping[str, ModelStatus]:
        """Every configured base model by id, in the profile's order. Cheap: may be up to 1 s old."""
        ...
