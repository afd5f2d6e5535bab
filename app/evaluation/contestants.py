"""Who is asked: every member alone, the strategies as the tribunal has them, and the baselines over growing samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.tribunal.config import SAMPLING, STRATEGIES, Strategy

SAMPLE_TEMPERATURE = 0.7
DELIBERATING: tuple[Strategy, ...] = tuple(s for s in STRATEGIES if s not in SAMPLING and s != "single")
"""Strategies of several members."""
BASELINES: tuple[Strategy, ...] = tuple(s for s in STRATEGIES if s in SAMPLING)
"""Strategies of one member that is asked several times."""


@dataclass(frozen=True)
class Panel:
    """A tribunal as its service tells it. models: members' and then the chair's, each once. spec: all that is known."""

    tribunal: str
    models: tuple[str, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Contestant:
    """config: keys of TribunalSpec that are laid over the tribunal's. samples: calls of one model, 1 but for baselines.

    `label` names it in files and tables, so it says all that sets it apart.
    """

    label: str
    strategy: Strategy
    config: Mapping[str, Any]
    model: str | None = None
    samples: int = 1


def single(model: str) -> Contestant:
    """One greedy answer of one model: the best that a single call of it can be relied on for."""
    return Contestant(f"single {model}", "single", {"strategy": "single", "temperature": 0, **_alone(model)}, model)


def deliberating(strategy: Strategy) -> Contestant:
    """The tribunal's own members under a strategy."""
    return Contestant(strategy, strategy, {"strategy": strategy, "samples": None})


def sampling(strategy: Strategy, model: str, samples: int) -> Contestant:
    config = {"strategy": strategy, "temperature": SAMPLE_TEMPERATURE, **_alone(model), "samples": samples}
    return Contestant(f"{strategy} {model} n={samples}", strategy, config, model, samples)


def _alone(model: str) -> dict[str, Any]:
    """What the tribunal asks for more than one member is taken back."""
    return {"members": [model], "chair": None, "quorum": None, "samples": None}


def sample_counts(most: int) -> Iterator[int]:
    """2, 3, 5, 8, ... and at last `most`."""
    before, count = 1, 2
    while count < most:
        yield count
        before, count = count, before + count
    if most > 1:
        yield most
