"""What the keeper answers over HTTP, to the service's own processes alone."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.counts import FIELDS
from app.access.estimate import Estimate
from app.access.keeper import Answer, Asked, Keeper
from app.errors import problem_of
from deployments.errors import BadRequest, Forbidden, OverQuota
from deployments.principal import HEADER, Principal
from deployments.secret import Door, OnlyFromInside

ADMIT = "/admit"
LOOKS_PER_S = 10
"""So often each key may ask for usage."""


async def no_outlook() -> str:
    return ""


def create_keeper_app(keeper: Keeper, secret: str, outlook: Callable[[], Awaitable[str]] = no_outlook) -> ASGIApp:
    """What the keeper answers, to the service's own processes alone. outlook: further metrics."""
    routes = KeeperRoutes(keeper, outlook)
    others = Starlette(
        routes=[
            Route("/used", routes.used, methods=["POST"]),
            Route("/items", routes.items, methods=["POST"]),
            Route("/items/done", routes.items_done, methods=["POST"]),
            Route("/models", routes.models, methods=["POST"]),
            Route("/metrics", routes.metrics),
            Route("/v1/usage", routes.usage),
        ]
    )
    return OnlyFromInside(Admission(keeper, others), Door(secret))


class Admission:
    """The edge's question before each request, past Starlette: the way through it costs more than the decision.

    others: has everything else.
    """

    def __init__(self, keeper: Keeper, others: ASGIApp) -> None:
        self._keeper, self._others = keeper, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != ADMIT or scope["method"] != "GET":
            await self._others(scope, receive, send)
            return
        told = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = Asked(
            told.get(b"x-request", ""), told.get(b"x-key", ""), told.get(b"x-method", ""), told.get(b"x-path", ""),
            told.get(b"x-model"), _number(told.get(b"x-body-bytes")) or 0, _number(told.get(b"x-answer-tokens")),
            _number(told.get(b"x-answers")) or 1,
        )  # fmt: skip
        with self._keeper.tally.admission.time():
            answer = self._keeper.admit(asked)
        await _response(answer)(scope, receive, send)


class KeeperRoutes:
    """Keeper over HTTP."""

    def __init__(self, keeper: Keeper, outlook: Callable[[], Awaitable[str]]) -> None:
        self._keeper, self._outlook = keeper, outlook
        self._second, self._looks = 0, Counter[str]()

    async def used(self, request: Request) -> Response:
        told = await request.json()
        self._keeper.used(str(told["batch"]), told["events"])
        return Response(status_code=204)

    async def items(self, request: Request) -> Response:
        told = await request.json()
        items, tokens = int(told["items"]), int(told["tokens"])
        return _response(self._keeper.admit_items(str(told["request"]), str(told["key"]), items, tokens))

    async def items_done(self, request: Request) -> Response:
        told = await request.json()
        self._keeper.items_done(str(told["request"]), str(told["key"]), int(told["count"]))
        return Response(status_code=204)

    async def models(self, request: Request) -> Response:
        """Other models than before, after `corral apply`; what is counted stays."""
        told = await request.json()
        self._keeper.estimate = Estimate({str(key): int(tokens) for key, tokens in told["context_tokens"].items()})
        return Response(status_code=204)

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._keeper.tally.exposition() + await self._outlook())

    async def usage(self, request: Request) -> Response:
        """Usage by day, key and model: of the key that asks, or with admin of all."""
        try:
            told = request.headers.get(HEADER)
            principal = Principal() if told is None else Principal.from_header(told)
            if not self._may_look(principal.key):
                raise OverQuota(f"Usage may be asked for {LOOKS_PER_S} times a second; try again.", 1, "quota_rate")
            return JSONResponse(usage(self._keeper, principal, dict(request.query_params)))
        except (BadRequest, Forbidden, OverQuota) as error:
            return problem_of(error).response()

    def _may_look(self, key: str) -> bool:
        """Reading the ledger takes a while, in which nobody is admitted."""
        second = int(self._keeper.local())
        if second != self._second:
            self._second, self._looks = second, Counter()
        self._looks[key] += 1
        return self._looks[key] <= LOOKS_PER_S


def usage(keeper: Keeper, principal: Principal, query: dict[str, str]) -> dict[str, Any]:
    """What GET /v1/usage tells. Raises BadRequest, Forbidden."""
    if unknown := query.keys() - {"since", "until", "key", "by"}:
        raise BadRequest(f"{min(unknown)}: unknown; there are since, until, key and by.", min(unknown)[:64])
    key = query.get("key")
    if not principal.may("admin"):
        if key not in (None, principal.key):
            raise Forbidden("This API key may see its own usage only; that of others needs the scope admin.", "key")
        key = principal.key
    words = query.get("by", "day,key,model").split(",")
    if strays := set(words) - set(FIELDS):
        raise BadRequest(f"by: {min(strays)[:32]!r} is none of {', '.join(FIELDS)}.", "by")
    by = [each for each in FIELDS if each in words]
    names = keeper.names()
    rows = keeper.ledger.usage(_day(query, "since"), _day(query, "until"), key, by)
    return {"object": "usage", "data": [_named(row.to_json(), names) for row in rows]}


def _named(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {**row, "name": names[row["key"]]} if row.get("key") in names else row


def _day(query: dict[str, str], name: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(query[name]) if name in query else None
    except ValueError:
        raise BadRequest(f"{name}: {query[name][:32]!r} is no day; write it as 2026-11-21.", name) from None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _response(answer: Answer) -> Response:
    headers = {"x-corral-answer": "1", **answer.headers}
    return Response(answer.body, answer.status, headers, "application/json" if answer.body else None)
