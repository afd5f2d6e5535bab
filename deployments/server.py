"""The replica of a model: ray.serve.llm's LLMServer with Corral's gate, handle methods and CPU engine.

With models.py the only module that imports ray.serve.llm, which cannot be imported without vLLM.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import openai.types as openai_types
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs import openai_api_models as wire
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve import get_replica_context
from ray.serve.llm.deployment import LLMServer
from starlette.types import ASGIApp

from deployments import warm_engine
from deployments.config import ModelSpec
from deployments.courtesy import Courtesy
from deployments.direct_chat import DirectChat
from deployments.engine_death import EndWithEngine, end_with
from deployments.errors import BadRequest, EngineFailed
from deployments.front import FULL_QUEUE
from deployments.gate import Gate
from deployments.grammars import check_grammars
from deployments.heap import freeze_heap
from deployments.last_words import LastWords
from deployments.many import Finished, finished
from deployments.metering import Used, meter
from deployments.on_behalf import assumed, principal_of
from deployments.principal import CURRENT, FIELD
from deployments.progress import forget_fault, read_fault, record_log_files, write_phase
from deployments.replica_metrics import ReplicaCounts, ReplicaMetrics
from deployments.request_log import start_log
from deployments.scaling_policy import BULK_ITEMS
from deployments.secret import KEEPER_VARIABLE, Door, own_secret
from deployments.short_prompts import render_short_here
from deployments.tracing import TRACES
from deployments.tracing_config import TracesConfig
from deployments.tracing_engine import EngineNotes
from deployments.turns import Turn
from deployments.usage_report import UsageReporter, http_sender
from deployments.vllm_errors import first_fault, serving_error
from deployments.waiting_room import WAITED_S, WaitingRoom, request_cost, turns_of
from deployments.wordless import keep_words_out


class LocalWeights(CallbackBase):  # type: ignore[misc]
    """Skip ray.serve.llm's download step, a task that imports vLLM once more (16 s, 0.7 GB) to fetch nothing.

    vLLM finds local folders and hub ids by itself; only s3://, gs:// and abfss:// sources need the step.
    """

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class CorralEngine(VLLMEngine):  # type: ignore[misc]
    """VLLMEngine that keeps a CPU engine's only worker inside EngineCore.

    vLLM turns the `uni` executor into `mp` on CPU, one more process of 1 GB and one more import of vLLM at
    start, to set OMP's environment. The replica's environment sets it here, so `uni` is given back.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        if config.device_config.device_type == "cpu" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
            parallel.worker_cls = "deployments.lone_worker.LoneWorker"
            if warm_engine.is_running():
                warm_engine.use()
        frontend.lora_modules = _adapters(frontend.lora_modules)
        return arguments, frontend, config


def _adapters(modules: list[Any] | None) -> list[Any] | None:
    """Turn {"name", "path"} dicts, as they come from the profile, into vLLM's own type, where it has not done so."""
    if not modules:
        return None
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    return [LoRAModulePath(**module) if isinstance(module, dict) else module for module in modules]


