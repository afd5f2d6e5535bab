"""What was typed, as what a run is made of: points, limits, aims. What is wrong is a BadParameter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import typer
from pydantic import ValidationError

from loadtests.client.prompts import WorkloadError, is_file, workload_of
from loadtests.records import Kind, Limits, Point
from loadtests.report.aims import Aim
from loadtests.sweep.errors import PlanError
from loadtests.sweep.plan import concurrencies_of, kinds_of, lengths_of, points_of, rates_of

LIMITED = {"ttft": "ttft_ms", "itl": "itl_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
AIM = re.compile(
    r"(?P<figure>\w+)(\.(?P<of>ratio|difference))?\s*(?P<sign><=|>=)\s*(?P<bound>[\d.e-]+)"
    r"(@(?P<users>\d+(\+\d+)*))?(:(?P<model>.+))?"
)
AIM_FORM = "FIGURE[.ratio|.difference]<=NUMBER[@USERS[+USERS]][:MODEL], as in itl_p95.ratio<=1.2@1+64"


@dataclass(frozen=True)
class Asked:
    """Of `corral bench`, as typed."""

    models: str | None
    concurrency: str | None
    rate: str | None
    lengths: str
    kinds: str
    repeats: int
    requests_per_user: int
    warmup: int
    max_seconds: float
    timeout_s: float
    limits: Limits
    workload: str
    seed: int
    stop: bool
    title: str

    @property
    def names(self) -> list[str] | None:
        """The models that were named; None if none was."""
        return None if self.models is None else _words("--models", self.models)

    @property
    def wanted_kinds(self) -> tuple[Kind, ...]:
        try:
            return kinds_of(self.kinds)
        except PlanError as error:
            raise typer.BadParameter(str(error)) from None

    def points(self, models: Mapping[Kind, Sequence[str]]) -> tuple[Point, ...]:
        """All points of the sweep, kind by kind; each kind with its own models."""
        try:
            rates = rates_of(self.rate) if self.rate is not None else ()
            users = concurrencies_of(self.concurrency) if self.concurrency is not None else ()
            lengths = lengths_of(self.lengths)
            self._require_lengths(len(lengths))
            found = tuple(point for kind in models for point in points_of(models[kind], users, rates, lengths, (kind,)))
            workload_of(self.workload, found[0], self.seed)  # what is wrong with it is better told now
        except (PlanError, WorkloadError) as error:
            raise typer.BadParameter(str(error)) from None
        own = {"own_lengths": is_file(self.workload)}
        return tuple(each.model_copy(update=own) for each in found)

    def _require_lengths(self, lengths: int) -> None:
        if lengths > 1 and is_file(self.workload):
            raise PlanError(
                "lengths: a file's conversations have their own: leave --lengths out, or ask --workload random"
            )


def limits_of(text: str | None) -> Limits:
    """`ttft=300,itl=50` in milliseconds."""
    return Limits(**dict(_limit(each) for each in _words("--limits", text))) if text is not None else Limits()


def _limit(text: str) -> tuple[str, float]:
    name, _, value = (part.strip() for part in text.partition("="))
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if name not in LIMITED or not (number > 0 and isfinite(number)):
        known = ", ".join(f"{each}=MS" for each in LIMITED)
        raise typer.BadParameter(f"{text!r} is none of {known}", param_hint="--limits")
    return LIMITED[name], number


def aims_of(text: str | None) -> tuple[Aim, ...]:
    """`itl_p95<=10@128, output_tokens_per_s.ratio>=0.95@64`."""
    return tuple(map(_aim, _words("--aims", text))) if text is not None else ()


def _aim(text: str) -> Aim:
    found = AIM.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not {AIM_FORM}", param_hint="--aims")
    try:
        return Aim(
            figure=found["figure"],
            of=found["of"] or "value",
            model=found["model"] or "",
            concurrency=tuple(map(int, (found["users"] or "").split("+"))) if found["users"] else (),
            **{"at_most" if found["sign"] == "<=" else "at_least": float(found["bound"])},
        )
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {_reason(error)}", param_hint="--aims") from None


def _reason(error: ValueError) -> str:
    """Pydantic's own words without its frame."""
    if isinstance(error, ValidationError):
        return error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
    return str(error)


def _words(option: str, text: str) -> list[str]:
    found = list(_parts(text))
    if not found:
        raise typer.BadParameter(f"{text!r} has nothing in it", param_hint=option)
    return found


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())
