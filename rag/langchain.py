"""Collections as LangChain knows them: CorralVectorStore (search by vectors) and CorralRetriever (fused search)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from rag.collection_library import Library
from rag.config import Mode, RagConfig
from rag.errors import UnknownCollection
from rag.fusion import mmr
from rag.langchain_documents import as_document, entry_of, find, remaining, stage_key, stem, the_id
from rag.langchain_embeddings import AnyEmbeddings
from rag.search import Hit, Searcher, check_model
from rag.snapshot import Snapshot
from rag.writer import Writer

Scored = list[tuple[Document, float]]
DEFAULT_COLLECTION = "langchain"


class CorralVectorStore(VectorStore):
    """A collection of a Library. Thread-safe; other processes may write it meanwhile.

    A LangChain document becomes one of the collection's, with one passage; its id names both. What `corral ingest` put
    there is found too, passage by passage. Every change writes a new version of the whole collection: add many
    documents at once. Metadata are text, numbers, true and false; filters are as in rag/filters.py.
    """

    def __init__(self, library: Library, collection: str, embeddings: Embeddings) -> None:
        """embeddings: any of LangChain's. Its vectors' dimension is asked for once, by embedding a word."""
        self.collections, self.collection = library, collection
        self._embeddings, self._model = embeddings, AnyEmbeddings(embeddings)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        folder: str | Path = "",
        collection: str = DEFAULT_COLLECTION,
        config: RagConfig | None = None,
        **kwargs: Any,
    ) -> Self:
        """folder: of the library; the profile's rag.folder if config has one and this is empty."""
        config = config or RagConfig()
        where = str(folder) or config.folder
        if not where:
            raise ValueError("folder: say where the collection is to lie, for example folder='~/collections'")
        store = cls(Library(Path(where).expanduser(), config), collection, embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @property
    def embeddings(self) -> Embeddings:
        return self._embeddings

    def retriever(self, **asked: Any) -> CorralRetriever:
        """The fused search over this collection; asked: CorralRetriever's k, mode, filters, mmr_lambda."""
        searcher = Searcher(self._model, self.collections.config.search)
        return CorralRetriever(collections=self.collections, collection=self.collection, searcher=searcher, **asked)

    def add_documents(self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any) -> list[str]:
        """Returns their ids: those given, the documents' own, or made of source and content.

        What has such an id already is replaced. Raises BadName for an id that cannot be a document's source,
        ValueError for metadata that are no scalars, CollectionBusy, EmbeddingMismatch, OutOfSpace.
        """
        if ids is not None and len(ids) != len(documents):
            raise ValueError(f"ids: {len(ids)} of them for {len(documents)} documents")
        names = [the_id(each, ids[place] if ids else None) for place, each in enumerate(documents)]
        named = dict(zip(names, documents, strict=True))
        entries = [entry_of(name, each) for name, each in named.items()]
        if not entries:
            return []
        vectors = self._model.passages([passage.searched for _, passage in entries])
        with self.collections.writer(self.collection, self._model.info) as writer:
            dropped = find(writer.current, named) if writer.current else {}
            added = [
                writer.stage(stage_key(entry.source), entry, [([passage], vectors[at : at + 1])])
                for at, (entry, passage) in enumerate(entries)
            ]
            writer.commit(lambda entry: entry.source not in dropped, [*remaining(writer, dropped), *added])
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Ids that are not there are passed over. Without ids the whole collection goes, as LangChain has it."""
        try:
            if ids is None:
                self.collections.delete(self.collection)
                return True
            with self.collections.writer(self.collection, self._model.info, create=False) as writer:
                self._delete(writer, ids)
        except UnknownCollection:
            pass
        return True

    def _delete(self, writer: Writer, ids: Sequence[str]) -> None:
        dropped = find(writer.current, ids) if writer.current else {}
        if dropped:
            writer.commit(lambda entry: entry.source not in dropped, remaining(writer, dropped))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """In the ids' order; those that are not there are left out."""
        if (snapshot := self._snapshot()) is None:
            return []
        numbers = {name: number for places in find(snapshot, ids).values() for name, number in places.items()}
        return [as_document(snapshot, numbers[name]) for name in dict.fromkeys(ids) if name in numbers]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """With cosines, -1 to 1. kwargs: filter."""
        return self._nearest(self._model.query(query), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in self._nearest(self._model.normalised(embedding), k, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        return self._varied(self._model.query(query), k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        return self._varied(self._model.normalised(embedding), k, fetch_k, lambda_mult, **kwargs)

    def _nearest(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> Scored:
        if (snapshot := self._snapshot()) is None:
            return []
        found = snapshot.dense(vector, k, _allowed(snapshot, filter))
        scored = zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        return [(as_document(snapshot, number), score) for number, score in scored]

    def _varied(
        self,
        vector: NDArray[np.float32],
        k: int,
        fetch_k: int,
        lambda_mult: float,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> list[Document]:
        if (snapshot := self._snapshot()) is None:
            return []
        found = snapshot.dense(vector, max(k, fetch_k), _allowed(snapshot, filter))
        order = mmr(snapshot.vectors(found.ids), found.scores, lambda_mult, k)
        return [as_document(snapshot, int(number)) for number in found.ids[order]]

    def _snapshot(self) -> Snapshot | None:
        """None: nothing was added yet, and an empty store finds nothing. Raises EmbeddingMismatch."""
        try:
            snapshot = self.collections.snapshot(self.collection)
        except UnknownCollection:
            return None
        check_model(snapshot, self._model)
        return snapshot

    def _select_relevance_score_fn(self) -> Any:
        return lambda cosine: min(1.0, max(0.0, cosine))


class CorralRetriever(BaseRetriever):
    """The fused search (words and vectors, and the reranker of its searcher) over a collection.

    Metadata of what it finds carry `score` and `similarity` (cosine) too. What is None is as the searcher's
    configuration says. Raises UnknownCollection, EmbeddingMismatch, BadFilter.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    collections: Library
    collection: str
    searcher: Searcher
    k: int | None = Field(None, ge=1)
    mode: Mode | None = None
    filters: dict[str, Any] | None = None
    rerank: bool | None = None
    mmr_lambda: float | None = Field(None, ge=0, le=1)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        snapshot = self.collections.snapshot(self.collection)
        found = self.searcher.search(
            snapshot, query, k=self.k, mode=self.mode, filters=self.filters, rerank=self.rerank,
            mmr_lambda=self.mmr_lambda,
        )  # fmt: skip
        return [_scored(snapshot, hit) for hit in found.hits]


def _scored(snapshot: Snapshot, hit: Hit) -> Document:
    document = as_document(snapshot, hit.id)
    document.metadata |= {"score": hit.score, "similarity": hit.similarity}
    return document


def _allowed(snapshot: Snapshot, filters: Mapping[str, Any] | None) -> NDArray[np.bool_] | None:
    """A source is what the documents' metadata call so, or a document of the collection."""
    allowed = snapshot.allowed(filters)
    source = (filters or {}).get("source")
    if allowed is None or not isinstance(source, str):
        return allowed
    alike = snapshot.allowed({**(filters or {}), "source": {"prefix": f"{stem(source)}#"}})
    return allowed if alike is None else allowed | alike
