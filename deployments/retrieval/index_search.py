"""IndexSearch: searches in a library's collections, with models that are loaded when they are first needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from deployments.errors import BadRequest
from deployments.principal import CURRENT
from deployments.retrieval.service import Search
from deployments.retrieval.workers import Once, Workers
from deployments.tracing import TRACES
from rag.collection_library import Library
from rag.config import EmbeddingConfig, RagConfig

if TYPE_CHECKING:
    from rag.embeddings import TextEmbeddings
    from rag.reranker import CrossEncoder
    from rag.search import SearchResult

OpenEmbeddings: TypeAlias = "Callable[[EmbeddingConfig], TextEmbeddings]"

NS_PER_MS = 1_000_000
SLICE = 64
"""Texts that are embedded in one go."""


class IndexSearch:
    """Implements sources.Finds. The embedding model and the reranker are opened once, in a thread."""

    def __init__(
        self,
        library: Library,
        config: RagConfig,
        workers: Workers,
        embeds: Workers,
        open_embeddings: OpenEmbeddings | None = None,
        searched: Callable[[Mapping[str, float]], None] = lambda _: None,
    ) -> None:
        """embeds: for texts that are no queries, so that these never wait behind them. searched: told each search's
        milliseconds by stage.
        """
        self._library, self._config, self._workers, self._embeds = library, config, workers, embeds
        self._searched = searched
        opens = partial(open_embeddings or _open_embeddings, config.embedding)
        self._embeddings: Once[TextEmbeddings] = Once(workers, opens)
        self._reranker: Once[CrossEncoder] = Once(workers, self._open_reranker)

    async def embeddings(self) -> TextEmbeddings:
        """Raises EmbeddingUnavailable."""
        return await self._embeddings.get()

    async def search(self, query: str, search: Search) -> SearchResult:
        """Raises BadRequest for a reranker that is not there, EmbeddingUnavailable, and what Searcher.search raises."""
        named = self._config.search.reranker
        if search.rerank and not named:
            raise BadRequest("rerank: this profile names no reranker (rag.search.reranker).", "rerank")
        embeddings = await self._embeddings.get()
        reranker = await self._reranker.get() if named and search.rerank is not False else None
        found = await self._workers.run(partial(self._found, embeddings, reranker, query, search))
        self._searched(found.timings_ms)
        _trace_stages(found.timings_ms, time.time_ns())
        return found

    def _found(
        self, embeddings: TextEmbeddings, reranker: CrossEncoder | None, query: str, search: Search
    ) -> SearchResult:
        from rag.search import Searcher

        said: dict[str, Any] = {
            "k": search.top_k, "mode": search.mode, "filters": search.filters, "rerank": search.rerank,
            "mmr_lambda": search.mmr_lambda,
        }  # fmt: skip
        wanted = {name: value for name, value in said.items() if value is not None}
        snapshot = self._library.snapshot(search.collection)
        return Searcher(embeddings, self._config.search, reranker).search(snapshot, query, **wanted)

    async def check(self, collection: str) -> None:
        """Raises EmbeddingMismatch if another model made the collection. Opens the model only if the names differ."""
        from rag.search import check_model

        snapshot = await self._workers.run(partial(self._library.snapshot, collection))
        opened = self._embeddings.made
        if opened is not None or snapshot.info.model != self._config.embedding.model:
            check_model(snapshot, opened or await self._embeddings.get())

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        """In slices, so that a request whose client has left ends after one."""
        embeddings = await self._embeddings.get()
        vectors, tokens = list[list[float]](), 0
        for first in range(0, len(texts), SLICE):
            made, read = await self._embeds.run(partial(_embedded, embeddings, list(texts[first : first + SLICE])))
            vectors, tokens = [*vectors, *made], tokens + read
        return {"model": embeddings.info.model, "embeddings": vectors, "tokens": tokens}

    def _open_reranker(self) -> CrossEncoder:
        from rag.reranker import CrossEncoder

        named = self._config.search.reranker
        assert named is not None
        return CrossEncoder.open(named, self._config.embedding.device, threads=self._config.embedding.threads)


def _trace_stages(timings_ms: Mapping[str, float], ended_ns: int) -> None:
    """A span of each stage of a search that is over; they followed one another."""
    began_ns = ended_ns - int(sum(timings_ms.values()) * NS_PER_MS)
    for stage, took_ms in timings_ms.items():
        ended_ns = began_ns + int(took_ms * NS_PER_MS)
        if ended_ns > began_ns:
            TRACES.past(f"rag {stage}", CURRENT.get(), began_ns, ended_ns, {})
        began_ns = ended_ns


def _open_embeddings(config: EmbeddingConfig) -> TextEmbeddings:
    from rag.embeddings import TextEmbeddings

    return TextEmbeddings.open(config)


def _embedded(embeddings: TextEmbeddings, texts: list[str]) -> tuple[list[list[float]], int]:
    """Vectors and tokens."""
    return embeddings.embed_documents(texts), sum(map(embeddings.tokens, texts))
