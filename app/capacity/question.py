"""What is asked of `corral plan --users`, and from which curves it can be answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.capacity.check import Check, check
from app.capacity.errors import CapacityError
from app.capacity.measured import MeasuredPoint, bursts_of, fit, nearest_lengths, points_of
from app.capacity.replica import Bounds
from app.capacity.subject import Subject, bounds_of, fitting, on_gpu, roofline_of, subject
from app.capacity.users import UserModel
from app.fit import Site
from app.settings import Settings
from app.shapes import shape_of
from app.submission.gpu_names import Match, match
from deployments.config import ModelSpec
from deployments.engine import engine_arguments
from loadtests.records import Limits, Run
from loadtests.sweep.errors import BenchError
from loadtests.sweep.folder import read_run

OURS = "corral"
"""The side of a run that is taken, if there are several."""
TOLD = (
    "tensor_parallel", "pipeline_parallel", "dtype", "quantization", "hardware", "autoscaling", "eager",
    "max_sequences", "max_ongoing_requests",
)  # fmt: skip
"""Keys of a profile's model that a run's record tells; `engine` is apart."""
NO_OTHER_CURVE = frozenset({
    "max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "gpu_memory_utilization",
    "load_format", "download_dir", "revision", "tokenizer", "seed", "lora_modules", "trust_remote_code",
    "enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "chat_template", "structured_outputs_config",
})  # fmt: skip
"""Engine arguments that make no step longer: bounds, which are simulated; where weights come from; how answers look."""
UNSAID, UNSET = "(not told)", "unset"
"""What a run's record has for a secret, and what an argument is that nobody gave."""


@dataclass(frozen=True)
class Question:
    """Seconds and milliseconds as named. gpu: plan on this type; gpus_per_node: None, to take the profile's.

    arrive_s: within so long all users come, for what the cold starts make of it.
    """

    users: int
    behaviour: UserModel
    limits: Limits
    shares: Sequence[str] = ()
    curve: Path | None = None
    gpu: str | None = None
    gpus_per_node: int | None = None
    arrive_s: float = 600.0
    cold_start_s: float | None = None
    seed: int = 1


@dataclass(frozen=True)
class Measured:
    """A run of `corral bench`, and the side of it that is planned from."""

    run: Run
    side: str
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """Raises CapacityError for a folder without a run."""
        try:
            run = read_run(folder)
        except BenchError as error:
            raise CapacityError(f"--curve: {error}") from None
        names = [side.name for side in run.record.plan.sides]
        return cls(run, OURS if OURS in names else names[0], folder)

    @property
    def models(self) -> list[str]:
        """Those that a curve can be made of."""
        names = dict.fromkeys(point.model for point in self.run.record.plan.points)
        return [name for name in names if points_of(self.run, self.side, name)]

    def points(self, model: str) -> list[MeasuredPoint]:
        """Raises CapacityError for a model that the run has no curve of."""
        found = points_of(self.run, self.side, model)
        if not found:
            raise CapacityError(
                f"the run in {self.folder} has no curve of {model} (streamed chat at several concurrencies, no failed "
                f"request, tokens told); it has {', '.join(self.models) or 'none at all'}. Measure it with "
                f"`corral bench`, or leave it out: --share names those that are asked"
            )
        return found

    def notes(self, model: str) -> list[str]:
        """What a reader should know of a model's points."""
        bursts, repeats = bursts_of(self.run, self.side, model)
        if not bursts:
            return []
        return [
            f"{model}: in {bursts} of {repeats} measurements tokens came in bursts, as the server or the client waited "
            f"for a processor; their TTFT and ITL are not used where others of the same load have some."
        ]

    def require_same(self, spec: ModelSpec) -> None:
        """Raise CapacityError if the run is known to be of another engine than the one that is planned."""
        there = self._engine_of(spec)
        if there is None:
            self._require_same_gpu(spec)
            return
        if there.autoscaling.max_replicas > 1:
            raise CapacityError(
                f"{spec.id} was measured with up to {there.autoscaling.max_replicas} replicas at its address, and a "
                f"curve is one replica's: measure it with autoscaling.max_replicas 1"
            )
        for name, measured, planned in _differences(there, spec):
            raise CapacityError(
                f"{spec.id} was measured with {name} {measured}, and is to be planned with {planned}: measure it as it "
                f"will run, or plan with the profile (or --gpu) that was measured"
            )
        if there.hardware.gpu_type is None:
            self._require_same_gpu(spec)

    def _require_same_gpu(self, spec: ModelSpec) -> None:
        """By the GPUs of the machine, if the endpoint was on it: then the run need not tell its type."""
        machine = self.run.record.machine
        gpus = machine.gpus if machine.same_machine and spec.gpus else ()
        if gpus and all(match(spec.hardware.gpu_type, each) is Match.NO for each in gpus):
            raise CapacityError(
                f"{spec.id} was measured on {', '.join(dict.fromkeys(gpus))}, and is to be planned on "
                f"{spec.hardware.gpu_type}: measure it there, or plan with the --gpu that was measured"
            )

    def bounds(self, spec: ModelSpec, kv_tokens: int | None) -> Bounds:
        """What the measured engine took. Its GPUs are those that are planned, or `require_same` had refused it."""
        there = self._engine_of(spec) or spec
        return bounds_of(there.model_copy(update={"hardware": spec.hardware}), kv_tokens)

    def _engine_of(self, spec: ModelSpec) -> ModelSpec | None:
        """The model as the run's record has it, or as much of it as it tells; None if it tells nothing."""
        told = _model_of(self.run.record.configuration, spec.id)
        if told is None:
            return None
        known = {key: told[key] for key in TOLD if key in told}
        engine = told.get("engine", {})
        if isinstance(engine, dict):
            known["engine"] = {name: value for name, value in engine.items() if value != UNSAID}
        try:
            return ModelSpec.model_validate({"id": spec.id, "source": spec.source, **known})
        except ValidationError:
            return None


