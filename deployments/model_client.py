"""ModelClient: ChatModel over the DeploymentHandle of a model. Imports neither vLLM nor torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from ray.serve.exceptions import RequestCancelledError
from ray.serve.handle import DeploymentHandle

from deployments.chat import ChatDelta, ChatReply, ChatRequest, Usage
from deployments.errors import EngineFailed, UnknownModel
from deployments.generation import Generation, GenerationEnded
from deployments.handle_errors import translated
from deployments.principal import CURRENT, FIELD
from deployments.second_try import LOST, Ask, any_replica, in_two_tries

T = TypeVar("T")


class ModelClient:
    """One served id: a base model or one of its adapters.

    The handle is resolved at the first call, so that a client can be made before the model is deployed. What a lost
    replica had not answered is asked once more, of another one.
    """

    def __init__(
        self, base: str, model_id: str | None = None, retry_after_s: int = 5, deployed_id: str | None = None
    ) -> None:
        self._base = base
        self._model_id = model_id or base
        self._retry_after_s = retry_after_s
        self._generation = Generation(base, deployed_id or base)
        self._looking: asyncio.Task[bool] | None = None

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def base(self) -> str:
        """Id of the base model."""
        return self._base

    def move(self, deployed_id: str, retry_after_s: int) -> None:
        """Send what comes from now on to another generation of the model.

        What is under way stays where it is, and what waits for the one before comes after it when that one is gone.
        """
        self._retry_after_s = retry_after_s
        if deployed_id != self._generation.deployed_id or self._generation.left:
            self._generation.leave()
            self._generation = Generation(self._base, deployed_id)

    def close(self) -> None:
        """The model is removed: what is under way may go on as long as it is there."""
        self._generation.leave()

    async def chat(self, request: ChatRequest) -> ChatReply:
        with self._translating():
            async with aclosing(self._tried(lambda: self._whole(request))) as replies:
                return await anext(replies)

    async def chat_many(
        self, requests: Sequence[ChatRequest]
    ) -> AsyncGenerator[list[tuple[int, ChatReply | Exception]], None]:
        left = dict(enumerate(requests))
        with self._translating():
            async with aclosing(self._tried(lambda: self._many(left), resumes=True)) as answers:
                async for some in answers:
                    yield some

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatDelta]:
        with self._translating():
            async with aclosing(self._tried(lambda: self._streamed(request))) as deltas:
                async for delta in deltas:
                    yield delta

    def _tried(self, ask: Ask[T], resumes: bool = False) -> AsyncGenerator[T, None]:
        return in_two_tries(ask, self._another, self._model_id, resumes)

    async def _another(self) -> bool:
        """Whether a replica answers; all calls that were lost together look for it together."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(any_replica(self._resolved))
        return await asyncio.shield(self._looking)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise translated(error, self._model_id, self._retry_after_s) from error

    async def _whole(self, request: ChatRequest) -> AsyncGenerator[ChatReply, None]:
        with self._called("corral_chat", self._body(request)) as response:
            answer = await response
        yield _reply(answer, self._model_id)

    async def _many(
        self, left: dict[int, ChatRequest]
    ) -> AsyncGenerator[list[tuple[int, ChatReply | Exception]], None]:
        """Answers to these; who has one is left no longer."""
        asked = list(left)
        bodies = [self._body(left[index]) for index in asked]
        async with aclosing(self._received("corral_chat_many", bodies)) as lists:
            async for some in lists:
                told = [(asked[place], self._finished(answer)) for place, answer in some]
                for index, _ in told:
                    del left[index]
                yield told
                if not left:  # nothing that breaks now has lost anything
                    return

    def _finished(self, answer: Any) -> ChatReply | Exception:
        if isinstance(answer, asyncio.CancelledError):
            return EngineFailed(f"{self._model_id} broke off while answering; the request can be sent again.")
        if isinstance(answer, Exception):
            return translated(answer, self._model_id, self._retry_after_s)
        return _reply(answer, self._model_id)

    async def _streamed(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        async with aclosing(self._received("corral_stream", self._body(request))) as lists:
            async for chunks in lists:
                for chunk in chunks:
                    yield _delta(chunk)

    async def _received(self, method: str, argument: Any) -> AsyncGenerator[Any, None]:
        """What a method of the replica yields; whoever stops to listen ends it there."""
        with self._called(method, argument, stream=True) as response:
            async for received in response:
                yield received

    @contextmanager
    def _called(self, method: str, argument: Any, *, stream: bool = False) -> Iterator[Any]:
        """A call to a replica; who stops to listen ends it there, and a replica that is only out of reach may go on."""
        generation, handle = self._generation, self._resolved()
        response = getattr(handle.options(stream=True) if stream else handle, method).remote(argument)
        try:
            with generation.call(response):
                yield response
        except RequestCancelledError as error:
            raise GenerationEnded(self._model_id) from error
        except (asyncio.CancelledError, GeneratorExit, *LOST):
            response.cancel()
            raise

    async def engine_metrics(self, timeout_s: float = 2) -> dict[str, str]:
        """Id of every replica of the base model that tells -> its Prometheus text."""
        response = self._resolved().broadcast("engine_metrics")
        told = await response.results_async(timeout_s=timeout_s, return_exceptions=True)
        return dict(each for each in told if isinstance(each, tuple))

    def _resolved(self) -> DeploymentHandle[Any]:
        if self._generation.ended:
            raise UnknownModel(self._model_id)
        try:
            return self._generation.handle
        except Exception as error:
            raise UnknownModel(self._model_id) from error

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        return {
            **request.params,
            "model": self._model_id,
            "messages": list(request.messages),
            "priority": request.priority,
            FIELD: CURRENT.get().to_json(),
        }


def _reply(answer: dict[str, Any], model: str) -> ChatReply:
    choice = answer["choices"][0]
    return ChatReply(
        text=choice["message"].get("content") or "",
        model=model,
        finish_reason=choice.get("finish_reason") or "stop",
        usage=_usage(answer.get("usage")) or Usage(),
        tool_calls=tuple(choice["message"].get("tool_calls") or ()),
    )


def _delta(chunk: dict[str, Any]) -> ChatDelta:
    choice = chunk["choices"][0] if chunk.get("choices") else {}
    return ChatDelta(
        text=choice.get("delta", {}).get("content") or "",
        finish_reason=choice.get("finish_reason"),
        usage=_usage(chunk.get("usage")),
    )


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    return Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens") or 0)