class CorralServer(LLMServer):  # type: ignore[misc]
    """One replica of one model."""

    async def __init__(  # type: ignore[misc]
        self, llm_config: Any, *, spec: ModelSpec, max_body: int, traces: TracesConfig | None = None
    ) -> None:
        record_log_files()
        write_phase("starting the engine")
        self._spec = spec
        self._max_body = max_body
        self._gate: Gate | None = None
        self._serving: Any = None
        """vLLM's chat layer, where no adapter has to be loaded before it: a tenth cheaper than through LLMServer."""
        self._courtesy = Courtesy(spec.max_sequences)
        self._room = WaitingRoom(turns_of(spec))
        self._reporter: UsageReporter | None = None
        self._own_metrics = ReplicaMetrics(self._counts)
        self._bulk_calls = 0
        self._notes = EngineNotes(embeds=spec.task == "embed")
        start_log(f"model-{spec.id}")
        keep_words_out()
        TRACES.start(traces, "corral-model", model=spec.id)
        await super().__init__(llm_config, engine_cls=CorralEngine)

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Serve calls it at the start, and when replicas.bounds change; the engine is left alone."""
        spec = self._spec.model_copy(update={key: told[key] for key in told if key != "max_body"})
        if (spec, told["max_body"]) != (self._spec, self._max_body):
            self._spec, self._max_body = spec, told["max_body"]
            self._room.bound(turns_of(spec))
            if self._gate:
                self._gate.bound(self._max_body)

    async def under_way(self) -> int:
        """Requests and bulk items that are here, in the engine or before it."""
        return self._courtesy.people + self._courtesy.items + self._courtesy.waiting

    async def _start_engine(self) -> None:
        """Start the engine and report nothing: LLMServer would start a telemetry actor (0.4 GB) here.

        vLLM only says that a process of its own failed; that process logged why.
        """
        forget_fault()
        try:
            await self.engine.start()
            self._meter()
            threading.Thread(target=end_with, args=(self._is_dead,), name="end-with-engine", daemon=True).start()
        except Exception as error:
            if fault := read_fault():
                raise RuntimeError(f"the engine did not start: {fault}") from error
            raise

    def _is_dead(self) -> bool:
        """Whether the engine is."""
        return bool(self.engine._engine_client.engine_core.resources.engine_dead)

    def _meter(self) -> None:
        """Have what the engine does noted, and told to the service's keeper, where there is one."""
        secret, url = own_secret(), os.environ.get(KEEPER_VARIABLE)
        if secret and url:
            self._reporter = UsageReporter(http_sender(url, secret))
        meter(self.engine._engine_client, self._spec.id, self._used)

    def _used(self, used: Used) -> None:
        self._room.used(used)
        if self._reporter and not (used.unanswered and self._is_dead()):  # it is asked, and counted, elsewhere
            self._reporter.report(used)
        self._notes.tell(used, WAITED_S.get())

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        app = await super().__serve_build_asgi_app__()
        keep_environment()
        render_short_here(getattr(getattr(app.state, "openai_serving_chat", None), "renderer", None))
        if self._spec.lora is None:
            self._serving = getattr(app.state, "openai_serving_chat", None)
        direct = DirectChat(app, chat_request_type())
        freeze_heap()
        door = Door(own_secret())
        gate = self._courtesy, door, self._room
        FULL_QUEUE.is_of(self._room.turned_away)
        self._gate = Gate(app, known_fields(), self._max_body, self._spec.task, direct, *gate)
        return EndWithEngine(self._gate, self._is_dead)

    async def corral_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one OpenAI chat request. Raises ServingError."""
        async with LastWords(self._is_dead), self._turn(body):
            return await self._answer(body)

    @asynccontextmanager
    async def _turn(self, body: dict[str, Any], streamed: bool = False) -> AsyncIterator[Turn]:
        """While a person's request is in the engine, once it is its turn. Raises ServingError."""
        assumed(body)
        body.pop(FIELD, None)
        with self._courtesy.person(), TRACES.span("replica", kind="server"):
            async with self._room.turn(CURRENT.get(), _cost(body), streamed=streamed) as turn:
                body["priority"] = max(turn.priority, body.get("priority", 0))
                yield turn

    async def corral_chat_many(self, bodies: list[dict[str, Any]]) -> AsyncIterator[list[Finished]]:
        """Answer OpenAI chat requests that nobody waits for at a screen; few of them at once beside people.

        Yields lists of (index, answer or ServingError) as they come. Closing it ends those that are left.
        """
        self._bulk_calls += 1
        try:
            items = (self._courtesy.item(partial(self._item, body), principal_of(body)) for body in bodies)
            async with aclosing(finished(items)) as answers:
                async for some in answers:
                    yield some
        finally:
            self._bulk_calls -= 1

    async def _item(self, body: dict[str, Any]) -> dict[str, Any]:
        """Nothing of vLLM's leaves the replica, errors neither: who asks may have no vLLM."""
        body = assumed(body)
        async with LastWords(self._is_dead):
            if self._serving is None:
                return await self._answer(body)
            request = _chat_request({**body, "stream": False})
            try:
                reply = await self._serving.create_chat_completion(request)
            except Exception as error:  # its own handler of HTTP words them so
                reply = self._serving.create_error_response(error)
            return _in_short(reply)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For the autoscaler, which counts a call of many items as one request: the items beyond that."""
        items = self._courtesy.items + self._courtesy.waiting
        return {BULK_ITEMS: float(max(0, items - self._bulk_calls))}

    async def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        async for reply in await self.chat(_chat_request({**body, "stream": False})):
            return _plain(reply)
        raise EngineFailed("The engine returned nothing.")

    async def corral_stream(self, body: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield lists of OpenAI chat chunks as they come; the last one has the usage. Raises ServingError."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        async with LastWords(self._is_dead) as last, self._turn(body, streamed=True) as turn:
            async for batch in await self.chat(_chat_request({**body, **options})):
                chunks = [chunk for event in _events(batch) for chunk in _chunks(event)]
                if chunks:
                    last.begun = True
                    yield chunks
                    if rest_s := turn.piece():
                        await asyncio.sleep(rest_s)

    async def check_health(self) -> None:
        """Serve's controller calls it. Raises EngineFailed."""
        try:
            await super().check_health()
        except Exception as error:
            raise EngineFailed(f"The engine failed its health check: {type(error).__name__}.") from error

    async def engine_metrics(self) -> tuple[str, str]:
        """This replica's id, and its own Prometheus text, vLLM's metrics among it."""
        from prometheus_client import REGISTRY, generate_latest

        replica = get_replica_context().replica_id.unique_id
        return replica, generate_latest(REGISTRY).decode() + self._own_metrics.exposition()

    def _counts(self) -> ReplicaCounts:
        unsent = self._reporter.unsent if self._reporter else 0
        return ReplicaCounts(self._room.turns.snapshot(), self._courtesy.items, self._courtesy.waiting, unsent)


