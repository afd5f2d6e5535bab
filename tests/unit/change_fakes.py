"""A service and its Ray for tests of changes: models are a table, and what was asked of them is noted in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from app.change.deployer import Deployer
from app.change.transition import NotTakenError
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.status import ModelState, ModelStatus

MODEL = {"source": "pocket:pocket-1b", "hardware": {"kind": "cpu", "cpus": 1}}


def profile(*models: str, **sections: Any) -> Settings:
    """A profile of these models, all alike."""
    return profile_of({model: {} for model in models}, **sections)


def profile_of(models: Mapping[str, Mapping[str, Any]], **sections: Any) -> Settings:
    return Settings(models={name: {**MODEL, **keys} for name, keys in models.items()}, **sections)


@dataclass
class FakeStage:
    """Implements stage.Stage. mute: models that start and do not answer."""

    in_force: Settings
    done: list[str] = field(default_factory=list)
    mute: frozenset[str] = frozenset()
    older_edges: int = 0

    async def widen(self, settings: Settings, coming: Sequence[ModelSpec]) -> None:
        self.done.append("widen " + " ".join(spec.deployed_id for spec in coming))

    async def take(self, settings: Settings) -> None:
        self.in_force = settings
        self.done.append("take " + " ".join(spec.deployed_id for spec in settings.models.values()))

    async def answers(self, spec: ModelSpec) -> str | None:
        return "HTTP 500" if spec.id in self.mute else None

    async def routed(self, specs: Sequence[ModelSpec]) -> None:
        self.done.append("routed " + " ".join(spec.deployed_id for spec in specs))

    async def abandoned(self, spec: ModelSpec) -> None:
        self.done.append(f"abandon {spec.deployed_id}")

    def forget_phase(self, spec: ModelSpec) -> None:
        """There is none."""


LATE = "Deployment 'a' has 1 replicas that have taken more than 30s to be scheduled. Resources required: 1 CPU"


class FakeDeployer(Deployer):
    """Ray with so many CPUs. bad: models whose engines do not start, as (id, generation) or id."""

    def __init__(self, settings: Settings, cpus: float, done: list[str], bad: Sequence[str] = ()) -> None:
        super().__init__({}, ("", 0), Path("/nonexistent"))
        self.cpus, self.done, self.bad = cpus, done, bad
        self.deployed = {spec.deployed_id: spec for spec in settings.models.values()}
        self.requests: dict[str, list[int]] = {}
        """Deployed id -> how many requests are under way at each look."""
        self.slow: dict[str, int] = {}
        """Deployed id -> at how many looks its worker is late, though it has room."""
        self.lost = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.done.append("end")

    async def prepare(self) -> None:
        self.done.append("prepare")

    async def models(self, settings: Settings, specs: Sequence[ModelSpec]) -> dict[str, str]:
        for spec in specs:
            self.done.append(f"{'tell' if spec.deployed_id in self.deployed else 'deploy'} {spec.deployed_id}")
            self.deployed[spec.deployed_id] = spec
        return {}

    async def system(self, settings: Settings) -> None:
        if self.lost:
            raise NotTakenError("the gateway is lost")

    async def settled(self, specs: Sequence[ModelSpec] = ()) -> bool:
        return True

    async def look(self, specs: Sequence[ModelSpec]) -> dict[str, ModelStatus]:
        return {spec.id: self._status(spec) for spec in specs}

    async def under_way(self, spec: ModelSpec) -> int:
        left = self.requests.get(spec.deployed_id, [])
        return left.pop(0) if left else 0

    async def delete(self, spec: ModelSpec) -> None:
        if self.deployed.pop(spec.deployed_id, None):
            self.done.append(f"delete {spec.deployed_id}")

    async def gone(self, spec: ModelSpec) -> bool:
        return spec.deployed_id not in self.deployed

    async def unplaced(self, specs: Sequence[ModelSpec]) -> bool:
        return any(not self._placed(self.deployed[spec.deployed_id]) for spec in specs)

    async def free(self) -> list[dict[str, float]]:
        return [{"CPU": self.cpus - sum(self._cpus(spec) for spec in self.deployed.values())}]

    def _cpus(self, spec: ModelSpec) -> float:
        return spec.hardware.cpus * (spec.autoscaling.initial_replicas or 1)

    def _status(self, spec: ModelSpec) -> ModelStatus:
        known = self.deployed.get(spec.deployed_id)
        if known is None:
            return ModelStatus(spec.id, ModelState.STARTING)
        if not self._placed(known) or self._is_slow(known):
            return ModelStatus(spec.id, ModelState.STARTING, reason=LATE)
        if spec.deployed_id in self.bad or spec.id in self.bad:
            return ModelStatus(spec.id, ModelState.STARTING, reason="failed to start 1 times: ValueError: no weights")
        replicas = known.autoscaling.initial_replicas or 1
        return ModelStatus(spec.id, ModelState.READY, replicas=replicas, target_replicas=replicas)

    def _placed(self, spec: ModelSpec) -> bool:
        """Who came first has the room."""
        here = list(self.deployed.values())
        return sum(self._cpus(each) for each in here[: here.index(spec) + 1]) <= self.cpus + 1e-6

    def _is_slow(self, spec: ModelSpec) -> bool:
        left = self.slow.get(spec.deployed_id, 0)
        self.slow[spec.deployed_id] = left - 1
        return left > 0
