"""OpenAI's paths: the models here, and everything of vLLM's own server under /v1, passed on by the body's `model`.

Behind the edge HAProxy this is the way of what it cannot route itself; without an edge it is the only way.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import JSONResponse, Response

from app.access.guards import may_ask, require_model
from app.body import read_object
from app.errors import NoSuchPath
from app.middleware import request_id
from app.openapi import ERRORS, MODEL_CARD, MODEL_LIST, PASSTHROUGH, Responses
from app.relay import Outgoing, Relay, model_named, outgoing_headers
from app.routes.embeddings import embed
from app.routes.virtual_chat import chat
from app.services import Services
from deployments.errors import BadRequest
from deployments.retrieval.service import PREFIX as RAG
from deployments.status import ModelStatus
from deployments.strict_json import check_values
from deployments.tribunal.config import PREFIX

SAFE_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
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
        card: Responses = {200: MODEL_CARD, **ERRORS}
        add(f"/v1/models/{PREFIX}/{{name}}", self.tribunal, summary="One tribunal with its state", responses=card)
        add(f"/v1/models/{RAG}/{{name}}", self.collection, summary="One collection with its state", responses=card)
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
        if (embedder := self.services.embedder) is not None:
            cards.append(self._card(embedder, await self.services.status(embedder)))
        virtual = [*await self.services.virtual_statuses(), *await self.services.collection_statuses()]
        cards += [self._card(status.id, status) for status in virtual]
        return JSONResponse({"object": "list", "data": [card for card in cards if may_ask(card["id"])]})

    async def model(self, model: str) -> Response:
        status = await self.services.status(model)
        virtual = self.services.virtual(model)
        return JSONResponse(self._card(status.id if virtual else model, status))

    async def tribunal(self, name: str) -> Response:
        return await self.model(f"{PREFIX}/{name}")

    async def collection(self, name: str) -> Response:
        return await self.model(f"{RAG}/{name}")

    async def pass_on(self, request: Request) -> Response:
        body = await read_object(request)
        check_values(body)
        model = model_named(body)
        if model == self.services.embedder and model not in self.services.base_of:
            return await self._embed(request, body)
        if self.services.virtual(model):
            return await self._ask_virtual(request, model, body)
        base = await self.services.answering(model)
        return Relay(self.services.upstream, await self._outgoing(request), [base], self.timeout)

    async def _embed(self, request: Request, body: dict[str, Any]) -> Response:
        require_model(str(self.services.embedder))
        if request.url.path != EMBEDDINGS:
            raise BadRequest(f"model: {self.services.embedder} answers {EMBEDDINGS} only.", "model")
        return await embed(self.services.retrieval, body)

    async def _ask_virtual(self, request: Request, model: str, body: dict[str, Any]) -> Response:
        if request.url.path != CHAT:
            whose, own = (
                ("collections", "/v1/rag") if self.services.collection(model) else ("tribunals", "/v1/tribunal")
            )
            raise BadRequest(f"model: {whose} answer {CHAT} and {own}, not {request.url.path[:64]!r}.", "model")
        chat_id = f"chatcmpl-{request_id(request.scope)}"
        return await chat(await self.services.chat_model(model), body, chat_id, self.services.limits.alive_s)

    async def nothing(self, request: Request) -> Response:
        """What is no path of ours; the models' other paths are for POST only."""
        known = request.url.path in {documented.path for documented in PASSTHROUGH}
        raise HTTPException(405, headers={"allow": "POST"}) if known else HTTPException(404)

    async def find(self, request: Request, response_id: str, model: str | None = None) -> Response:
        """`response_id` does not name its model, so every one that is awake is asked, or the one in ?model=."""
        outgoing = await self._outgoing(request)
        if model is not None and self.services.virtual(model):
            raise BadRequest("model: tribunals and collections store no responses.", "model")
        if model is not None:
            bases = [await self.services.answering(model)]
        else:
            statuses = await self.services.herd.statuses()
            # One that sleeps has kept nothing, and would be woken.
            awake = (base for base, status in statuses.items() if status.state.answers and status.replicas)
            bases = [base for base in awake if may_ask(base)]
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
        embeds = model == self.services.embedder and model not in self.services.base_of
        chats = not embeds and (model in self.services.models or self.services.virtual(model))
        task = "generate" if chats else "embed"
        return {**card, "task": task, **state, **adapter}
