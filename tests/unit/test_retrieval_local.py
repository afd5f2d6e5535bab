"""LocalRetrieval over real indexes in a folder; only the models are stand-ins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from deployments.errors import BadRequest, EngineFailed, Overloaded, UnknownModel
from deployments.retrieval.index_search import OpenEmbeddings
from deployments.retrieval.local import WRITES_WAITING, LocalRetrieval
from deployments.retrieval.service import RagAsk, Retrieval, Search, Upload
from deployments.retrieval.sessions import Sessions
from rag.collection_library import Library
from rag.config import EmbeddingConfig, RagConfig
from rag.errors import (
    BadFilter,
    BadName,
    CollectionBusy,
    EmbeddingUnavailable,
    OutOfSpace,
    UnknownCollection,
    UnknownDocument,
    UnknownSession,
)
from tests.unit.rag_ingest import ServedVectors, WordVectors
from tests.unit.retrieval_fakes import OneModel, Scripted

QUEUES = "# Queues\n\nThe willow partition has a time limit of 48 hours. It is owned by the cedar team.\n"
STORAGE = "# Storage\n\nThe reef file system has a quota of 5 TB. The reef file system is mounted at /data7.\n"
QUESTION = "What is the time limit of the willow partition?"


def opens(vectors: WordVectors) -> OpenEmbeddings:
    def open_embeddings(config: EmbeddingConfig) -> WordVectors:
        return vectors

    return cast(OpenEmbeddings, open_embeddings)


Make = Callable[..., LocalRetrieval]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LocalRetrieval] = []

    def retrieval(*says: Any, vectors: WordVectors | None = None, opener: Any = None, **config: Any) -> LocalRetrieval:
        rag = RagConfig.model_validate({"folder": str(tmp_path / "rag"), "embedding": {"model": "words"}, **config})
        model = Scripted(*(says or ("It is 48 hours [1].",)))
        made.append(
            LocalRetrieval(rag, OneModel(model), "llama", open_embeddings=opener or opens(vectors or ServedVectors()))
        )
        return made[-1]

    yield retrieval
    for each in made:
        each.close()


@pytest.fixture
def uploads(tmp_path: Path) -> list[Upload]:
    found = []
    for source, text in {"docs/queues.md": QUEUES, "storage.md": STORAGE}.items():
        path = tmp_path / source.replace("/", "-")
        path.write_text(text)
        found.append(Upload(str(path), source, {"team": source[:4]}))
    return found


def ask(question: str = QUESTION, **changes: Any) -> RagAsk:
    return RagAsk(question, Search(changes.pop("collection", "handbook")), **changes)


async def test_what_is_ingested_is_found_and_answered_from(make: Make, uploads: list[Upload]) -> None:
    retrieval: Retrieval = make()
    report = await retrieval.ingest("handbook", uploads)
    assert (report["added"], report["failed"], report["version"]) == (2, 0, 1)
    result = await retrieval.answer(ask())
    (citation,) = result["citations"]
    assert (citation["number"], citation["source"]) == (1, "docs/queues.md")
    assert [citation["text"][a:b] for a, b in citation["marks"]] == [
        "The willow partition has a time limit of 48 hours."
    ]
    assert QUEUES[citation["start"] : citation["end"]] == citation["text"]
    found = await retrieval.search("quota of reef", Search("handbook", top_k=1, mode="bm25"))
    assert [(hit["source"], hit["bm25_rank"], hit["dense_rank"]) for hit in found["hits"]] == [("storage.md", 1, None)]
    assert (found["collection"], found["version"], found["mode"]) == ("handbook", 1, "bm25")
    none = await retrieval.search("quota", Search("handbook", filters={"team": "none"}))
    assert none["hits"] == []


async def test_cards_documents_and_deletions(make: Make, uploads: list[Upload]) -> None:
    retrieval = make()
    await retrieval.ingest("handbook", uploads)
    (card,) = await retrieval.collections()
    assert card == await retrieval.collection("handbook")
    assert (card["model"], card["documents"], card["ready"]) == ("rag/handbook", 2, True)
    first = await retrieval.documents("handbook", None, 1)
    assert ([each["source"] for each in first["data"]], first["has_more"]) == (["docs/queues.md"], True)
    rest = await retrieval.documents("handbook", "docs/queues.md", 1)
    assert ([each["source"] for each in rest["data"]], rest["has_more"]) == (["storage.md"], False)
    await retrieval.delete_document("handbook", "storage.md")
    assert (await retrieval.collection("handbook"))["documents"] == 1
    with pytest.raises(UnknownDocument):
        await retrieval.delete_document("handbook", "storage.md")
    await retrieval.delete_collection("handbook")
    assert await retrieval.collections() == []


async def test_what_is_unknown_or_wrong_is_told_before_any_event(make: Make, uploads: list[Upload]) -> None:
    retrieval = make()
    await retrieval.ingest("handbook", uploads)
    for wrong, error in (
        (ask(collection="cookbook"), UnknownCollection),
        (ask(collection="../x"), BadName),
        (ask(session="A" * 24), UnknownSession),
        (ask(model="gpt"), UnknownModel),
        (ask(" "), BadRequest),
    ):
        with pytest.raises(error):
            await anext(retrieval.events(wrong))
    with pytest.raises(BadFilter):
        await retrieval.search("x", Search("handbook", filters={"team": {"like": "x"}}))
    with pytest.raises(BadRequest, match="names no reranker"):
        await retrieval.search("x", Search("handbook", rerank=True))


async def test_a_search_in_no_collection_loads_no_model(make: Make) -> None:
    opened: list[EmbeddingConfig] = []
    retrieval = make(opener=opened.append)
    for name, error in (("none", UnknownCollection), ("../x", BadName)):
        with pytest.raises(error):
            await retrieval.search("x", Search(name))
    assert opened == []


async def test_a_session_goes_on_over_turns_and_is_its_owners(make: Make, uploads: list[Upload]) -> None:
    retrieval = make("It is 48 hours [1].", "Who owns the willow partition?", "The cedar team [1].")
    await retrieval.ingest("handbook", uploads)
    events = [event async for event in retrieval.events(ask(session="new", owner="ada"))]
    session = events[-1]["result"]["session"]
    assert events[0]["session"] == session
    result = await retrieval.answer(ask("And who owns it?", session=session, owner="ada"))
    assert (result["question"], result["session"]) == ("Who owns the willow partition?", session)
    (card,) = await retrieval.sessions("ada")
    assert (card["id"], card["title"], card["turns"], card["collection"]) == (session, QUESTION, 2, "handbook")
    kept = (await retrieval.session("ada", session))["turns"][1]
    assert (kept["question"], kept["searched"]) == ("And who owns it?", "Who owns the willow partition?")
    assert kept["citations"][0]["source"] == "docs/queues.md"
    with pytest.raises(UnknownSession):
        await retrieval.answer(ask(session=session, owner="ben"))
    await retrieval.delete_session("ada", session)
    assert await retrieval.sessions("ada") == []


async def test_an_answer_goes_out_when_its_turn_cannot_be_kept(
    make: Make, uploads: list[Upload], monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval = make()
    await retrieval.ingest("handbook", uploads)

    def full(*_: object) -> None:
        raise OutOfSpace("The disk is full; this turn of the session is not kept.")

    monkeypatch.setattr(Sessions, "start", full)
    result = await retrieval.answer(ask(session="new"))
    assert result["answer"] == "It is 48 hours [1]."
    assert result["session_error"].startswith("The disk is full")


async def test_a_failed_answer_leaves_no_turn(make: Make, uploads: list[Upload]) -> None:
    retrieval = make(EngineFailed("dead"))
    await retrieval.ingest("handbook", uploads)
    with pytest.raises(EngineFailed):
        await retrieval.answer(ask(session="new"))
    assert await retrieval.sessions("") == []


async def test_uploads_to_one_collection_wait_for_each_other(make: Make, uploads: list[Upload]) -> None:
    """Each ingest holds the collection's lock, so that two at once would fail."""
    retrieval = make()
    reports = await asyncio.gather(*(retrieval.ingest("handbook", [upload]) for upload in uploads * 2))
    assert sorted(report["added"] for report in reports) == [0, 0, 1, 1]
    assert (await retrieval.collection("handbook"))["documents"] == 2


