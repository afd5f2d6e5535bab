"""Who is measured: the service and the endpoint beside it, the models that they have, and the key of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import typer

from app.access.mine import own_certificate, own_key
from app.reach import base_url
from app.talk import RefusedError, UnreachableError
from deployments.retrieval.service import collection_of
from deployments.tribunal.config import tribunal_name
from loadtests.client.endpoint import Door, EndpointError, address, look, open_door, server_name
from loadtests.records import ASK_SEVERAL, Kind, Point, Side

OURS, OURS_ELSEWHERE, OTHER = "corral", "endpoint", "other"
ANSWERS = ("ready", "idle", "starting")


@dataclass(frozen=True)
class Where:
    """An endpoint as it was named. The key is this endpoint's own: it is sent to no other.

    certificate: the file that an https address is trusted by; empty where the authorities say so.
    """

    url: str
    option: str
    name: str | None = None
    key: str | None = field(default=None, repr=False)
    gpus: float | None = None
    certificate: str = ""

    def open(self) -> aiohttp.ClientSession:
        return open_door(self.key, self.certificate)


@dataclass(frozen=True)
class Card:
    """What /v1/models says of a model; OpenAI's own list has the id alone."""

    id: str
    task: str = "generate"
    state: str = "ready"
    reason: str = ""

    @property
    def kind(self) -> Kind:
        """The kind that asks this model and no other one, CHAT for models themselves."""
        if tribunal_name(self.id):
            return Kind.TRIBUNAL
        return Kind.RAG if collection_of(self.id) else Kind.CHAT


def ours(name: str, url: str | None, gpus: float | None) -> Where:
    """The service to be measured. Raises NotRunningError where none of that name runs."""
    option = "--url" if url else "--name"
    at = _address(base_url(name, url), option)
    return Where(at, option, None, own_key(name, url), gpus, own_certificate(name, url))


def other(url: str, name: str | None, key_variable: str | None, gpus: float | None) -> Where:
    """The endpoint beside it. Its key is in a variable of its own, or it gets none."""
    key = os.environ.get(key_variable) if key_variable else None
    if key_variable and not key:
        raise typer.BadParameter(f"the environment has no {key_variable}", param_hint="--against-key-env")
    return Where(_address(url, "--against"), "--against", name, key, gpus)


def _address(url: str, option: str) -> str:
    try:
        return address(url)
    except EndpointError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


async def cards_of(where: Where) -> dict[str, Card]:
    """The models that an endpoint lists; empty if it has no list. Raises UnreachableError and RefusedError."""
    try:
        async with where.open() as session:
            said = await Door(session, where.url).get("/v1/models")
    except EndpointError as error:
        raise UnreachableError(str(error)) from None
    if said.status in (401, 403):
        raise RefusedError(f"{where.url} refuses {'the key' if where.key else 'to answer without a key'}")
    if said.status >= 500:
        raise UnreachableError(f"{where.url} is there but answers {said.status} to /v1/models")
    listed = said.body.get("data") if said.status == 200 else None
    found = [_card(each) for each in (listed if isinstance(listed, list) else [])]
    return {card.id: card for card in found if card is not None}


async def server_of(where: Where) -> str:
    """Which server answers there, with its version where it tells one. Raises UnreachableError."""
    try:
        async with where.open() as session:
            return await server_name(Door(session, where.url))
    except EndpointError as error:
        raise UnreachableError(str(error)) from None


def _card(said: Any) -> Card | None:
    if not isinstance(said, dict) or not isinstance(said.get("id"), str):
        return None
    told = {name: str(said[name]) for name in ("task", "state", "reason") if said.get(name)}
    return Card(said["id"], **told)


