"""POST /generate: one prompt or message list, one model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.body import read_object, validate
from app.middleware import request_id
from app.openapi import GENERATE
from app.services import Services
from app.streaming import DONE, SSE, Streamed, closing, event, problem_event, with_last_word
from app.wire import Answer, GenerateEvent, GenerateReply, GenerateRequest, UsageReply
from deployments.chat import ChatDelta, ChatModel, ChatRequest, Usage
from deployments.errors import EngineFailed


class GenerateRoutes:
    """The project's own way to ask one model one thing."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Corral"])
        router.add_api_route("/generate", self.generate, methods=["POST"], **GENERATE)
        return router

    async def generate(self, request: Request) -> Response:
        asked = validate(GenerateRequest, await read_object(request))
        model = await self.services.chat_model(asked.model)
        if asked.stream:
            return Streamed(sse(model, asked.to_chat()), SSE)
        answer = Answer.of(await model.chat(asked.to_chat()))
        reply = GenerateReply(id=f"gen-{request_id(request.scope)}", **answer.model_dump(exclude_unset=True))
        return Response(reply.model_dump_json(exclude_unset=True), media_type="application/json")


def sse(model: ChatModel, request: ChatRequest) -> AsyncGenerator[bytes, None]:
    """Events as the model writes. What fails before the first is raised; later it is the last event, without [DONE]."""
    return with_last_word(_pieces(model, request), model.model_id, problem_event)


async def _pieces(model: ChatModel, request: ChatRequest) -> AsyncGenerator[bytes, None]:
    async with closing(model.stream(request)) as deltas:
        async for piece in _events(deltas):
            yield event(piece)
    yield DONE


async def _events(deltas: AsyncIterator[ChatDelta]) -> AsyncIterator[GenerateEvent]:
    """Pieces of text and reasoning, then how it ended and what it took. Raises EngineFailed if it did not end."""
    finish_reason, usage = None, Usage()
    async for delta in deltas:
        finish_reason, usage = delta.finish_reason or finish_reason, delta.usage or usage
        if delta.reasoning:
            yield GenerateEvent(text="", reasoning_content=delta.reasoning)
        if delta.text:
            yield GenerateEvent(text=delta.text)
    if finish_reason is None:
        raise EngineFailed("The model broke off while answering.")
    yield GenerateEvent(text="", finish_reason=finish_reason, usage=UsageReply.of(usage))
