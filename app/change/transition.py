"""From the settings in force to others, while requests go on: models are brought up, switched to, drained and ended."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.change.deployer import Deployer
from app.change.plan import OF_MODELS, How, Plan, plan_of
from app.change.room import taken
from app.change.stage import Stage
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.replicas import DRAIN_S
from deployments.status import ModelState, ModelStatus

POLL_S = 0.5
OLDER_EDGES_S = 25.0
"""So long an edge from before a reload may route new requests of clients that were connected to it."""
SETTLED_S = 120.0
FAILED_START = re.compile(r"failed to start|ConstructorError|constructor", re.IGNORECASE)
"""In what Serve says while it tries once more: an engine that did not start is not waited for."""
LATE = re.compile(r"taken more than \d+s? to be scheduled", re.IGNORECASE)
"""In what it says after half a minute without a worker, whether that lacks a place or is slow."""

Say = Callable[[str, str, str], None]
"""Takes a model, its state and details."""


class NotTakenError(Exception):
    """The new settings are not in force, or not all of them; the message says why."""


@dataclass
class Transition:
    """One way, once. What has been started and is not in force when it fails is ended again.

    target: with its generations counted. timeout_s: for each batch of models to become ready. again: tell everybody,
    also who should know: after a failure nobody can say who was told what.
    """

    stage: Stage
    deployer: Deployer
    target: Settings
    say: Say
    timeout_s: float
    again: bool = False
    drain_s: float = DRAIN_S

    def __post_init__(self) -> None:
        self._before = self.stage.in_force
        self._plan: Plan = plan_of(self._before, self.target)
        self._specs = {spec.id: spec for spec in self.target.specs}
        self._started: list[ModelSpec] = []
        self._going = [spec for spec in self._before.specs if spec.id not in self._specs]

    async def run(self) -> None:
        """Raises NotTakenError, DeployerError, EdgeError."""
        coming = [self._specs[model] for model in self._plan.of(How.NEW, How.REPLACED)]
        if coming or self._told:
            await self.deployer.prepare()
        await self.stage.widen(self._with(self.stage.in_force), coming)
        try:
            while coming:
                batch = await self._batch(coming)
                await self._bring(batch)
                coming = [spec for spec in coming if spec not in batch]
            await self._tell_others()
            await self._remove()
        finally:
            await self._end_unused()

    @property
    def _told(self) -> list[ModelSpec]:
        """Models whose replicas are told something and go on."""
        every = self.again or OF_MODELS in self._plan.settings
        how = (How.IN_PLACE, How.UNCHANGED) if every else (How.IN_PLACE,)
        return [self._specs[model] for model in self._plan.of(*how)]

    def _with(self, settings: Settings, *specs: ModelSpec) -> Settings:
        """The target with the models that are in force, but for these, in the target's order as far as they are in it.

        What is taken in place is the target's.
        """
        models = dict(settings.models)
        models |= {model: self.target.models[model] for model in self._plan.of(How.IN_PLACE) if model in models}
        models |= {spec.id: self.target.models[spec.id] for spec in specs}
        order = [*(each for each in self.target.models if each in models), *models]
        return self.target.model_copy(update={"models": {each: models[each] for each in order}})

    # Bringing up.

    async def _batch(self, coming: Sequence[ModelSpec]) -> list[ModelSpec]:
        """As many as fit beside what runs; where not even the first does, room is made for it."""
        free, batch = await self.deployer.free(), list[ModelSpec]()
        for spec in coming:
            left = taken(spec, await self._replicas(spec), free)
            if left is not None:
                free, batch = left, [*batch, spec]
        if batch:
            return batch
        if self._leaving:
            await self._remove(wait=True)
            return await self._batch(coming)
        return [coming[0]]

    async def _replicas(self, spec: ModelSpec) -> int:
        """At least one, so that it is tried; as many as the one before has, so that it is not overrun."""
        old = self._old(spec)
        running = await self._replicas_of(old) if old else 0
        scaling = spec.autoscaling
        least = scaling.min_replicas if scaling.initial_replicas is None else scaling.initial_replicas
        return min(max(1, least, running), scaling.max_replicas)

    def _old(self, spec: ModelSpec) -> ModelSpec | None:
        """The generation that is in force."""
        found = {each.id: each for each in self.stage.in_force.specs}.get(spec.id)
        return None if found == spec else found

    async def _bring(self, batch: Sequence[ModelSpec]) -> None:
        """Start them, wait until they answer, and put them in force; then end those before them."""
        replaced = {spec.id: old for spec in batch if (old := self._old(spec))}
        counts = {spec.id: await self._replicas(spec) for spec in batch}
        fits = await self._all_fit(batch, counts)
        await self._deploy([_of_replicas(spec, counts[spec.id]) for spec in batch])
        if not fits:
            await self._give_way(batch, replaced)
        await self._until_ready(batch, counts, replaced)
        await self.stage.routed(batch)
        await self._put_in_force(self._with(self.stage.in_force, *batch))
        self._started = [spec for spec in self._started if spec not in batch]
        await self._end(list(replaced.values()))

    async def _all_fit(self, batch: Sequence[ModelSpec], counts: dict[str, int]) -> bool:
        free = await self.deployer.free()
        for spec in batch:
            left = taken(spec, counts[spec.id], free)
            if left is None:
                return False
            free = left
        return True

    async def _deploy(self, batch: Sequence[ModelSpec]) -> None:
        for spec in batch:
            self.stage.forget_phase(spec)
            self.say(spec.id, "starting", "")
        self._started += [self._specs[spec.id] for spec in batch]
        failures = await self.deployer.models(self.target, batch)
        for model, reason in failures.items():
            raise NotTakenError(f"models.{model}: {reason}")

    async def _until_ready(
        self, batch: Sequence[ModelSpec], counts: dict[str, int], replaced: dict[str, ModelSpec]
    ) -> None:
        deadline = time.monotonic() + self.timeout_s
        waiting = list(batch)
        while waiting:
            seen = await self.deployer.look(waiting)
            for spec in list(waiting):
                status = seen[spec.id]
                if status.state is ModelState.READY and status.replicas >= counts[spec.id]:
                    await self._ask_first(spec)
                    waiting.remove(spec)
                else:
                    self._refuse(spec, status, late=time.monotonic() > deadline)
                    self.say(spec.id, "starting", status.phase or "")
            late = [spec for spec in waiting if _is_late(seen[spec.id])]
            if late and await self.deployer.unplaced(late):
                await self._give_way(waiting, replaced)
            await asyncio.sleep(POLL_S if waiting else 0)

    async def _ask_first(self, spec: ModelSpec) -> None:
        if why := await self.stage.answers(spec):
            raise NotTakenError(f"models.{spec.id}: it has started and does not answer: {why}")
        self.say(spec.id, "ready", "")

    def _refuse(self, spec: ModelSpec, status: ModelStatus, late: bool) -> None:
        reason = status.reason or ""
        if status.state is ModelState.FAILED or FAILED_START.search(reason):
            raise NotTakenError(f"models.{spec.id}: {reason or 'it did not start'}")
        if late:
            because = reason or status.phase or status.state.value
            raise NotTakenError(f"models.{spec.id}: not ready after {self.timeout_s:g} s: {because}")

    async def _give_way(self, batch: Sequence[ModelSpec], replaced: dict[str, ModelSpec]) -> None:
        """Where there is no room for both generations the old one goes first; requests wait for the new one."""
        leaving = [replaced.pop(spec.id) for spec in batch if spec.id in replaced]
        if leaving:
            ids = {each.id for each in leaving}
            going = [spec for spec in batch if spec.id in ids]
            await self.stage.routed(going)
            await self._put_in_force(self._with(self.stage.in_force, *going))
            await self._end(leaving, wait=True)

    # Putting in force, and ending.

    async def _put_in_force(self, settings: Settings) -> None:
        await self.deployer.system(settings)
        await self._settle([])
        await self.stage.take(settings)

    async def _settle(self, specs: Sequence[ModelSpec]) -> None:
        deadline = time.monotonic() + SETTLED_S
        while not await self.deployer.settled(specs):
            if time.monotonic() > deadline:
                raise NotTakenError("the gateway, a tribunal or a model does not take what it is told")
            await asyncio.sleep(POLL_S / 2)

    async def _tell_others(self) -> None:
        """Models that go on with something new, then everybody else, of the whole target."""
        if told := self._told:
            for model, reason in (await self.deployer.models(self.target, told)).items():
                raise NotTakenError(f"models.{model}: {reason}")
            await self._settle(told)
        if self.again or self.stage.in_force.model_dump_json() != self.target.model_dump_json():  # models' order counts
            await self._put_in_force(self.target)
        for model in self._plan.of(How.IN_PLACE):
            self.say(model, "done", "")

    @property
    def _leaving(self) -> list[ModelSpec]:
        return [spec for spec in self.stage.in_force.specs if spec.id not in self._specs]

    async def _remove(self, wait: bool = False) -> None:
        """What the target has no more, where that is in force still, or was a moment ago."""
        leaving, self._going = self._going, []
        if self._leaving:
            kept = {key: spec for key, spec in self.stage.in_force.models.items() if key in self._specs}
            await self._put_in_force(self.stage.in_force.model_copy(update={"models": kept}))
        await self._end(leaving, wait)

    async def _end(self, leaving: Sequence[ModelSpec], wait: bool = False) -> None:
        """Once they have nothing to do any more; wait: until what they were placed on is free."""
        empty = [spec for spec in leaving if self.again and not await self._replicas_of(spec)]
        for spec in empty:  # it did not start, and what waits for it would wait in vain while it drains
            await self.stage.abandoned(spec)
        await asyncio.gather(*(self._drain(spec) for spec in leaving))
        for spec in leaving:
            answers = await self._replicas_of(spec)
            await self.deployer.delete(spec)
            if not answers:
                await self.stage.abandoned(spec)
        deadline = time.monotonic() + self.drain_s
        for spec in leaving:
            while wait and not await self.deployer.gone(spec) and time.monotonic() < deadline:
                await asyncio.sleep(POLL_S)
            self.say(spec.id, "done" if self._is_over(spec) else "starting", "")

    def _is_over(self, spec: ModelSpec) -> bool:
        return all(each.id != spec.id for each in self._started)

    async def _drain(self, spec: ModelSpec) -> None:
        """Until it has had nothing to do at two looks, and nobody can send it anything more."""
        began, idle = time.monotonic(), 0
        while idle < 2 and time.monotonic() - began < self.drain_s:
            older = self.stage.older_edges and time.monotonic() - began < OLDER_EDGES_S
            count = await self._busy(spec)
            idle = 0 if count or older else idle + 1
            self.say(spec.id, "draining", f"{count} request{'' if count == 1 else 's'} under way" if count else "")
            await asyncio.sleep(POLL_S)

    async def _busy(self, spec: ModelSpec) -> int:
        if not await self._replicas_of(spec):
            return 0
        return await self.deployer.under_way(spec)

    async def _replicas_of(self, spec: ModelSpec) -> int:
        return (await self.deployer.look([spec]))[spec.id].replicas

    async def _end_unused(self) -> None:
        """What was started and did not come into force; what came into force early and did not start is not waited for.

        That before the way back, for which the edge is reloaded: what waits in an older process cannot be ended.
        """
        in_force = {spec.deployed_id for spec in self.stage.in_force.specs}
        for spec in self._started:
            if spec.deployed_id not in in_force:
                await self.deployer.delete(spec)
            elif not await self._replicas_of(spec):
                await self.stage.abandoned(spec)


def _is_late(status: ModelStatus) -> bool:
    return bool(LATE.search(status.reason or ""))


def _of_replicas(spec: ModelSpec, replicas: int) -> ModelSpec:
    """The model such that it starts with so many; Serve may end some of them later."""
    scaling = spec.autoscaling.model_copy(update={"initial_replicas": replicas})
    return spec.model_copy(update={"autoscaling": scaling})
