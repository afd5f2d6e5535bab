"""RetrievalClient: Retrieval over the DeploymentHandle of RetrievalServer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from deployments.handle_client import HandleClient
from deployments.retrieval.service import RagAsk, Search, Upload


class RetrievalClient:
    """Implements service.Retrieval. The handle is resolved at the first call.

    deployment: name of the application and of its deployment.
    """

    def __init__(self, deployment: str) -> None:
        self._calls = HandleClient(deployment, "The documents' service", "No documents are served here.")

    async def answer(self, ask: RagAsk) -> dict[str, Any]:
        return await self._object("answer", ask)

    def events(self, ask: RagAsk) -> AsyncIterator[dict[str, Any]]:
        return self._calls.streamed("events", ask)

    async def search(self, query: str, search: Search) -> dict[str, Any]:
        return await self._object("search", query, search)

    async def collections(self) -> list[dict[str, Any]]:
        return await self._list("collections")

    async def collection(self, name: str) -> dict[str, Any]:
        return await self._object("collection", name)

    async def delete_collection(self, name: str) -> None:
        await self._calls.called("delete_collection", name)

    async def documents(self, name: str, after: str | None, limit: int) -> dict[str, Any]:
        return await self._object("documents", name, after, limit)

    async def ingest(self, name: str, uploads: Sequence[Upload]) -> dict[str, Any]:
        return await self._object("ingest", name, tuple(uploads))

    async def delete_document(self, name: str, source: str) -> None:
        await self._calls.called("delete_document", name, source)

    async def sessions(self, owner: str) -> list[dict[str, Any]]:
        return await self._list("sessions", owner)

    async def session(self, owner: str, session: str) -> dict[str, Any]:
        return await self._object("session", owner, session)

    async def delete_session(self, owner: str, session: str) -> None:
        await self._calls.called("delete_session", owner, session)

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        return await self._object("embed", tuple(texts))

    async def metrics(self) -> str:
        """In Prometheus's text format."""
        return str(await self._calls.called("metrics"))

    async def _object(self, method: str, *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._calls.called(method, *arguments)
        return found

    async def _list(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._calls.called(method, *arguments)
        return found