def _cost(body: dict[str, Any]) -> float:
    return request_cost(sum(len(str(message.get("content"))) for message in body["messages"]), body)


def _chat_request(body: dict[str, Any]) -> Any:
    from vllm.exceptions import VLLMClientError

    check_grammars(body)
    try:
        return wire.ChatCompletionRequest(**body)
    except VLLMClientError as error:  # no ValueError, and so not among pydantic's own
        raise BadRequest(str(error), getattr(error, "parameter", None)) from error
    except ValueError as error:
        raise BadRequest(*first_fault(error)) from error


def _plain(reply: Any) -> dict[str, Any]:
    if isinstance(reply, wire.ErrorResponse):
        raise serving_error(reply.error.model_dump())
    dumped: dict[str, Any] = reply.model_dump(exclude_none=True)
    return dumped


def _in_short(reply: Any) -> dict[str, Any]:
    """What a bulk item needs of vLLM's answer, in OpenAI's words."""
    if hasattr(reply, "error"):  # vLLM's ErrorResponse; wire's is a kind of it
        raise serving_error(reply.error.model_dump())
    choice, usage = reply.choices[0], reply.usage
    return {
        "choices": [{"message": _message(choice.message), "finish_reason": choice.finish_reason}],
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
    }


def _message(message: Any) -> dict[str, Any]:
    calls = [call.model_dump(exclude_none=True) for call in message.tool_calls or ()]
    return {"content": message.content, "tool_calls": calls}


def _events(batch: Any) -> list[Any]:
    return batch if isinstance(batch, list) else [batch]


def _chunks(event: Any) -> list[dict[str, Any]]:
    """Parse one server-sent event of vLLM's ("data: {...}\\n\\n", possibly several glued together)."""
    if isinstance(event, wire.ErrorResponse):
        raise serving_error(event.error.model_dump())
    parsed = []
    for line in str(event).split("\n"):
        data = line.removeprefix("data: ").strip()
        if line.startswith("data: ") and data != "[DONE]":
            chunk = json.loads(data)
            if "error" in chunk:
                raise serving_error(chunk["error"])
            parsed.append(chunk)
    return parsed


def chat_request_type() -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest


def keep_environment() -> None:
    """Read vLLM's settings once: it asks the environment for one of them at every token (5 us).

    vLLM does the same in its engine process, and only leaves out this one.
    """
    from vllm import envs

    getattr(envs, "enable_envs_cache", lambda: None)()


def known_fields() -> dict[str, frozenset[str]]:
    """Route -> valid top-level keys: what vLLM reads there, and what OpenAI's own clients may send."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed import protocol as embed
    from vllm.entrypoints.serve.tokenize import protocol as tokenize

    return {
        "/v1/chat/completions": _keys(ChatCompletionRequest, chat_params.CompletionCreateParamsBase, "stream"),
        "/v1/completions": _keys(
            CompletionRequest, openai_types.completion_create_params.CompletionCreateParamsBase, "stream"
        ),
        "/v1/responses": _keys(ResponsesRequest, response_create_params.ResponseCreateParamsBase, "stream"),
        "/v1/embeddings": _keys(embed.EmbeddingCompletionRequest, openai_types.EmbeddingCreateParams)
        | _model_keys(embed.EmbeddingChatRequest),
        "/tokenize": _model_keys(tokenize.TokenizeCompletionRequest) | _model_keys(tokenize.TokenizeChatRequest),
        "/detokenize": _model_keys(tokenize.DetokenizeRequest),
    }


def _keys(model: Any, typed_dict: Any, *more: str) -> frozenset[str]:
    return _model_keys(model) | {*more, *typed_dict.__required_keys__, *typed_dict.__optional_keys__}


def _model_keys(model: Any) -> frozenset[str]:
    fields: set[str] = set()
    for name, info in model.model_fields.items():
        fields |= {name, *(alias for alias in (info.alias, info.validation_alias) if isinstance(alias, str))}
    return frozenset(fields)