async def test_too_many_uploads_are_refused_and_a_cancelled_one_stops(make: Make, uploads: list[Upload]) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        go_on.wait(30)

    retrieval = make(vectors=ServedVectors(before=wait))
    tasks = [asyncio.create_task(retrieval.ingest("handbook", uploads)) for _ in range(WRITES_WAITING + 1)]
    await asyncio.to_thread(entered.wait, 30)
    with pytest.raises(Overloaded, match="wait for the collection 'handbook'"):
        await retrieval.ingest("handbook", uploads)
    for task in tasks:
        task.cancel()
    go_on.set()
    assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}
    assert (await retrieval.ingest("handbook", uploads))["version"] in (1, 2)


async def test_a_collection_that_another_process_writes_is_busy(
    make: Make, uploads: list[Upload], tmp_path: Path
) -> None:
    retrieval = make()
    await retrieval.ingest("handbook", uploads)
    library = Library(tmp_path / "rag" / "collections", RagConfig())
    with library.writer("handbook", ServedVectors().info):
        for change in (
            retrieval.ingest("handbook", uploads),
            retrieval.delete_document("handbook", "storage.md"),
            retrieval.delete_collection("handbook"),
        ):
            with pytest.raises(CollectionBusy):
                await change


async def test_a_collection_of_another_model_is_not_ready(make: Make, uploads: list[Upload]) -> None:
    await make().ingest("handbook", uploads)
    other = make(vectors=ServedVectors("others"), embedding={"model": "others"})
    (card,) = await other.collections()
    assert card["ready"] is False
    assert "'words'" in card["reason"]
    assert "'others'" in card["reason"]


async def test_a_damaged_collection_is_not_ready(make: Make, uploads: list[Upload], tmp_path: Path) -> None:
    await make().ingest("handbook", uploads)
    for path in (tmp_path / "rag" / "collections" / "handbook").rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(b"\0" * 100)
    retrieval = make()
    (card,) = await retrieval.collections()
    assert card["ready"] is False
    assert card["reason"]
    assert card == await retrieval.collection("handbook")


async def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(make: Make, uploads: list[Upload]) -> None:
    tries: list[str] = []

    def second_time(config: EmbeddingConfig) -> ServedVectors:
        tries.append(config.model)
        if len(tries) == 1:
            raise EmbeddingUnavailable("words: there are no weights")
        return ServedVectors()

    retrieval = make(opener=second_time)
    with pytest.raises(EmbeddingUnavailable):
        await retrieval.ingest("handbook", uploads)
    await asyncio.gather(*(retrieval.ingest("handbook", uploads) for _ in range(3)))
    assert tries == ["words", "words"]


async def test_texts_are_embedded(make: Make) -> None:
    told = await make().embed(["one two", "three"])
    assert (told["model"], told["tokens"]) == ("words", 3)
    assert [len(vector) for vector in told["embeddings"]] == [256, 256]
