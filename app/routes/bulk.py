"""POST /bulk: many items, each with its own model and parameters, behind the interactive requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access.items import Answered
from app.body import JSON, NDJSON, content_type, validate
from app.bulk import BulkJob, BulkLine, Runner, in_order, run_bulk
from app.bulk_gates import Gates
from app.errors import UNEXPECTED, problem_of
from app.middleware import log
from app.openapi import BULK
from app.services import Services
from app.streaming import Streamed, line
from app.telemetry import Telemetry
from app.wire import Answer, BulkItem, BulkLineReply, BulkRequest, BulkSummary, ErrorDetail
from deployments.chat import ChatRequest
from deployments.errors import BadRequest, ServingError
from deployments.strict_json import as_object, parse_json

ITEMS_PER_BREATH = 100
"""Items validated before other requests get their turn."""


@dataclass(frozen=True)
class Call:
    """A bulk request before its items are looked at; an item that was not even JSON is its error."""

    items: Sequence[object]
    defaults: dict[str, Any] = field(default_factory=dict)
    stream: bool = False


@dataclass
class Plan:
    """What is to be run, what was refused at once, and the tokens that it may take."""

    jobs: list[BulkJob] = field(default_factory=list)
    tokens: int = 0
    refused: list[BulkLine] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)


class BulkRoutes:
    """All bulk calls of this process share the gates."""

    def __init__(self, services: Services, telemetry: Telemetry) -> None:
        self.services, self.telemetry = services, telemetry
        limits = services.limits.bulk
        self.runner = Runner(services.chat_model, Gates(limits.max_in_flight, limits.in_flight), limits.deadline_s)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Corral"])
        router.add_api_route("/bulk", self.bulk, methods=["POST"], **BULK)
        return router

    async def bulk(self, request: Request) -> Response:
        call = await read_call(request)
        if not 1 <= len(call.items) <= self.services.limits.bulk.max_items:
            limit = self.services.limits.bulk.max_items
            raise BadRequest(f"items: 1 to {limit} are allowed in one call, got {len(call.items)}.", "items")
        plan = await self._plan(call)
        await self.services.item_quota.reserve(len(plan.jobs), plan.tokens)
        if call.stream or NDJSON in request.headers.get("accept", ""):
            return Streamed(self._ndjson(plan), NDJSON)
        return Streamed(self._json(plan), JSON)

    async def _plan(self, call: Call) -> Plan:
        plan = Plan()
        for index, item in enumerate(call.items):
            if index % ITEMS_PER_BREATH == 0:
                await asyncio.sleep(0)
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                plan.ids[index] = item["id"][:256].encode(errors="replace").decode()
            try:
                plan.jobs.append(self._job(index, item, call.defaults))
                plan.tokens += self._tokens(plan.jobs[-1])
            except ServingError as error:
                plan.refused.append(BulkLine(index, error=error))
        return plan

    def _tokens(self, job: BulkJob) -> int:
        """That this item may take."""
        asked = job.request
        return self.services.estimate.tokens(job.model, _text_bytes(asked), asked.params.get("max_tokens"))

    def _job(self, index: int, item: object, defaults: dict[str, Any]) -> BulkJob:
        if isinstance(item, BadRequest):
            raise item
        asked = validate(BulkItem, {**defaults, **as_object(item)})
        lane = self.services.base(asked.model)
        return BulkJob(index, asked.model, lane, asked.to_chat(self.services.limits.bulk.priority))

    async def _ndjson(self, plan: Plan) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._lines(plan)) as lines:
            async for done in lines:
                yield line(self._reply(done, plan))

    async def _json(self, plan: Plan) -> AsyncGenerator[bytes, None]:
        total = Summing()
        before = b'{"object":"bulk","items":['
        async with aclosing(self._lines(plan)) as lines:
            async for done in in_order(lines):
                total.add(done)
                yield before + line(self._reply(done, plan)).rstrip()
                before = b",\n"
        yield b'],"summary":' + total.summary().model_dump_json().encode() + b"}"

    async def _lines(self, plan: Plan) -> AsyncGenerator[BulkLine, None]:
        for refused in plan.refused:
            yield self._counted(refused)
        answered = Answered(self.services.item_quota)
        try:
            async with aclosing(run_bulk(plan.jobs, self.runner)) as lines:
                async for done in lines:
                    await answered.one()
                    yield self._counted(done)
        finally:
            await answered.tell()

    def _counted(self, done: BulkLine) -> BulkLine:
        problem = problem_of(done.error) if done.error else None
        if problem is UNEXPECTED:
            log.error("a bulk item failed unexpectedly", exc_info=done.error)
        self.telemetry.bulk_items.labels(problem.code if problem else "succeeded").inc()
        return done

    def _reply(self, done: BulkLine, plan: Plan) -> BulkLineReply:
        fields: dict[str, Any] = {"index": done.index}
        if done.index in plan.ids:
            fields["id"] = plan.ids[done.index]
        if done.reply:
            fields["result"] = Answer.of(done.reply)
        else:
            fields["error"] = ErrorDetail(**problem_of(done.error or RuntimeError()).body()["error"])
        return BulkLineReply(**fields)


class Summing:
    """Adds up what became of a call's items."""

    def __init__(self) -> None:
        self.succeeded = self.failed = self.prompt_tokens = self.completion_tokens = 0

    def add(self, done: BulkLine) -> None:
        if done.reply is None:
            self.failed += 1
            return
        self.succeeded += 1
        self.prompt_tokens += done.reply.usage.prompt_tokens
        self.completion_tokens += done.reply.usage.completion_tokens

    def summary(self) -> BulkSummary:
        return BulkSummary(total=self.succeeded + self.failed, **vars(self))


async def read_call(request: Request) -> Call:
    """The call as JSON, or as NDJSON with one item a line."""
    media_type = content_type(request, JSON, NDJSON)
    raw = await request.body()
    if media_type == NDJSON:
        return Call([_item(text) for text in raw.split(b"\n") if text.strip()])
    body = as_object(parse_json(raw))
    outline = {"items": _outline(body["items"])} if "items" in body else {}
    asked = validate(BulkRequest, {**body, **outline})
    defaults = asked.defaults.params() | ({"model": asked.model} if asked.model else {})
    return Call(body["items"], defaults, asked.stream)


def _text_bytes(request: ChatRequest) -> int:
    """Of all messages."""
    return sum(len(text.encode()) for message in request.messages for text in _texts(message["content"]))


def _texts(content: str | list[dict[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _outline(items: object) -> object:
    """Enough of the items to see that they are a list; what they hold is checked one by one."""
    return [None] * min(len(items), 1) if isinstance(items, list) else items


def _item(text: bytes) -> object:
    try:
        return parse_json(text)
    except BadRequest as error:
        return error
