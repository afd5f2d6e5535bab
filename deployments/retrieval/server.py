"""RetrievalServer: the Serve deployment that answers from documents. One replica, on the node with the documents.

Imports neither vLLM nor, before a collection is asked, torch: the models are asked over their DeploymentHandles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from deployments.config import ModelSpec
from deployments.on_behalf import OnBehalf
from deployments.retrieval.local import LocalRetrieval
from deployments.retrieval.models import ProfileModels
from deployments.retrieval.service import RagAsk, Search, Upload
from deployments.tribunal.client import TribunalClient
from deployments.tribunal.config import TribunalSpec
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
    ) -> None:
        specs = [ModelSpec.model_validate(model) for model in models]
        named = {name: TribunalSpec.model_validate(spec) for name, spec in tribunals.items()}
        rag = RagConfig.model_validate(config)
        self._retrieval = LocalRetrieval(rag, ProfileModels(specs, TribunalClient(named, tribunal_app)), rag.model)

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
