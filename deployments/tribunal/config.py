"""What a profile or a request says about a tribunal: who drafts, who judges, by which strategy, and when to stop.

Durations are seconds, budgets tokens (prompt and answer, over all calls of one tribunal).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from deployments.config import Section

PREFIX = "tribunal"
"""The virtual model of the tribunal named `default`; another one's is PREFIX/NAME."""
DEFAULT = "default"

Strategy = Literal["refine", "council", "debate", "mixture", "single", "best_of_n", "self_consistency"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
SAMPLING: frozenset[Strategy] = frozenset({"best_of_n", "self_consistency"})
"""Strategies that ask one member several times."""

TribunalName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Weight = Annotated[float, Field(gt=0, le=1000)]
Criterion = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[^,#\x00-\x1f\x7f]{1,100}$")]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Member(Section):
    """Who sits in a tribunal. `model` is a served id, or another tribunal as PREFIX/NAME."""

    model: str = Field(min_length=1, max_length=200)
    name: Name | None = Field(None, description="In the trace; the model's id if unset.")
    role: Short | None = Field(None, description='What it is to look at, for example "a sceptical statistician".')
    system: str | None = Field(None, min_length=1, max_length=20_000, description="A system message of its own.")
    temperature: float | None = Field(None, ge=0, le=2, description="The tribunal's if unset.")
    max_tokens: int | None = Field(None, ge=1, le=131_072, description="The tribunal's if unset.")

    @property
    def label(self) -> str:
        return self.name or self.model


def _as_member(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


AnyMember = Annotated[Member, BeforeValidator(_as_member)]
"""A member, or just its model's id."""


class StopRules(Section):
    """When a tribunal has deliberated enough."""

    consensus: float | None = Field(1.0, gt=0.5, le=1, description="Share of drafts that agree; null never stops.")
    leader: bool = Field(
        True,
        description="Deliberate no longer, in no later round either, when no review can change who leads.",
    )
    budget_tokens: int | None = Field(None, ge=1, le=10_000_000)
    deadline_s: float = Field(120, gt=0, le=3600, description="Then the best draft so far is the answer.")
    patience_s: float | None = Field(None, gt=0, description="For those behind, once a quorum has drafted.")


class TribunalSpec(Section):
    """A tribunal. `chair` writes the synthesis; the last member does if none is named."""

    strategy: Strategy = "council"
    members: Annotated[tuple[AnyMember, ...], Field(min_length=1, max_length=16)]
    chair: AnyMember | None = None
    rounds: int = Field(1, ge=1, le=8, description="Of review, debate or refinement; the layers of a mixture.")
    samples: int | None = Field(None, ge=1, le=64, description="Drafts of best_of_n and self_consistency.")
    rubric: dict[Criterion, Weight] = Field(
        {"accuracy": 3.0, "completeness": 1.0, "clarity": 1.0}, min_length=1, max_length=10
    )
    review: Literal["together", "apart"] = Field(
        "together", description="A reviewer sees all drafts in one call, or each in a call of its own."
    )
    self_review: bool = Field(False, description="Whether members review their own drafts, too.")
    stop: StopRules = StopRules()
    quorum: int | None = Field(None, ge=1, description="Least members with a draft; half of them if unset.")
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(1024, ge=1, le=131_072, description="Of a draft and of the answer.")
    review_max_tokens: int = Field(256, ge=1, le=131_072, description="For each draft that is reviewed.")
    wording: Literal["general", "pocket"] = Field(
        "general", description="`pocket`: the few sentences that the embedded models were trained on."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TribunalSpec:
        labels = [member.label for member in self.members]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise ValueError(f"two members are called {twice!r}; give one a `name`")
        if self.chair is not None and tribunal_name(self.chair.model) is not None:
            raise ValueError(f"chair: a tribunal ({self.chair.model}) can be a member, but no chair")
        if self.chair is not None and self._of_another_model(self.chair):
            raise ValueError(f"chair: a member of another model is called {self.chair.label!r}, too; give it a `name`")
        if self.quorum and self.quorum > len(self.members):
            raise ValueError(f"quorum: {self.quorum} is more than the {len(self.members)} members")
        if self.samples and self.strategy not in SAMPLING:
            raise ValueError(f"samples: only {' and '.join(sorted(SAMPLING))} take samples, not {self.strategy}")
        if self.strategy in SAMPLING and self.sample_count > 1 and not self.temperature_of(self.chair_member):
            raise ValueError(f"temperature: at 0 all samples of {self.strategy} are the same; for example 0.7")
        return self

    def _of_another_model(self, chair: Member) -> bool:
        return any(member.label == chair.label and member.model != chair.model for member in self.members)

    @property
    def chair_member(self) -> Member:
        if self.chair is not None:
            return self.chair
        return next((m for m in reversed(self.members) if tribunal_name(m.model) is None), self.members[-1])

    @property
    def needed(self) -> int:
        """Least members that must draft."""
        return self.quorum or ceil(len(self.members) / 2)

    @property
    def sample_count(self) -> int:
        return self.samples or max(3, len(self.members))

    @property
    def apart(self) -> bool:
        """Whether a reviewer sees one draft at a time; the embedded models read no more than that."""
        return self.review == "apart" or self.wording == "pocket"

    @property
    def seats(self) -> tuple[Member, ...]:
        """Everyone who is asked: the members, and the chair where it is none of them."""
        return self.members if self.chair is None else (*self.members, self.chair)

    def temperature_of(self, member: Member) -> float:
        return self.temperature if member.temperature is None else member.temperature

    def max_tokens_of(self, member: Member) -> int:
        return member.max_tokens or self.max_tokens


def tribunal_names(specs: Iterable[str]) -> tuple[str, ...]:
    """The names, the default's first."""
    return tuple(sorted(specs, key=lambda name: name != DEFAULT))


def virtual_id(name: str) -> str:
    """The model id under which a named tribunal answers."""
    return PREFIX if name == DEFAULT else f"{PREFIX}/{name}"


def tribunal_name(model: str) -> str | None:
    """The tribunal that a model id stands for, or None if it is an ordinary model's."""
    if model == PREFIX:
        return DEFAULT
    return model.removeprefix(f"{PREFIX}/") if model.startswith(f"{PREFIX}/") else None


def loop(name: str | None, spec: TribunalSpec, known: Mapping[str, TribunalSpec]) -> list[str]:
    """The way from a tribunal over its members back to itself or round in a circle, or [] if there is none."""
    return _loop([name] if name else [], spec, known, set())


def _loop(way: list[str], spec: TribunalSpec, known: Mapping[str, TribunalSpec], sound: set[str]) -> list[str]:
    """sound: tribunals from which no way leads into a circle."""
    for member in spec.seats:
        inner = tribunal_name(member.model)
        if inner in way:
            return [*way, inner]
        if inner is None or inner not in known or inner in sound:
            continue
        if found := _loop([*way, inner], known[inner], known, sound):
            return found
        sound.add(inner)
    return []
