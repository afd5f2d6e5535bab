"""CorralVectorStore and CorralRetriever as LangChain uses them; most with small seeded embeddings of LangChain's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool

from rag.collection_library import Library
from rag.config import RagConfig, SearchConfig
from rag.errors import BadFilter, BadName, CollectionBusy, EmbeddingMismatch, UnknownCollection
from rag.langchain import CorralRetriever, CorralVectorStore
from rag.langchain_documents import stem
from rag.passages import Passage
from rag.search import Searcher
from rag.snapshot import DocumentEntry
from tests.unit.rag_models import minilm

NAME = "notes"
TEXTS = ["The cat sleeps.", "A job may hold eight GPUs.", "Ask the desk for more disk."]


class Letters(Embeddings):
    """How often each letter is in a text; not normalised."""

    model = "letters-1"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(text.lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "rag", RagConfig())


@pytest.fixture
def store(library: Library) -> CorralVectorStore:
    return CorralVectorStore(library, NAME, Letters())


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def ingested(store: CorralVectorStore, source: str, *lines: str) -> None:
    """As `corral ingest` does: one document, several passages."""
    with store.collections.writer(NAME, store._model.info) as writer:
        entry = DocumentEntry(source, "A title", "f" * 64, 9, metadata={"team": "ops"}, settings="split", ingested=1)
        passages = [
            Passage(line, source, "A title", 100 * at, 100 * at + len(line), at + 1, ("Top",), {"team": "ops"})
            for at, line in enumerate(lines)
        ]
        staged = writer.stage("one", entry, [(passages, store._model.passages([each.text for each in passages]))])
        writer.commit(lambda _: True, [staged])


def test_an_empty_store_finds_nothing(store: CorralVectorStore) -> None:
    assert store.similarity_search("cat") == []
    assert store.max_marginal_relevance_search("cat") == []
    assert store.get_by_ids(["1"]) == []
    assert store.delete(["1"])
    assert store.delete()
    assert store.add_documents([]) == []
    assert store.collections.names() == ()


def test_given_ids_are_kept_and_replace(store: CorralVectorStore) -> None:
    documents = [Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    assert store.add_documents(documents, ids=["1", "2", "3"]) == ["1", "2", "3"]
    assert [(each.id, each.page_content, each.metadata["n"]) for each in store.get_by_ids(["3", "x", "1", "3"])] == [
        ("3", TEXTS[2], 2),
        ("1", TEXTS[0], 0),
    ]
    assert store.add_documents([Document("A dog barks.", id="1")]) == ["1"]
    assert texts(store.get_by_ids(["1"])) == ["A dog barks."]
    assert len(store.similarity_search("cat", k=9)) == 3


def test_ids_are_made_of_source_and_content(store: CorralVectorStore) -> None:
    """Pieces of one file stay apart, one by one or together, and the same piece twice is one."""
    pieces = [Document(text, metadata={"source": "/data/a.md", "start_index": n * 50}) for n, text in enumerate(TEXTS)]
    first = store.add_documents(pieces[:1])
    rest = store.add_documents(pieces)
    assert rest[0] == first[0]
    assert len(set(rest)) == 3
    assert all(name.startswith("data/a.md#") for name in rest)
    found = store.similarity_search(TEXTS[1], k=9, filter={"source": "/data/a.md"})
    assert len(found) == 3
    assert found[0].metadata == {
        "source": "/data/a.md", "start_index": 50, "title": "", "page": None, "start": 50, "end": 50 + len(TEXTS[1]),
        "headings": [],
    }  # fmt: skip
    assert store.similarity_search("cat", filter={"source": "/data/b.md"}) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (None, "text"),
        ("", "text"),
        ("/etc/../x.md", "etc/x.md"),
        ("https://example.org/a?b=c", "https:/example.org/a?b=c"),
        ("C:\\files\\a.md", "C:/files/a.md"),
        ("~/a\nb", "a b"),
        ("../..", "text"),
        ("\u00fc" * 400, "\u00fc" * 200),
        (7, "7"),
        ("\ud800", "?"),
    ],
)
def test_any_source_begins_a_name(store: CorralVectorStore, source: object, name: str) -> None:
    assert stem(source) == name
    (made,) = store.add_texts(["cat"], [{"source": source}] if isinstance(source, str | None) else [{"source": 7}])
    assert made.startswith(f"{name}#")
    assert texts(store.get_by_ids([made])) == ["cat"]


@pytest.mark.parametrize("name", ["/1", "../1", "a//b", "a\nb", "x" * 600])
def test_ids_that_cannot_be(store: CorralVectorStore, name: str) -> None:
    with pytest.raises(BadName):
        store.add_texts(["cat"], ids=[name])


def test_metadata_are_scalars(store: CorralVectorStore) -> None:
    with pytest.raises(ValueError, match=r"metadata\['tags'\] is a list"):
        store.add_texts(["cat"], [{"tags": ["a"]}])
    for number in (float("nan"), -float("inf")):
        with pytest.raises(ValueError, match=r"metadata\['score'\] is .*finite"):
            store.add_texts(["cat"], [{"score": number}])
    with pytest.raises(ValueError, match="2 of them for 1 documents"):
        store.add_documents([Document("cat")], ids=["1", "2"])
    kept = {"text": "a", "n": 1, "f": 0.5, "b": True, "title": "Cats", "page": 3}
    store.add_texts(["cat"], [kept | {"nothing": None}], ids=["1"])
    (found,) = store.similarity_search("cat", filter={"page": 3, "title": "Cats", "b": True})
    assert found.metadata == kept | {"source": "1", "start": 0, "end": 3, "headings": []}


def test_scores_are_cosines_best_first(store: CorralVectorStore) -> None:
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score("cats sleep", k=3)
    query, row = (
        np.array(Letters().embed_query("cats sleep")),
        np.array(Letters().embed_query(found[0][0].page_content)),
    )
    assert found[0][1] == pytest.approx(query @ row / np.linalg.norm(query) / np.linalg.norm(row), abs=1e-5)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert store.similarity_search_by_vector(query.tolist(), k=3) == [document for document, _ in found]
    relevant = store.similarity_search_with_relevance_scores("cats sleep", k=3, score_threshold=found[1][1] - 1e-6)
    assert texts([document for document, _ in relevant]) == texts([document for document, _ in found[:2]])
    with pytest.raises(ValueError, match="a vector of 2 values"):
        store.similarity_search_by_vector([1.0, 2.0])


def test_marginal_relevance_puts_copies_apart(store: CorralVectorStore) -> None:
    store.add_texts(["cats sleep", "cats sleep!", "a dog barks"])
    assert set(texts(store.similarity_search("cats sleep", k=2))) == {"cats sleep", "cats sleep!"}
    for found in (
        store.max_marginal_relevance_search("cats sleep", k=2, fetch_k=3, lambda_mult=0.1),
        store.max_marginal_relevance_search_by_vector(Letters().embed_query("cats sleep"), k=2, lambda_mult=0.1),
        store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1}).invoke("cats sleep"),
    ):
        assert texts(found)[1] == "a dog barks"
    assert len(store.max_marginal_relevance_search("cats sleep", k=3, fetch_k=1)) == 3


def test_delete(store: CorralVectorStore) -> None:
    store.add_texts(TEXTS, ids=["1", "2", "3"])
    assert store.delete(["1", "3", "nobody", "a#0-3"])
    assert texts(store.similarity_search("cat", k=9)) == [TEXTS[1]]
    version = store.collections.snapshot(NAME).version
    assert store.delete(["nobody"])
    assert store.collections.snapshot(NAME).version == version
    assert store.delete(["2"])
    assert store.similarity_search("cat") == []
    assert store.collections.exists(NAME)
    assert store.delete()
    assert not store.collections.exists(NAME)


def test_what_was_ingested_is_found_passage_by_passage(store: CorralVectorStore) -> None:
    ingested(store, "a.md", *TEXTS)
    found = store.similarity_search(TEXTS[1], k=1)[0]
    assert found.id == f"a.md#100-{100 + len(TEXTS[1])}"
    assert found.metadata == {
        "source": "a.md", "title": "A title", "page": 2, "start": 100, "end": 100 + len(TEXTS[1]), "headings": ["Top"],
        "team": "ops",
    }  # fmt: skip
    assert store.get_by_ids([found.id]) == [found]
    assert store.delete([found.id])
    assert store.get_by_ids([found.id]) == []
    entry = store.collections.snapshot(NAME).document("a.md")
    assert (entry.count, entry.sha256) == (2, "")
    assert texts(store.similarity_search(TEXTS[2], k=1)) == [TEXTS[2]]


def test_one_ingested_passage_can_be_replaced(store: CorralVectorStore) -> None:
    ingested(store, "a.md", *TEXTS)
    name = f"a.md#0-{len(TEXTS[0])}"
    assert store.add_texts(["The cat woke up."], ids=[name]) == [name]
    assert texts(store.get_by_ids([name])) == ["The cat woke up."]
    assert sorted(texts(store.similarity_search("cat", k=9))) == sorted(["The cat woke up.", *TEXTS[1:]])


def test_from_texts_and_from_documents(tmp_path: Path) -> None:
    made = CorralVectorStore.from_texts(TEXTS, Letters(), [{"n": 1}] * 3, ids=["1", "2", "3"], folder=tmp_path / "one")
    assert [each.metadata["n"] for each in made.get_by_ids(["2"])] == [1]
    assert made.collections.names() == ("langchain",)
    documents = [Document(text, id=f"id-{n}") for n, text in enumerate(TEXTS)]
    config = RagConfig(folder=str(tmp_path / "two"))
    other = CorralVectorStore.from_documents(documents, Letters(), collection="other", config=config)
    assert other.collections.names() == ("other",)
    assert texts(other.get_by_ids(["id-1"])) == [TEXTS[1]]
    with pytest.raises(ValueError, match="say where"):
        CorralVectorStore.from_texts(TEXTS, Letters())


def test_another_model_is_refused(store: CorralVectorStore) -> None:
    store.add_texts(TEXTS)
    other = CorralVectorStore(store.collections, NAME, DeterministicFakeEmbedding(size=26))
    assert store._model.info.model == "Letters/letters-1"
    for use in (lambda: other.similarity_search("cat"), lambda: other.add_texts(["dog"])):
        with pytest.raises(EmbeddingMismatch, match="Letters/letters-1"):
            use()


def test_errors_reach_the_caller(store: CorralVectorStore) -> None:
    store.add_texts(TEXTS)
    with pytest.raises(BadFilter):
        store.similarity_search("cat", filter={"team": {"near": 1}})
    with store.collections.writer(NAME, store._model.info), pytest.raises(CollectionBusy):
        store.add_texts(["dog"])
    searcher = Searcher(store._model, SearchConfig())
    with pytest.raises(UnknownCollection):
        CorralRetriever(collections=store.collections, collection="nobody", searcher=searcher).invoke("cat")


async def test_async_is_the_same(store: CorralVectorStore) -> None:
    assert await store.aadd_documents([Document(text) for text in TEXTS], ids=["1", "2", "3"]) == ["1", "2", "3"]
    assert await store.asimilarity_search("cat", k=2) == store.similarity_search("cat", k=2)
    assert texts(await store.aget_by_ids(["2"])) == [TEXTS[1]]
    assert await store.retriever(k=2).ainvoke("cat") == store.retriever(k=2).invoke("cat")
    await store.adelete(["2"])
    assert store.get_by_ids(["2"]) == []


def test_the_retriever_fuses_and_filters(library: Library) -> None:
    store = CorralVectorStore(library, NAME, minilm())
    store.add_texts(
        ["Error E7731 means that the mail server refused the sender.", *TEXTS],
        [{"team": team} for team in ("mail", "pets", "ops", "ops")],
    )
    best = store.retriever(k=2).invoke("what is E7731")
    assert best[0].metadata["team"] == "mail"
    assert best[0].metadata["score"] == pytest.approx(2 / 61)
    assert best[0].metadata["similarity"] > 0.3
    assert {each.metadata["team"] for each in store.retriever(filters={"team": "ops"}).invoke("E7731")} == {"ops"}
    assert len(store.retriever(mode="bm25").invoke("E7731")) == 1
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        store.retriever(k=0)


def test_a_chain_and_a_tool(library: Library) -> None:
    store = CorralVectorStore(library, NAME, minilm())
    store.add_texts(TEXTS, [{"source": f"{n}.md"} for n in range(3)])
    retriever = store.retriever(k=1)

    def told(documents: list[Document]) -> str:
        return "\n".join(f"[{each.metadata['source']}] {each.page_content}" for each in documents)

    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    said = RunnableLambda(lambda value: value.to_messages()[0].content)
    chain: Any = {"context": retriever | told, "question": RunnablePassthrough()} | prompt | said | StrOutputParser()
    question = "How many GPUs can I use?"
    assert chain.invoke(question) == f"[1.md] {TEXTS[1]}\n\n{question}"
    assert [len(found) for found in retriever.batch(["cats", "disk space"])] == [1, 1]
    tool = create_retriever_tool(retriever, "handbook", "Searches the handbook.")
    assert tool.invoke({"query": "Where can I get more disk space?"}) == TEXTS[2]


def test_searches_go_on_while_documents_are_added(store: CorralVectorStore) -> None:
    store.add_texts(TEXTS)
    stop, found = threading.Event(), list[str]()

    def search() -> None:
        while not stop.is_set():
            found.extend(texts(store.similarity_search("The cat sleeps.", k=1)))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for n in range(4):
            store.add_texts([f"Dog {n} barks."])
    finally:
        stop.set()
        thread.join()
    assert set(found) == {"The cat sleeps."}
    assert store.collections.snapshot(NAME).count == 7
