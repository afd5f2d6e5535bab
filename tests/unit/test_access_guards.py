"""What a key may ask: the guards one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from app.access.guards import GuardedRetrieval, GuardedTribunals, may_ask, require_model
from deployments.errors import Forbidden
from deployments.retrieval.service import RagAsk, Search
from deployments.tribunal.service import TribunalAsk
from tests.unit.access_fakes import acting
from tests.unit.fakes import FakeTribunals
from tests.unit.tribunal_script import RESULT, RUN, SCRIPT

QUESTION = ({"role": "user", "content": "where?"},)


@pytest.mark.parametrize(
    ("scopes", "tribunal", "config", "lacks"),
    [
        (("tribunal",), None, None, None),
        (("tribunal:default",), None, None, None),
        (("tribunal:default",), None, {}, None),
        (("tribunal:quick",), "quick", None, None),
        (("tribunal:quick",), None, None, "tribunal:default"),
        (("tribunal:quick",), "default", None, "tribunal:default"),
        (("models",), "quick", None, "tribunal:quick"),
        (("models",), None, {"members": ["a", {"model": "b"}], "chair": "c"}, None),
        (("models:a",), None, {"members": ["a"]}, None),
        (("models:a",), None, {"members": ["a", "b"]}, "models:b"),
        (("models:a",), None, {"members": [{"model": "b", "name": "a"}]}, "models:b"),
        (("models:a",), None, {"members": ["a"], "chair": "b"}, "models:b"),
        (("models:a",), None, {"members": ["a"], "chair": {"model": "b"}}, "models:b"),
        (("models:a",), None, {"members": ["a", "tribunal/quick"]}, "tribunal:quick"),
        (("models:a", "tribunal:quick"), None, {"members": ["a", "tribunal/quick"]}, None),
        (("tribunal",), None, {"members": ["a"]}, "models:a"),
        (("tribunal:quick",), "quick", {"rounds": 2}, None),
        (("tribunal:quick",), "quick", {"members": ["a"]}, "models:a"),
        (("models",), "quick", {"members": ["a"]}, "tribunal:quick"),
        (("tribunal:quick", "models:a"), "quick", {"members": ["a"]}, None),
        (("tribunal:quick",), "quick", {"chair": "a"}, "models:a"),
        (("admin",), "quick", {"members": ["a"], "chair": "b"}, None),
    ],
)
async def test_a_tribunal_takes_its_scope_and_members_of_one_s_own_choice_theirs(
    scopes: tuple[str, ...], tribunal: str | None, config: dict[str, Any] | None, lacks: str | None
) -> None:
    inner = FakeTribunals()
    guarded, ask = GuardedTribunals(inner), TribunalAsk(QUESTION, tribunal, config)
    with acting(*scopes):
        if lacks is None:
            assert await guarded.run(ask) == RESULT
            assert [event["seq"] async for event in guarded.events(ask)] == [event["seq"] for event in SCRIPT]
        else:
            with pytest.raises(Forbidden, match=f"the scope {lacks}"):
                await guarded.run(ask)
            with pytest.raises(Forbidden, match=f"the scope {lacks}"):
                guarded.events(ask)
    assert inner.asks == ([] if lacks else [ask, ask])


@pytest.mark.parametrize("members", [None, 5, "a", [5], [None], [{}], [{"model": None}], [["a"]], {"model": "a"}])
async def test_what_is_no_member_is_left_to_the_tribunals_to_refuse(members: object) -> None:
    inner = FakeTribunals()
    for config in ({"members": members}, {"members": [], "chair": members}):
        with acting("models"):
            await GuardedTribunals(inner).run(TribunalAsk(QUESTION, None, config))
    assert len(inner.asks) == 2


async def test_a_run_is_resumed_and_stopped_by_whoever_knows_its_id() -> None:
    inner = FakeTribunals(kept={RUN: SCRIPT}, missing={"quick": "no model"})
    guarded = GuardedTribunals(inner)
    with acting("models"):
        assert [event["seq"] async for event in guarded.resume(RUN, 1)] == [event["seq"] for event in SCRIPT[1:]]
        await guarded.cancel(RUN)
        assert (guarded.names, guarded.spec("quick")) == (inner.names, inner.spec("quick"))
        assert await guarded.missing("quick") == "no model"
    assert inner.stopped == [RUN]


def test_what_a_key_may_ask_of_models() -> None:
    with acting("models:a", "rag:handbook"):
        assert [model for model in ("a", "b", "tribunal", "rag/handbook", "rag/notes") if may_ask(model)] == [
            "a",
            "rag/handbook",
        ]
        require_model("a")
        with pytest.raises(Forbidden, match="models:b") as caught:
            require_model("b", "members")
    assert caught.value.param == "members"
    assert may_ask("b")  # where no keys are asked for


class Recording:
    """Implements Retrieval: writes down what reaches it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def answer(self, ask: RagAsk) -> dict[str, Any]:
        return self._did("answer")

    async def events(self, ask: RagAsk) -> AsyncIterator[dict[str, Any]]:
        yield self._did("events")

    async def search(self, query: str, search: Search) -> dict[str, Any]:
        return self._did("search")

    async def collections(self) -> list[dict[str, Any]]:
        return [{"name": "handbook"}, {"name": "notes"}, {"name": "plans"}]

    async def collection(self, name: str) -> dict[str, Any]:
        return self._did("collection")

    async def delete_collection(self, name: str) -> None:
        self._did("delete_collection")

    async def documents(self, name: str, after: str | None, limit: int) -> dict[str, Any]:
        return self._did("documents")

    async def ingest(self, name: str, uploads: Sequence[object]) -> dict[str, Any]:
        return self._did("ingest")

    async def delete_document(self, name: str, source: str) -> None:
        self._did("delete_document")

    async def sessions(self, owner: str) -> list[dict[str, Any]]:
        return [self._did(f"sessions {owner}")]

    async def session(self, owner: str, session: str) -> dict[str, Any]:
        return self._did(f"session {owner} {session}")

    async def delete_session(self, owner: str, session: str) -> None:
        self._did(f"delete_session {owner} {session}")

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        return self._did("embed")

    def _did(self, what: str) -> dict[str, Any]:
        self.calls.append(what)
        return {"did": what}


