"""What a key may ask of models, tribunals and collections, checked where the gateway asks them.

CURRENT is the principal of the request at hand; where no keys are asked for, it may do everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from app.access.rules import Need, asking
from deployments.errors import Forbidden
from deployments.principal import CURRENT, DOCUMENTS, RAG, TRIBUNAL
from deployments.retrieval.service import RagAsk, Retrieval, Search, Upload
from deployments.tribunal.config import DEFAULT
from deployments.tribunal.service import TribunalAsk, Tribunals


def require(need: Need, param: str | None = None) -> None:
    """Raises Forbidden if the key of the request at hand has not what it takes."""
    if not need.met_by(CURRENT.get()):
        raise Forbidden(f"This API key may not do this; it needs the scope {need}.", param)


def require_model(model: str, param: str = "model") -> None:
    """The same for asking a model, a tribunal's or a collection's virtual one included."""
    require(asking(model), param)


def may_ask(model: str) -> bool:
    return asking(model).met_by(CURRENT.get())


class GuardedTribunals:
    """Implements deployments.tribunal.service.Tribunals over another one. Who knows a run's id may read it."""

    def __init__(self, inner: Tribunals) -> None:
        self._inner = inner

    @property
    def names(self) -> tuple[str, ...]:
        return self._inner.names

    def spec(self, name: str) -> Mapping[str, Any]:
        return self._inner.spec(name)

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        _require_tribunal(ask)
        return await self._inner.run(ask)

    def events(self, ask: TribunalAsk) -> AsyncIterator[dict[str, Any]]:
        _require_tribunal(ask)
        return self._inner.events(ask)

    def resume(self, run_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        return self._inner.resume(run_id, after)

    async def cancel(self, run_id: str) -> None:
        await self._inner.cancel(run_id)

    async def missing(self, name: str) -> str | None:
        return await self._inner.missing(name)


def _require_tribunal(ask: TribunalAsk) -> None:
    """A named tribunal may be asked by whoever has its scope; members of one's own choice take theirs."""
    if ask.tribunal or not ask.config:
        require(Need((TRIBUNAL,), ask.tribunal or DEFAULT), "tribunal")
    for model in _models(ask.config or {}):
        require_model(model, "config")


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    """Of the members and the chair. What is neither a model nor a member, the tribunals refuse themselves."""
    members = config.get("members")
    for member in (*(members if isinstance(members, list | tuple) else ()), config.get("chair")):
        model = member.get("model") if isinstance(member, Mapping) else member
        if isinstance(model, str):
            yield model


class GuardedRetrieval:
    """Implements deployments.retrieval.service.Retrieval over another one."""

    def __init__(self, inner: Retrieval) -> None:
        self._inner = inner

    async def answer(self, ask: RagAsk) -> dict[str, Any]:
        _require_answer(ask)
        return await self._inner.answer(ask)

    def events(self, ask: RagAsk) -> AsyncIterator[dict[str, Any]]:
        _require_answer(ask)
        return self._inner.events(ask)

    async def search(self, query: str, search: Search) -> dict[str, Any]:
        require(Need((RAG,), search.collection), "collection")
        return await self._inner.search(query, search)

    async def collections(self) -> list[dict[str, Any]]:
        return [card for card in await self._inner.collections() if _either(card["name"]).met_by(CURRENT.get())]

    async def collection(self, name: str) -> dict[str, Any]:
        require(_either(name), "collection")
        return await self._inner.collection(name)

    async def delete_collection(self, name: str) -> None:
        require(Need((DOCUMENTS,), name), "collection")
        await self._inner.delete_collection(name)

    async def documents(self, name: str, after: str | None, limit: int) -> dict[str, Any]:
        require(_either(name), "collection")
        return await self._inner.documents(name, after, limit)

    async def ingest(self, name: str, uploads: Sequence[Upload]) -> dict[str, Any]:
        require(Need((DOCUMENTS,), name), "collection")
        return await self._inner.ingest(name, uploads)

    async def delete_document(self, name: str, source: str) -> None:
        require(Need((DOCUMENTS,), name), "collection")
        await self._inner.delete_document(name, source)

    async def sessions(self, owner: str) -> list[dict[str, Any]]:
        return await self._inner.sessions(owner)

    async def session(self, owner: str, session: str) -> dict[str, Any]:
        return await self._inner.session(owner, session)

    async def delete_session(self, owner: str, session: str) -> None:
        await self._inner.delete_session(owner, session)

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        return await self._inner.embed(texts)


def _either(collection: str) -> Need:
    return Need((RAG, DOCUMENTS), collection)


def _require_answer(ask: RagAsk) -> None:
    require(Need((RAG,), ask.search.collection), "collection")
    if ask.model is not None:
        require_model(ask.model)
