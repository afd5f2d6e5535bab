"""What is checked before anyone is asked: the spec, the models, loops, the budget, and who answers now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deployments.errors import BadRequest, NotReady, ServingError, UnknownModel
from deployments.status import ModelStatus
from deployments.tribunal.budget import LEAST_ANSWER, TokenRates
from deployments.tribunal.config import (
    DEFAULT,
    Member,
    TribunalSpec,
    loop,
    tribunal_name,
    tribunal_names,
    virtual_id,
)
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.terms import FindModel, Terms
from deployments.tribunal.tribunal import wording_of

INLINE = "(inline)"
"""How a tribunal without a name is called."""
Status = Callable[[str], Awaitable[ModelStatus]]
"""State of the base model behind a served id. Raises ServingError where there is none."""


@dataclass(frozen=True)
class Admitted:
    """A sitting that can begin. absent: label of a member that does not answer now -> why."""

    name: str
    terms: Terms
    absent: dict[str, str]


class Admission:
    """Turns asks into sittings, or refuses them.

    specs: the profile's tribunals. known: served id of every model that chats -> its context in tokens.
    """

    def __init__(
        self, specs: Mapping[str, TribunalSpec], known: Mapping[str, int], models: FindModel, status: Status
    ) -> None:
        self._specs, self._known, self._models, self._status = dict(specs), known, models, status

    @property
    def names(self) -> tuple[str, ...]:
        return tribunal_names(self._specs)

    def spec(self, name: str) -> dict[str, Any]:
        """The named tribunal's spec as JSON has it."""
        return self._specs[name].model_dump(mode="json")

    async def admit(self, ask: TribunalAsk) -> Admitted:
        """Raises BadRequest with the field, or NotReady."""
        name, spec = self._spec(ask)
        spec = bounded(spec, ask.budget_tokens)
        where = "config" if ask.config is not None else "tribunal"
        self._check_members(name, spec, where)
        self._check_budget(ask, spec)
        absent = await self._absent(spec, {})
        if problem := _cannot_sit(spec, absent):
            raise NotReady(f"{problem[1]}.", f"{where}.{problem[0]}" if where == "config" else where)
        return Admitted(name, self._terms(ask, spec), absent)

    async def missing(self, name: str) -> str | None:
        """Why the named tribunal could not sit now, if it could not."""
        if name not in self._specs:
            raise UnknownModel(virtual_id(name), tuple(virtual_id(known) for known in self.names))
        return await self._missing(name, {})

    async def _missing(self, name: str, asked: dict[str, str | None]) -> str | None:
        """asked: what was found of other tribunals, since many may sit in many."""
        if name not in asked:
            spec = self._specs[name]
            problem = _cannot_sit(spec, await self._absent(spec, asked))
            asked[name] = problem[1] if problem else None
        return asked[name]

    def _terms(self, ask: TribunalAsk, spec: TribunalSpec) -> Terms:
        return Terms(
            ask.messages, spec, wording_of(spec), self._models, TokenRates(), seed=ask.seed, max_tokens=ask.max_tokens,
            priority=ask.priority, deltas=ask.deltas, contexts=self._known,
        )  # fmt: skip

    def _spec(self, ask: TribunalAsk) -> tuple[str, TribunalSpec]:
        name = ask.tribunal or (DEFAULT if ask.config is None else None)
        if name is None:
            return INLINE, _validated(ask.config or {})
        if name not in self._specs:
            there = f"there are {', '.join(self.names)}" if self._specs else "the profile has none"
            raise BadRequest(f"tribunal: there is no tribunal {name[:64]!r}; {there}.", "tribunal")
        spec = self._specs[name]
        return (name, spec) if not ask.config else (name, _validated(overlaid(spec, ask.config)))

    def _check_members(self, name: str, spec: TribunalSpec, where: str) -> None:
        for place, member in _seats(spec):
            inner = tribunal_name(member.model)
            if (inner is None and member.model not in self._known) or (inner is not None and inner not in self._specs):
                known = ", ".join(self._known)
                raise BadRequest(
                    f"{place}: there is no model {member.model[:96]!r} that chats; there are {known}.",
                    f"{where}.{place}.model" if where == "config" else where,
                )
        if way := loop(None if name == INLINE else name, spec, self._specs):
            raise BadRequest(f"members: the tribunal asks itself: {' -> '.join(way)}.", f"{where}.members")

    def _check_budget(self, ask: TribunalAsk, spec: TribunalSpec) -> None:
        budget = spec.stop.budget_tokens
        if budget is None:
            return
        prompt = TokenRates().estimate(spec.members[0].model, ask.messages)
        least = min(LEAST_ANSWER, ask.max_tokens or LEAST_ANSWER, spec.max_tokens)
        if budget < prompt + least:
            raise BadRequest(
                f"stop.budget_tokens: {budget} tokens do not pay for one draft: the question has about {prompt}, "
                f"an answer at least {least}.",
                "config.stop.budget_tokens",
            )

    async def _absent(self, spec: TribunalSpec, asked: dict[str, str | None]) -> dict[str, str]:
        """Who does not answer now, by label, and why."""
        reasons = {member.label: await self._away(member, asked) for _, member in _seats(spec)}
        return {label: reason for label, reason in reasons.items() if reason}

    async def _away(self, member: Member, asked: dict[str, str | None]) -> str | None:
        inner = tribunal_name(member.model)
        if inner is not None:
            return await self._missing(inner, asked)
        try:
            status = await self._status(member.model)
        except ServingError as error:
            return error.message
        if status.state.answers:
            return None
        return f"{member.model} is {status.state.value}" + (f": {status.reason}" if status.reason else "")


def _cannot_sit(spec: TribunalSpec, absent: Mapping[str, str]) -> tuple[str, str] | None:
    """The field and the reason, if the chair or too many members are away."""
    asked_alone = spec.strategy in ("single", "best_of_n", "self_consistency", "refine")
    chair = spec.chair_member.label
    if chair in absent and (spec.chair is not None or asked_alone):
        return "chair", f"The chair does not answer: {absent[chair]}"
    there = sum(member.label not in absent for member in spec.members)
    if there < spec.needed and not asked_alone:
        missing = "; ".join(absent[member.label] for member in spec.members if member.label in absent)
        return "members", f"Only {there} of at least {spec.needed} members answer: {missing}"
    return None


def _seats(spec: TribunalSpec) -> list[tuple[str, Member]]:
    """Everyone with the field that names them."""
    seats = [(f"members.{index}", member) for index, member in enumerate(spec.members)]
    return seats if spec.chair is None else [*seats, ("chair", spec.chair)]


def overlaid(spec: TribunalSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's keys with `config`'s in their place; `stop` key by key."""
    base = spec.model_dump(exclude_unset=True)
    stop = config.get("stop")
    merged = {**base, **config}
    if isinstance(stop, Mapping) and isinstance(base.get("stop"), dict):
        merged["stop"] = {**base["stop"], **stop}
    return merged


def _validated(config: Mapping[str, Any]) -> TribunalSpec:
    try:
        return TribunalSpec.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(("config", *(str(part) for part in first["loc"])))
        message = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{place[:128]}: {message}", place[:128]) from None


def bounded(spec: TribunalSpec, budget_tokens: int | None) -> TribunalSpec:
    """The spec with a budget of at most so many tokens."""
    if budget_tokens is None:
        return spec
    least = min(budget_tokens, spec.stop.budget_tokens or budget_tokens)
    return spec.model_copy(update={"stop": spec.stop.model_copy(update={"budget_tokens": least})})