Work = Callable[[GuardedRetrieval], Coroutine[Any, Any, object]]


async def _events(retrieval: GuardedRetrieval, ask: RagAsk) -> list[dict[str, Any]]:
    return [event async for event in retrieval.events(ask)]


HANDBOOK = RagAsk("where?", Search("handbook"))
ASKING: dict[str, Work] = {
    "answer": lambda retrieval: retrieval.answer(HANDBOOK),
    "events": lambda retrieval: _events(retrieval, HANDBOOK),
    "search": lambda retrieval: retrieval.search("where?", Search("handbook")),
}
CHANGING: dict[str, Work] = {
    "delete_collection": lambda retrieval: retrieval.delete_collection("handbook"),
    "ingest": lambda retrieval: retrieval.ingest("handbook", []),
    "delete_document": lambda retrieval: retrieval.delete_document("handbook", "a.md"),
}
LOOKING: dict[str, Work] = {
    "collection": lambda retrieval: retrieval.collection("handbook"),
    "documents": lambda retrieval: retrieval.documents("handbook", None, 10),
}
MAY = {
    "rag": (ASKING, LOOKING), "rag:handbook": (ASKING, LOOKING), "documents": (CHANGING, LOOKING),
    "documents:handbook": (CHANGING, LOOKING), "admin": (ASKING, CHANGING, LOOKING), "rag:notes": (),
    "documents:notes": (), "models": (), "tribunal": (), "metrics": (),
}  # fmt: skip


@pytest.mark.parametrize(("scope", "allowed"), MAY.items())
async def test_each_way_to_a_collection_takes_its_scope(scope: str, allowed: Sequence[Mapping[str, Work]]) -> None:
    inner = Recording()
    may = {name for some in allowed for name in some}
    with acting(scope):
        for name, work in {**ASKING, **CHANGING, **LOOKING}.items():
            if name in may:
                await work(GuardedRetrieval(inner))
                continue
            with pytest.raises(Forbidden) as caught:
                await work(GuardedRetrieval(inner))
            assert caught.value.param == "collection"
    assert sorted(inner.calls) == sorted(may)


@pytest.mark.parametrize(
    ("scopes", "model", "lacks"),
    [
        (("rag",), None, None),
        (("rag",), "a", "models:a"),
        (("rag", "models:a"), "a", None),
        (("rag", "models"), "tribunal/quick", "tribunal:quick"),
        (("models",), "a", "rag:handbook"),
    ],
)
async def test_who_is_to_answer_takes_a_scope_of_its_own(
    scopes: tuple[str, ...], model: str | None, lacks: str
) -> None:
    inner, ask = Recording(), RagAsk("where?", Search("handbook"), model=model)
    guarded = GuardedRetrieval(inner)
    with acting(*scopes):
        if lacks is None:
            assert (await guarded.answer(ask), await _events(guarded, ask)) == ({"did": "answer"}, [{"did": "events"}])
            return
        for work in (guarded.answer, lambda ask: _events(guarded, ask)):
            with pytest.raises(Forbidden, match=f"the scope {lacks}"):
                await work(ask)
    assert inner.calls == []


@pytest.mark.parametrize(
    ("scopes", "seen"),
    [
        (("rag:handbook", "documents:notes"), ["handbook", "notes"]),
        (("documents",), ["handbook", "notes", "plans"]),
        (("models",), []),
        (("admin",), ["handbook", "notes", "plans"]),
    ],
)
async def test_a_key_sees_its_collections(scopes: tuple[str, ...], seen: list[str]) -> None:
    with acting(*scopes):
        assert [card["name"] for card in await GuardedRetrieval(Recording()).collections()] == seen


async def test_sessions_and_embedding_are_guarded_elsewhere() -> None:
    inner = Recording()
    guarded = GuardedRetrieval(inner)
    with acting("models"):
        await guarded.sessions("o")
        await guarded.session("o", "s")
        await guarded.delete_session("o", "s")
        await guarded.embed(["x"])
    assert inner.calls == ["sessions o", "session o s", "delete_session o s", "embed"]
