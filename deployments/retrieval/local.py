"""LocalRetrieval: collections, sessions and answers in this process. Whatever blocks is done in threads."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deployments.retrieval.answering import Answerer
from deployments.retrieval.conversations import Conversations
from deployments.retrieval.draft import Event, result_of
from deployments.retrieval.index_search import IndexSearch, OpenEmbeddings
from deployments.retrieval.result import hit_json
from deployments.retrieval.service import RagAsk, Search, Upload
from deployments.retrieval.sessions import Sessions
from deployments.retrieval.sources import AnsweringModels
from deployments.retrieval.telemetry import RetrievalTelemetry
from deployments.retrieval.workers import Queues, Workers
from rag.cards import card, cards, document_json
from rag.collection_library import Library
from rag.config import RagConfig
from rag.errors import DamagedIndex, EmbeddingMismatch
from rag.passages import collection_name, source_name

COLLECTIONS, SESSIONS = "collections", "sessions"
"""Folders of the rag folder."""
READERS, READS_WAITING = 4, 64
WRITERS, WRITES_WAITING = 2, 8
EMBEDS_WAITING = 16


class LocalRetrieval:
    """Implements service.Retrieval over config.folder, which must be set.

    default: who answers where neither the question nor the profile names a model. clock: of the sessions, unix time.
    open_embeddings: in place of TextEmbeddings.open.
    Made inside a running event loop; close() when done.
    """

    def __init__(
        self,
        config: RagConfig,
        models: AnsweringModels,
        default: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        open_embeddings: OpenEmbeddings | None = None,
    ) -> None:
        if config.folder is None:
            raise ValueError("rag.folder: is not set")
        folder = Path(config.folder)
        self.default = config.model or default
        """Who answers where the question names no model."""
        self._reads = Workers("retrieval-read", READERS, READS_WAITING)
        self._writes = Workers("retrieval-write", WRITERS, 64 * WRITES_WAITING)
        self._embeds = Workers("retrieval-embed", 1, EMBEDS_WAITING)
        self._queues = Queues(WRITES_WAITING)
        self._library = Library(folder / COLLECTIONS, config)
        self.telemetry = RetrievalTelemetry()
        workers = self._reads, self._embeds
        self._index = IndexSearch(self._library, config, *workers, open_embeddings, self.telemetry.stages)
        self._sessions = Sessions(folder / SESSIONS, config.sessions, clock)
        answerer = Answerer(config, self._index, models, default)
        self._conversations = Conversations(self._sessions, self._reads, answerer.events)

    def close(self) -> None:
        self._reads.close()
        self._writes.close()
        self._embeds.close()

    async def answer(self, ask: RagAsk) -> dict[str, Any]:
        return await result_of(self.events(ask))

    async def events(self, ask: RagAsk) -> AsyncGenerator[Event, None]:
        """An unknown collection and a wrong filter are told before anything else."""
        ask = replace(ask, model=ask.model or self.default)
        with self.telemetry.request("answer"):
            await self._reads.run(partial(self._looked_at, ask.search))
            async with aclosing(self._conversations.events(ask)) as events:
                async for event in events:
                    if event["type"] == "result":
                        self.telemetry.answered(event["result"])
                    yield event

    def _looked_at(self, search: Search) -> None:
        self._library.snapshot(search.collection).allowed(search.filters)

    async def search(self, query: str, search: Search) -> dict[str, Any]:
        with self.telemetry.request("search"):
            # Of an unknown collection no model is loaded.
            await self._reads.run(partial(self._library.snapshot, search.collection))
            found = await self._index.search(query, search)
        return {
            "collection": search.collection,
            "version": found.version,
            "mode": found.mode,
            "hits": [hit_json(hit, number) for number, hit in enumerate(found.hits, 1)],
            "timings_ms": {name: round(value, 1) for name, value in found.timings_ms.items()},
        }

    async def collections(self) -> list[dict[str, Any]]:
        return [await self._checked(told) for told in await self._reads.run(partial(cards, self._library))]

    async def collection(self, name: str) -> dict[str, Any]:
        return await self._checked(await self._reads.run(partial(self._card, name)))

    def _card(self, name: str) -> dict[str, Any]:
        try:
            return card(self._library.snapshot(name))
        except DamagedIndex:
            return next(told for told in cards(self._library) if told["name"] == name)

    async def _checked(self, told: dict[str, Any]) -> dict[str, Any]:
        """A collection of another embedding model is not ready, and says why."""
        if not told["ready"]:
            return told
        try:
            await self._index.check(told["name"])
        except EmbeddingMismatch as error:
            return {**told, "ready": False, "reason": error.message}
        return told

    async def delete_collection(self, name: str) -> None:
        async with self._queues.turn(collection_name(name)):
            await self._writes.run(partial(self._library.delete, name))

    async def documents(self, name: str, after: str | None, limit: int) -> dict[str, Any]:
        """By source. after: the last source of the page before."""
        snapshot = await self._reads.run(partial(self._library.snapshot, name))
        entries = sorted(snapshot.documents, key=lambda entry: entry.source)
        first = 0 if after is None else bisect.bisect_right(entries, after, key=lambda entry: entry.source)
        page = entries[first : first + limit]
        return {
            "object": "list",
            "data": [document_json(entry) for entry in page],
            "has_more": first + limit < len(entries),
        }

    async def ingest(self, name: str, uploads: Sequence[Upload]) -> dict[str, Any]:
        """One at a time for each collection, in the order in which they came."""
        with self.telemetry.request("ingest"):
            collection_name(name)
            embeddings = await self._index.embeddings()
            stop = threading.Event()
            work = partial(self._ingested, name, uploads, embeddings, stop)
            async with self._queues.turn(name):
                report = await self._writes.run_to_the_end(work, stop.set)
        self.telemetry.ingested(report)
        return report

    def _ingested(self, name: str, uploads: Sequence[Upload], embeddings: Any, stop: threading.Event) -> dict[str, Any]:
        from rag.ingest import ingest
        from rag.inputs import Input, Inputs

        files = {
            upload.source: Input(Path(upload.path), source_name(upload.source), upload.metadata) for upload in uploads
        }
        report = ingest(self._library, name, Inputs(tuple(files.values())), embeddings, stop=stop.is_set)
        return report.to_json()

    async def delete_document(self, name: str, source: str) -> None:
        async with self._queues.turn(collection_name(name)):
            await self._writes.run(partial(self._without, name, source))

    def _without(self, name: str, source: str) -> None:
        """Needs no embedding model: what stays keeps its vectors. Raises DamagedIndex."""
        info = self._library.snapshot(name).info
        with self._library.writer(name, info, create=False) as writer:
            if writer.current and writer.current.warning:
                raise DamagedIndex(writer.current.warning)
            (writer.current or self._library.snapshot(name)).document(source)
            writer.commit(lambda entry: entry.source != source)

    async def sessions(self, owner: str) -> list[dict[str, Any]]:
        return await self._reads.run(partial(self._sessions.cards, owner))

    async def session(self, owner: str, session: str) -> dict[str, Any]:
        return (await self._reads.run(partial(self._sessions.get, owner, session))).to_json()

    async def delete_session(self, owner: str, session: str) -> None:
        await self._reads.run(partial(self._sessions.delete, owner, session))

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        with self.telemetry.request("embed"):
            return await self._index.embed(texts)
