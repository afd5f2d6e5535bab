"""The Python client: models over Ray Serve's DeploymentHandles, from any process that can reach the Ray cluster.

    from app.client import Client
    with Client() as corral:
        print(corral.chat("pocket-70b", "Hello! Who are you?").text)
        print(corral.tribunal("Hello! Who are you?").answer)
        print(corral.ask("How long may a job run on cedar?", "handbook")["answer"])

Everything raises deployments.errors.ServingError, what is about documents rag.errors.RagError.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from app.bulk import BulkJob, Runner, run_bulk
from app.bulk_gates import Gates
from app.serve_config import RETRIEVAL, TRIBUNAL
from app.settings import Settings
from app.state import ServiceState, read_state
from deployments.chat import ChatDelta, ChatModel, ChatReply, ChatRequest
from deployments.errors import BadRequest, Unavailable
from deployments.model_client import ModelClient
from deployments.model_clients import ModelClients
from deployments.plain_messages import plain_messages
from deployments.retrieval.client import RetrievalClient
from deployments.retrieval.service import RagAsk, Search, collection_of
from deployments.retrieval.virtual import RagModel
from deployments.tribunal.client import TribunalClient
from deployments.tribunal.config import tribunal_name
from deployments.tribunal.result import Result
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.virtual import TribunalModel

Prompt = str | Sequence[Mapping[str, Any]]
"""A question, or OpenAI message dicts, oldest first."""

T = TypeVar("T")
BULK_PRIORITY = 10
BULK_DEADLINE_S = 3600


class AsyncClient:
    """Asynchronous client. Make it with `connect`; it may be used from one event loop at a time."""

    def __init__(self, profile: Path | None = None, max_in_flight: int = 64) -> None:
        """profile: the settings that the service has in force, where they can be read."""
        self._profile, self._seen = profile, 0
        self._clients = ModelClients()
        self._gates = Gates(max_in_flight)
        self._models: dict[str, ModelClient] = {}
        self._tribunals = TribunalClient({}, TRIBUNAL)
        self._retrieval = RetrievalClient(RETRIEVAL)

    @classmethod
    def connect(cls, service: str = "default", address: str | None = None) -> Self:
        """Connect to `address`, else to your service of that name, else to $RAY_ADDRESS. Raises Unavailable.

        Ray's own search for any cluster on this machine is left out: it finds those of other people.
        """
        state = None if address else read_state(service)
        if state is not None:
            _authenticate(state)
            address = state.ray_address
        address = address or os.environ.get("RAY_ADDRESS")
        if not address:
            raise Unavailable(f"No service {service!r} runs here; `corral up` starts one.", "stopped")
        try:
            ray.init(address, namespace="serve", log_to_driver=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unavailable(f"No Ray cluster answers ({error}); `corral up` starts one.", "stopped") from error
        return cls(Path(state.run_dir) / "settings.json" if state else None)

    def model(self, model: str) -> ChatModel:
        """The ChatModel of a served id."""
        if name := tribunal_name(model):
            return TribunalModel(self._tribunals, name)
        if collection := collection_of(model):
            return RagModel(self._retrieval, collection)
        self._follow_changes()
        if model not in self._models:
            self._models[model] = ModelClient(model)
        return self._models[model]

    def _follow_changes(self) -> None:
        """Know which models are deployed, also after `corral apply`."""
        if self._profile is None:
            return
        try:
            written = self._profile.stat().st_mtime_ns
            if written != self._seen:
                specs = Settings.model_validate_json(self._profile.read_text()).specs
                self._models, self._seen = dict(self._clients.of(specs)), written
        except OSError:
            return

    async def chat(self, model: str, prompt: Prompt, **params: Any) -> ChatReply:
        """One answer. `params` are OpenAI's: max_tokens, temperature, response_format, ..."""
        return await self.model(model).chat(request_of(prompt, params))

    def stream(self, model: str, prompt: Prompt, **params: Any) -> AsyncIterator[ChatDelta]:
        """Pieces as they come; closing the iterator frees the slot in the engine."""
        return self.model(model).stream(request_of(prompt, params))

    async def generate(self, model: str, prompt: str, **params: Any) -> str:
        """The text of one answer to one prompt."""
        return (await self.chat(model, prompt, **params)).text

    async def bulk(self, items: Iterable[Mapping[str, Any]], **defaults: Any) -> list[ChatReply | Exception]:
        """Answers in the items' order; an item that fails is its exception, never the whole call's.

        items: each with `model`, and `prompt` or `messages`, and further OpenAI parameters.
        """
        found: list[ChatReply | Exception] = []
        jobs = []
        for index, item in enumerate(items):
            found.append(BadRequest("not asked"))
            try:
                jobs.append(self._job(index, {**defaults, **item}))
            except BadRequest as error:
                found[index] = error
        runner = Runner(self._find, self._gates, BULK_DEADLINE_S)
        async for line in run_bulk(jobs, runner):
            found[line.index] = line.reply or line.error or BadRequest("no answer")
        return found

    async def tribunal(
        self, question: Prompt, tribunal: str | None = None, *, config: Mapping[str, Any] | None = None,
        max_tokens: int | None = None, seed: int | None = None,
    ) -> Result:  # fmt: skip
        """Have several models draft, review and refine one answer; result.Result has it, with the trace.

        tribunal: the profile's, by name; its `default` if unset. config: keys of tribunal.config.TribunalSpec over
        the named tribunal's, or a whole one.
        """
        ask = ask_of(question, tribunal, config, max_tokens, seed)
        return Result.of(await self._tribunals.run(ask))

    def tribunal_events(
        self, question: Prompt, tribunal: str | None = None, *, config: Mapping[str, Any] | None = None,
        max_tokens: int | None = None, seed: int | None = None,
    ) -> AsyncIterator[dict[str, Any]]:  # fmt: skip
        """The same as tribunal.events' envelopes, as things happen; closing the iterator stops every engine."""
        ask = ask_of(question, tribunal, config, max_tokens, seed)
        return self._tribunals.events(replace(ask, deltas=True))

    async def ask(
        self, question: str, collection: str, *, model: str | None = None, session: str | None = None,
        max_tokens: int | None = None, agentic: bool = False, **search: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Answer from documents, as POST /v1/rag/chat does. `search`: top_k, mode, filters, rerank."""
        if not question.strip():
            raise BadRequest("question: must hold more than white space.", "question")
        found = Search(collection, **search)
        return await self._retrieval.answer(
            RagAsk(question, found, session=session, model=model, max_tokens=max_tokens, agentic=agentic)
        )

    async def search(self, query: str, collection: str, **search: Any) -> dict[str, Any]:
        """Passages, as POST /v1/rag/search finds them. `search`: top_k, mode, filters, rerank, mmr_lambda."""
        return await self._retrieval.search(query, Search(collection, **search))

    async def _find(self, model: str) -> ChatModel:
        return self.model(model)

    def _job(self, index: int, item: dict[str, Any]) -> BulkJob:
        model, prompt = item.pop("model", None), item.pop("prompt", None)
        messages = item.pop("messages", None)
        if not isinstance(model, str):
            raise BadRequest("The item names no model.", "model")
        if (prompt is None) == (messages is None):
            raise BadRequest("Give exactly one of prompt and messages.", "prompt")
        request = request_of(prompt if messages is None else messages, item, BULK_PRIORITY)
        self._follow_changes()
        known = self._models.get(model)
        return BulkJob(index, model, known.base if known else model, request)


def request_of(prompt: Prompt, params: Mapping[str, Any], priority: int = 0) -> ChatRequest:
    """A ChatRequest. Raises BadRequest if there is nothing to answer."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(map(dict, prompt))
    if not messages or not all(message.get("content") for message in messages):
        raise BadRequest("The prompt is empty.", "prompt" if isinstance(prompt, str) else "messages")
    return ChatRequest(messages, dict(params), priority)


def ask_of(
    question: Prompt, tribunal: str | None, config: Mapping[str, Any] | None, max_tokens: int | None, seed: int | None
) -> TribunalAsk:
    """A TribunalAsk. Raises BadRequest if there is nothing to answer, or for messages that are not a tribunal's."""
    if isinstance(question, str):
        if not question.strip():
            raise BadRequest("question: must hold more than white space.", "question")
        question = [{"role": "user", "content": question}]
    messages = plain_messages(list(question) if isinstance(question, Sequence) else question)
    return TribunalAsk(messages, tribunal, config, max_tokens, seed)


def _authenticate(state: ServiceState) -> None:
    """Use the service's token. Ray reads the environment when it is imported, so it is told to read it again."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(state.token_path)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


class Client:
    """The same, synchronous: an event loop in a thread of its own."""

    def __init__(self, service: str = "default", address: str | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="corral-client", daemon=True)
        self._inner = AsyncClient.connect(service, address)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and leave the Ray cluster."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        ray.shutdown()

    def chat(self, model: str, prompt: Prompt, **params: Any) -> ChatReply:
        """See AsyncClient.chat."""
        return self._run(self._inner.chat(model, prompt, **params))

    def generate(self, model: str, prompt: str, **params: Any) -> str:
        """See AsyncClient.generate."""
        return self._run(self._inner.generate(model, prompt, **params))

    def tribunal(self, question: Prompt, tribunal: str | None = None, **how: Any) -> Result:
        """See AsyncClient.tribunal."""
        return self._run(self._inner.tribunal(question, tribunal, **how))

    def tribunal_events(self, question: Prompt, tribunal: str | None = None, **how: Any) -> Iterator[dict[str, Any]]:
        """See AsyncClient.tribunal_events."""
        return self._pieces(self._inner.tribunal_events(question, tribunal, **how))

    def ask(self, question: str, collection: str, **how: Any) -> dict[str, Any]:
        """See AsyncClient.ask."""
        return self._run(self._inner.ask(question, collection, **how))

    def search(self, query: str, collection: str, **search: Any) -> dict[str, Any]:
        """See AsyncClient.search."""
        return self._run(self._inner.search(query, collection, **search))

    def bulk(self, items: Iterable[Mapping[str, Any]], **defaults: Any) -> list[ChatReply | Exception]:
        """See AsyncClient.bulk."""
        return self._run(self._inner.bulk(items, **defaults))

    def stream(self, model: str, prompt: Prompt, **params: Any) -> Iterator[ChatDelta]:
        """See AsyncClient.stream."""
        return self._pieces(self._inner.stream(model, prompt, **params))

    def _pieces(self, coming: AsyncIterator[T]) -> Iterator[T]:
        pieces = aiter(coming)
        try:
            while (piece := self._run(_next(pieces))) is not None:
                yield piece
        finally:
            self._run(pieces.aclose())  # type: ignore[attr-defined]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


async def _next(pieces: AsyncIterator[T]) -> T | None:
    return await anext(pieces, None)