def chosen(
    cards: Sequence[Mapping[str, Card]], wheres: Sequence[Where], names: Sequence[str] | None, kinds: Iterable[Kind]
) -> dict[Kind, list[str]]:
    """The models of each kind. Those that were named, which every endpoint must have; else all that all of them have.

    Raises UnreachableError for a named model that is known not to answer.
    """
    if names is None and not cards[0]:
        raise typer.BadParameter(f"{wheres[0].url} lists no models: name them", param_hint="--models")
    kinds = tuple(kinds)
    if names is None:
        names = [each for each, card in cards[0].items() if _asks(card) and all(each in has for has in cards if has)]
    else:
        _require(cards, wheres, names)
        _require_kinds([_card_of(each, cards) for each in names], kinds)
    asked = {kind: [each for each in names if _suits(_card_of(each, cards), kind)] for kind in kinds}
    for kind, models in asked.items():
        if not models:
            raise typer.BadParameter(_nobody(kind, cards), param_hint="--kinds")
    return asked


def _asks(card: Card) -> bool:
    return card.task == "generate" and card.state in ANSWERS


def _card_of(name: str, cards: Sequence[Mapping[str, Card]]) -> Card:
    """As the first endpoint lists it that has a list."""
    return next((has[name] for has in cards if name in has), Card(name))


def _suits(card: Card, kind: Kind) -> bool:
    return card.task == "generate" and card.kind is (kind if kind in ASK_SEVERAL else Kind.CHAT)


def _require_kinds(asked: Iterable[Card], kinds: Sequence[Kind]) -> None:
    """BadParameter for a named model that none of the kinds asks."""
    for card in asked:
        if card.task != "generate":
            raise typer.BadParameter(
                f"{card.id!r} does not chat (its task is {card.task}): leave it out", param_hint="--models"
            )
        if not any(_suits(card, kind) for kind in kinds):
            fit = " or ".join(kind for kind in Kind if _suits(card, kind))
            raise typer.BadParameter(
                f"{card.id!r} needs --kinds {fit}, and asked is {', '.join(kinds)}: add it, or leave the model out",
                param_hint="--models",
            )


def _require(cards: Sequence[Mapping[str, Card]], wheres: Sequence[Where], names: Sequence[str]) -> None:
    for has, where in zip(cards, wheres, strict=True):
        for name in names if has else ():
            if name not in has:
                valid = ", ".join(each for each, card in has.items() if card.task == "generate") or "none"
                option = "--models" if where.option in ("--name", "--url") else where.option
                raise typer.BadParameter(f"{where.url} has no model {name!r}; it has {valid}", param_hint=option)
            if has[name].state not in ANSWERS:
                raise UnreachableError(f"{name} does not answer: {has[name].reason or has[name].state}")


def _nobody(kind: Kind, cards: Sequence[Mapping[str, Card]]) -> str:
    fit = [each for each, card in cards[0].items() if _suits(card, kind)]
    beside = " that all endpoints have" if len(cards) > 1 else ""
    return f"{kind} has no model to ask{beside}; the service has {', '.join(fit) or 'none'} for it"


def require_one_model(where: Where, points: Iterable[Point]) -> None:
    """BadParameter where one number of GPUs was typed for several models: which has how many is not said."""
    models = dict.fromkeys(point.model for point in points if point.kind not in ASK_SEVERAL)
    if where.gpus and len(models) > 1:
        beside = where.option == "--against"
        raise typer.BadParameter(
            f"{where.gpus:g} GPUs are of one model, and several are measured ({', '.join(models)}): choose one with "
            f"--models, or leave the GPUs out{'' if beside else '; a profile tells those of each model'}",
            param_hint="--against-gpus" if beside else "--gpus",
        )


async def side_of(where: Where, models: Sequence[str], gpus_of: Mapping[str, float] | None = None) -> Side:
    """The endpoint as a run has it; each of the chat `models` is asked one token. Raises UnreachableError.

    `gpus_of`: the GPUs of each model; a number that was typed counts instead.
    """
    try:
        found = await look(
            where.url, key=where.key, name=where.name or OTHER, models=models, certificate=where.certificate
        )
    except EndpointError as error:
        raise UnreachableError(str(error)) from None
    name = where.name or _name(where, found.server)
    known = dict(gpus_of or {}) if where.gpus is None else {}
    return found.model_copy(update={"name": name, "gpus": where.gpus, "gpus_of": known})


def _name(where: Where, server: str) -> str:
    if where.option == "--against":
        return "vllm" if server.startswith("vLLM") else OTHER
    return OURS if where.option == "--name" or server.startswith("Corral") else OURS_ELSEWHERE