def _model_of(configuration: Mapping[str, object], model: str) -> dict[str, object] | None:
    """As `corral bench` keeps a model, or loadtests.gpu, which keeps its whole profile."""
    for profile in (configuration, configuration.get("profile")):
        models = profile.get("models") if isinstance(profile, Mapping) else None
        told = models.get(model) if isinstance(models, dict) else None
        if isinstance(told, dict):
            return told
    return None


def _differences(there: ModelSpec, spec: ModelSpec) -> Iterator[tuple[str, object, object]]:
    """What of these two makes another curve: the name, what was measured, what is planned."""
    for name in ("tensor_parallel", "pipeline_parallel", "dtype", "quantization"):
        if getattr(there, name) != getattr(spec, name):
            yield name, getattr(there, name), getattr(spec, name)
    before, after = there.hardware, spec.hardware
    if before.kind != after.kind:
        yield "hardware.kind", before.kind, after.kind
    elif before.gpu_type and match(after.gpu_type, before.gpu_type) is Match.NO:
        yield "hardware.gpu_type", before.gpu_type, after.gpu_type
    yield from _engine_differences(engine_arguments(there), json.loads(json.dumps(engine_arguments(spec), default=str)))


def _engine_differences(
    there: Mapping[str, object], here: Mapping[str, object]
) -> Iterator[tuple[str, object, object]]:
    """`eager` is among them, as vLLM names it; what is empty is not kept in a run's record."""
    for name in sorted({*there, *here} - NO_OTHER_CURVE):
        before, after = (UNSET if each.get(name) in (None, "", [], {}) else each[name] for each in (there, here))
        if before != after:
            yield f"engine.{name}", before, after


def subjects(settings: Settings, question: Question, measured: Measured | None, models: Sequence[str]) -> list[Subject]:
    """These models of a profile, ready to be planned. Raises PlanError."""
    site = Site(question.gpus_per_node or Site().gpus_per_node)
    found = []
    for spec in settings.specs:
        if spec.id in models:
            found.append(_subject(on_gpu(spec, question.gpu), question, measured, site))
    return found


def _subject(spec: ModelSpec, question: Question, measured: Measured | None, site: Site) -> Subject:
    question.behaviour.require_room(spec.id, spec.context_tokens)
    shape = shape_of(spec.source)
    plan = fitting(spec, shape, site)
    if measured is None:
        return subject(spec, plan, roofline_of(spec, shape, plan), question.cold_start_s)
    measured.require_same(spec)
    points = nearest_lengths(measured.points(spec.id), question.behaviour, spec.id)
    return subject(spec, plan, fit(points, measured.bounds(spec, plan.tokens)), question.cold_start_s)


def checks(measured: Measured, subjects: Sequence[Subject], behaviour: UserModel) -> list[Check]:
    """The simulation against the points that these models' curves come from."""
    found = []
    for each in subjects:
        asked = nearest_lengths(measured.points(each.id), behaviour, each.id)[0].asked
        bounds = measured.bounds(each.spec, each.engine.bounds.kv_tokens)
        found.append(check(measured.run, measured.side, each.id, asked, bounds))
    return found
