"""What a start cost: seconds by part, from mark to mark, and by model and stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

STAGES = ("process", "weights", "warm-up", "compile")


@dataclass(frozen=True)
class Span:
    """From one unix time to another; `ends` is None if it was not seen to end."""

    what: str
    begins: float
    ends: float | None


class Mark(NamedTuple):
    """The end of a part, or of a piece of it.

    If one that is needed is missing, nobody can tell this part or what follows until the next that is needed.
    """

    part: str
    at: float | None
    needed: bool = False


@dataclass(frozen=True)
class ModelCosts:
    """Seconds that one model spent in each stage until it was ready or failed; total: process -> ready.

    None for a stage that was not seen, or not seen to end. One that came again after a failure counts again.
    """

    process: float | None
    weights: float | None
    warm_up: float | None
    compile: float | None
    total: float | None


@dataclass(frozen=True)
class Costs:
    """Seconds of one start by part; None where the event at an end of it is missing.

    The parts from `queue` to `other` follow each other and add up to `total`. What ran beside something longer is
    in none of them: a worker that was up before the head, an edge that answered before the last model.

    queue:                submitted -> job started. On an idle cluster that is SLURM's scheduling. After a requeue it
                          counts from the last that the start before told.
    slurm:                job started -> step started on the head -> `shell started` there, if what srun runs wrote
                          that in front of the container; else srun's launch is within the next part.
    container_and_python: -> agent started on the head: srun's launch, the container's start and Python's.
    copy:                 -> weights copied on the head, if before its Ray; also what copying on any node still took
                          after the last node had joined.
    ray_head:             -> head started.
    ray_nodes:            -> the last of the nodes that had joined by the deployment. If that node's own agent or copy
                          was later than `head started`, the time until then is in the parts above, not in this one.
    serve:                -> deployed -> the first model's process, which may be the earlier one.
    engine:               -> the last model ready; `models` has each.
    edge:                 what the address took before the deployment, or still took after the last model.
    other:                the rest: what lies beside missing events, and the last model ready -> service ready.
    total:                submitted -> service ready.
    first_token:          service ready -> first token, not in `total`; 0 if that came before.
    """

    queue: float | None
    slurm: float | None
    container_and_python: float | None
    copy: float | None
    ray_head: float | None
    ray_nodes: float | None
    serve: float | None
    engine: float | None
    edge: float | None
    other: float | None
    total: float | None
    first_token: float | None
    models: dict[str, ModelCosts]

    @property
    def overhead(self) -> float | None:
        """What SLURM and the container cost once the job had nodes. On an idle cluster, `queue` is SLURM's too."""
        slurm, container = self.slurm, self.container_and_python
        return None if slurm is None or container is None else slurm + container


def spent_by_part(begin: float | None, path: Iterable[Mark]) -> dict[str, float | None]:
    """Seconds by part, from mark to mark. A mark that came before the one in front of it cost nothing."""
    spent: dict[str, float | None] = {}
    here, known = begin, begin is not None
    for part, at, needed in path:
        if at is None or not (known or needed):
            if needed:
                spent[part], known = None, False
            continue
        before = spent.get(part, 0.0)
        spent[part] = before + max(0.0, at - here) if known and here is not None and before is not None else None
        here, known = max(at, at if here is None else here), True
    return spent


def model_costs(spans: Sequence[Span]) -> ModelCosts:
    stages: dict[str, float | None] = {_field(stage): None for stage in STAGES}
    for span in spans:
        if span.what in STAGES and span.ends is not None:
            stages[_field(span.what)] = (stages[_field(span.what)] or 0.0) + span.ends - span.begins
    began = next((span.begins for span in spans if span.what == "process"), None)
    ready = next((span.begins for span in spans if span.what == "ready"), None)
    return ModelCosts(**stages, total=between(began, ready))


def _field(stage: str) -> str:
    return stage.replace("-", "_")


def between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)


def earlier(at: float | None, bound: float | None) -> float | None:
    return at if at is None or bound is None else min(at, bound)


def cost_rows(costs: Costs) -> list[list[str]]:
    """A heading, then each part, seconds, share of the total; `-` where it is not known. Models are below engine."""
    rows = [["part", "  seconds", " share"]]
    for each in fields(Costs):
        if each.name != "models":
            total = None if each.name == "first_token" else costs.total
            rows.append([each.name.replace("_", " "), *_cells(getattr(costs, each.name), total)])
        if each.name == "engine":
            rows += [[f"  {model}: {stage}", *_cells(seconds, costs.total)] for model, stage, seconds in _stages(costs)]
    return rows


def _stages(costs: Costs) -> list[tuple[str, str, float]]:
    stages = [(model, stage, getattr(each, _field(stage))) for model, each in costs.models.items() for stage in STAGES]
    return [each for each in stages if each[2] is not None]


def _cells(seconds: float | None, total: float | None) -> tuple[str, str]:
    if seconds is None:
        return f"{'-':>9}", f"{'-':>6}"
    return f"{seconds:9.3f}", f"{seconds / total:6.1%}" if total else f"{'-':>6}"
