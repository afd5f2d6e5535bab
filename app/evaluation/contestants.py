"""Who is asked: every member alone, the strategies as the tribunal has them, and the baselines over growing samples.

A member alone is the one that sits in the tribunal, with its own system message, role and bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.evaluation.tasks import EvaluationError
from deployments.tribunal.config import SAMPLING, STRATEGIES, Member, Strategy, TribunalSpec, tribunal_name

SAMPLE_TEMPERATURE = 0.7
DELIBERATING: tuple[Strategy, ...] = tuple(s for s in STRATEGIES if s not in SAMPLING and s != "single")
"""Strategies of several members."""
BASELINES: tuple[Strategy, ...] = tuple(s for s in STRATEGIES if s in SAMPLING)
"""Strategies of one member that is asked several times."""


@dataclass(frozen=True)
class Seat:
    """A member, or the chair, under a name that no other of its tribunal has."""

    name: str
    member: Member


@dataclass(frozen=True)
class Panel:
    """A tribunal as its service tells it. seats: those that are models, members first. spec: all that is known.

    left_out: members that are tribunals themselves, and so are no single models.
    """

    tribunal: str
    seats: tuple[Seat, ...]
    spec: Mapping[str, Any]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        names = [seat.name for seat in self.seats]
        models = list(dict.fromkeys(seat.member.model for seat in self.seats))
        return {"members": names, "models": models, "left_out": list(self.left_out), "spec": dict(self.spec)}


def panel_of(tribunal: str, spec: TribunalSpec) -> Panel:
    """The panel of a tribunal whose spec is known. Raises EvaluationError if no model sits in it."""
    return _panel(tribunal, _seats(spec), spec.model_dump(mode="json"))


def panel_of_models(tribunal: str, models: Iterable[str]) -> Panel:
    """The panel of a tribunal of which no more is known than who was called. Raises as panel_of does."""
    found = tuple(dict.fromkeys(models))
    return _panel(tribunal, [Seat(model, Member(model=model)) for model in found], {"models": list(found)})


def _panel(tribunal: str, seats: Sequence[Seat], spec: Mapping[str, Any]) -> Panel:
    models = tuple(seat for seat in seats if tribunal_name(seat.member.model) is None)
    if not models:
        raise EvaluationError(
            f"only tribunals sit in the tribunal {tribunal}; there is no single model to compare with"
        )
    return Panel(tribunal, models, spec, tuple(seat.name for seat in seats if seat not in models))


def _seats(spec: TribunalSpec) -> list[Seat]:
    """The members, and the chair where it is none of them; one that only shares a member's name is told apart."""
    seats = [Seat(member.label, member) for member in spec.members]
    chair = spec.chair_member
    same = next((member for member in spec.members if member.label == chair.label), None)
    if same is None:
        seats.append(Seat(chair.label, chair))
    elif chair.model_copy(update={"name": same.name}) != same:
        seats.append(Seat(f"{chair.label} (chair)", chair))
    return seats


@dataclass(frozen=True)
class Contestant:
    """config: keys of TribunalSpec, laid over the tribunal's. samples: calls of one member, 1 but for baselines.

    `label` names it in files and tables, so it says all that sets it apart.
    """

    label: str
    strategy: Strategy
    config: Mapping[str, Any]
    seat: Seat | None = None
    samples: int = 1


def single(seat: Seat) -> Contestant:
    """One greedy answer of one member: the best that a single call of it can be relied on for."""
    return Contestant(f"single {seat.name}", "single", {"strategy": "single", **_alone(seat.member, 0)}, seat)


def deliberating(strategy: Strategy) -> Contestant:
    """The tribunal's own members under a strategy."""
    return Contestant(strategy, strategy, {"strategy": strategy, "samples": None})


def sampling(strategy: Strategy, seat: Seat, samples: int) -> Contestant:
    """Several answers of one member, at its own temperature where that is above 0: at 0 all would be the same."""
    alone = _alone(seat.member, seat.member.temperature or None)
    config = {"strategy": strategy, "temperature": SAMPLE_TEMPERATURE, **alone, "samples": samples}
    return Contestant(f"{strategy} {seat.name} n={samples}", strategy, config, seat, samples)


def _alone(member: Member, temperature: float | None) -> dict[str, Any]:
    """The whole member; what the tribunal asks for more than one is taken back."""
    alone = member.model_copy(update={"temperature": temperature})
    members = [alone.model_dump(mode="json", exclude_none=True)]
    return {"members": members, "chair": None, "quorum": None, "samples": None}


def sample_counts(most: int) -> Iterator[int]:
    """2, 3, 5, 8, ... and at last `most`."""
    before, count = 1, 2
    while count < most:
        yield count
        before, count = count, before + count
    if most > 1:
        yield most
