"""OpenAI's paths: the models here, and everything of vLLM's own server under /v1, passed on by the body's `model`.

Behind the edge HAProxy this is the way of what it cannot route itself; without an edge it is the only way.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import JSONResponse, Response

from app.body import read_object
from app.errors import NoSuchPath
from app.middleware import request_id
from app.openapi import ERRORS, MODEL_CARD, MODEL_LIST, PASSTHROUGH
from app.relay import Outgoing, Relay, model_named, outgoing_headers
from app.routes.tribunal_chat import chat
from app.services import Services
from deployments.errors import BadRequest
from deployments.status import ModelStatus
from deployments.strict_json import check_values
from deployments.tribunal.config import PREFIX

SAFE_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
CHAT = "/v1/chat/completions"
TOKENIZER = {"/v1/tokenize": "/tokenize", "/v1/detokenize": "/detokenize"}


class OpenAIRoutes:
    """Routes under /v1, and /tokenize and /detokenize."""

    def __init__(self, services: Services) -> None:
        self.services = services
        limits = services.limits
        self.timeout = httpx.Timeout(limits.idle_timeout_s, connect=limits.connect_timeout_s, write=60)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["OpenAI"])
        add = router.add_api_route
        add("/v1/models", self.models, summary="All models with their state", responses={200: MODEL_LIST, **ERRORS})
        add("/v1/models/{model}", self.model, summary="One model with its state", responses={200: MODEL_CARD, **ERRORS})
        virtual = f"/v1/models/{PREFIX}/{{name}}"
        add(virtual, self.virtual, summary="One tribunal with its state", responses={200: MODEL_CARD, **ERRORS})
        for documented in PASSTHROUGH:
            add(documented.path, self.pass_on, methods=["POST"], **documented.route_options())
        stored = "/v1/responses/{response_id}"
        add(stored, self.find, summary="A stored response", responses=ERRORS)
        add(stored, self.find, methods=["DELETE"], summary="Delete a stored response", responses=ERRORS)
        add(f"{stored}/cancel", self.find, methods=["POST"], summary="Cancel a background response", responses=ERRORS)
        add("/v1/{path:path}", self.pass_on, methods=["POST"], include_in_schema=False)
        add("/v1/{path:path}", self.nothing, methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
        return router

    async def models(self) -> Response:
        statuses = await self.services.herd.statuses()
        known = [(model, statuses.get(base)) for model, base in self.services.base_of.items()]
        cards = [self._card(model, status or await self.services.status(model)) for model, status in known]
        cards += [self._card(status.id, status) for status in await self.services.virtual_statuses()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, model: str) -> Response:
        status = await self.services.status(model)
        virtual = self.services.tribunal(model) is not None
        return JSONResponse(self._card(status.id if virtual else model, status))

    async def virtual(self, name: str) -> Response:
        return await self.model(f"{PREFIX}/{name}")

    async def pass_on(self, request: Request) -> Response:
        body = await read_object(request)
        check_values(body)
        model = model_named(body)
        if self.services.tribunal(model) is not None:
            return await self._ask_tribunal(request, model, body)
        base = await self.services.answering(model)
        return Relay(self.services.upstream, await self._outgoing(request), [base], self.timeout)

    async def _ask_tribunal(self, request: Request, model: str, body: dict[str, Any]) -> Response:
        if request.url.path != CHAT:
            raise BadRequest(
                f"model: tribunals answer {CHAT} and /v1/tribunal, not {request.url.path[:64]!r}.", "model"
            )
        chat_id = f"chatcmpl-{request_id(request.scope)}"
        return await chat(await self.services.chat_model(model), body, chat_id, self.services.limits.alive_s)

    async def nothing(self, request: Request) -> Response:
        """What is no path of ours; the models' other paths are for POST only."""
        known = request.url.path in {documented.path for documented in PASSTHROUGH}
        raise HTTPException(405, headers={"allow": "POST"}) if known else HTTPException(404)

    async def find(self, request: Request, response_id: str, model: str | None = None) -> Response:
        """`response_id` does not name its model, so every answering one is asked, or the one in ?model=."""
        outgoing = await self._outgoing(request)
        if model is not None and self.services.tribunal(model) is not None:
            raise BadRequest("model: tribunals store no responses.", "model")
        if model is not None:
            bases = [await self.services.answering(model)]
        else:
            statuses = await self.services.herd.statuses()
            bases = [base for base, status in statuses.items() if status.state.answers]
        return Relay(self.services.upstream, outgoing, bases, self.timeout)

    async def _outgoing(self, request: Request) -> Outgoing:
        path = TOKENIZER.get(request.url.path, request.url.path)
        if not SAFE_PATH.fullmatch(path):
            raise NoSuchPath(f"No such path: {path[:128]!r}.")
        headers = outgoing_headers(request.headers, request_id(request.scope))
        query = request.scope.get("query_string", b"")
        return Outgoing(request.method, path, query, headers, await request.body())

    def _card(self, model: str, status: ModelStatus) -> dict[str, Any]:
        card = {"id": model, "object": "model", "created": self.services.created, "owned_by": "corral"}
        state = {key: value for key, value in status.to_json().items() if key != "id"}
        adapter = {} if model == status.id else {"root": status.id, "parent": status.id}
        chats = model in self.services.models or self.services.tribunal(model) is not None
        task = "generate" if chats else "embed"
        return {**card, "task": task, **state, **adapter}
