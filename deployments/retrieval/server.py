"""RetrievalServer: the Serve deployment that answers from documents. One replica, on the node with the documents.

Imports neither vLLM nor, before a collection is asked, torch: the models are asked over their DeploymentHandles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from deployments.config import ModelSpec
from deployments.on_behalf import OnBehalf
from deployments.request_log import start_log
from deployments.retrieval.local import LocalRetrieval
from deployments.retrieval.models import ProfileModels
from deployments.retrieval.service import RagAsk, Search, Upload
from deployments.tracing import TRACES
from deployments.tracing_config import TracesConfig
from deployments.tribunal.client import TribunalClient
from deployments.tribunal.config import TribunalSpec
from deployments.wordless import keep_words_out
from rag.config import RagConfig


class RetrievalServer(OnBehalf):
    """Handle methods over LocalRetrieval; they raise ServingError and RagError.

    config: the profile's RagConfig with its folder; models, tribunals: the profile's; all as model_dump gives them.
    tribunal_app: name of the tribunals' application.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        models: Sequence[Mapping[str, Any]],
        tribunals: Mapping[str, Any],
        tribunal_app: str,
        traces: TracesConfig | None = None,
    ) -> None:
        start_log("retrieval")
        keep_words_out()
        TRACES.start(traces, "corral-retrieval")
        rag = RagConfig.model_validate(config)
        self._tribunal_app = tribunal_app
        self._models = ProfileModels(*self._answering(models, tribunals))
        self._retrieval = LocalRetrieval(rag, self._models, rag.model)

    async def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Serve calls it at the start and after `corral apply`, with other models, tribunals and `model`."""
        self._models.take(*self._answering(told["models"], told["tribunals"]))
        self._retrieval.default = told["model"]

    def _answering(
        self, models: Sequence[Mapping[str, Any]], tribunals: Mapping[str, Any]
    ) -> tuple[list[ModelSpec], TribunalClient]:
        named = {name: TribunalSpec.model_validate(spec) for name, spec in tribunals.items()}
        return [ModelSpec.model_validate(model) for model in models], TribunalClient(named, self._tribunal_app)

    async def answer(self, ask: RagAsk) -> dict[str, Any]:
        return await self._retrieval.answer(ask)

    async def events(self, ask: RagAsk) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._retrieval.events(ask)) as told:
            async for event in told:
                yield event

    async def search(self, query: str, search: Search) -> dict[str, Any]:
        return await self._retrieval.search(query, search)

    async def collections(self) -> list[dict[str, Any]]:
        return await self._retrieval.collections()

    async def collection(self, name: str) -> dict[str, Any]:
        return await self._retrieval.collection(name)

    async def delete_collection(self, name: str) -> None:
        await self._retrieval.delete_collection(name)

    async def documents(self, name: str, after: str | None, limit: int) -> dict[str, Any]:
        return await self._retrieval.documents(name, after, limit)

    async def ingest(self, name: str, uploads: Sequence[Upload]) -> dict[str, Any]:
        return await self._retrieval.ingest(name, uploads)

    async def delete_document(self, name: str, source: str) -> None:
        await self._retrieval.delete_document(name, source)

    async def sessions(self, owner: str) -> list[dict[str, Any]]:
        return await self._retrieval.sessions(owner)

    async def session(self, owner: str, session: str) -> dict[str, Any]:
        return await self._retrieval.session(owner, session)

    async def delete_session(self, owner: str, session: str) -> None:
        await self._retrieval.delete_session(owner, session)

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        return await self._retrieval.embed(texts)

    async def metrics(self) -> str:
        return self._retrieval.telemetry.exposition()
