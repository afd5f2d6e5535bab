"""/v1/tribunal/ID, GET /v1/tribunal, and what the document says of tribunals: a run taken up again, and stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from app.tribunal.openapi import INLINE, WORDS
from app.tribunal.openapi import RESULT as DOCUMENTED
from app.tribunal.wire import TribunalAskBody
from deployments.tribunal.events import EventType
from tests.unit.asgi import client_of, gateway, get, problem
from tests.unit.fakes import FakeTribunals
from tests.unit.tribunal_events import events, over
from tests.unit.tribunal_script import ERROR, FAILING, RESULT, RUN, SCRIPT
from tests.waiting import eventually

ASKED = {"question": "where?"}


@pytest.mark.parametrize(
    ("query", "headers", "after"),
    [
        ("", {}, 0),
        ("?after=4", {}, 4),
        ("", {"last-event-id": "5"}, 5),
        ("?after=2", {"last-event-id": "6"}, 6),
        ("?after=99", {"accept": "text/event-stream, application/json"}, 99),
    ],
)
async def test_a_run_is_resumed_after_what_was_heard(query: str, headers: dict[str, str], after: int) -> None:
    tribunals = FakeTribunals(kept={RUN: SCRIPT})
    async with client_of(over(tribunals)) as client:
        response = await client.get(f"/v1/tribunal/{RUN}{query}", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [seq for seq, _ in events(response.content)] == [e["seq"] for e in SCRIPT if e["seq"] > after]
    assert tribunals.resumed == [(RUN, after)]


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ("?after=-1", {}, "after"),
        ("?after=x", {}, "after"),
        ("?after=1.5", {}, "after"),
        (f"?after={10**30}", {}, "after"),
        ("", {"last-event-id": "x"}, "last-event-id"),
    ],
)
async def test_a_place_that_is_no_seq_is_refused(query: str, headers: dict[str, str], param: str) -> None:
    async with client_of(over(FakeTribunals(kept={RUN: SCRIPT}))) as client:
        response = await client.get(f"/v1/tribunal/{RUN}{query}", headers=headers)
    assert (response.status_code, problem(response)["param"]) == (400, param)


async def test_with_accept_json_the_result_comes_once_it_is_there() -> None:
    tribunals = FakeTribunals(kept={RUN: SCRIPT, "failed": FAILING, "broken": SCRIPT[:2]})
    json_only = {"accept": "application/json"}
    async with client_of(over(tribunals)) as client:
        result = await client.get(f"/v1/tribunal/{RUN}", headers=json_only)
        failed = await client.get("/v1/tribunal/failed", headers=json_only)
        broken = await client.get("/v1/tribunal/broken", headers=json_only)
    assert (result.status_code, result.json()) == (200, RESULT)
    assert (failed.status_code, problem(failed)) == (503, ERROR)
    assert (broken.status_code, problem(broken)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json", "*/*"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_run_is_404(method: str, accept: str) -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.request(method, "/v1/tribunal/run-2", headers={"accept": accept})
    assert (response.status_code, problem(response)["code"]) == (404, "run_not_found")


async def test_an_id_without_end_is_refused() -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.get(f"/v1/tribunal/{'x' * 129}")
    assert (response.status_code, problem(response)["param"]) == (400, "run_id")


async def test_a_client_that_leaves_a_resumed_stream_is_let_go() -> None:
    tribunals = FakeTribunals(kept={RUN: SCRIPT}, step=asyncio.Semaphore(2))
    call = get(over(tribunals), f"/v1/tribunal/{RUN}")
    await eventually(lambda: call.sent.qsize() == 3)
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert (tribunals.running, tribunals.cancelled) == (0, 1)


async def test_a_run_is_stopped_by_whoever_knows_its_id() -> None:
    tribunals = FakeTribunals(kept={RUN: SCRIPT})
    async with client_of(over(tribunals)) as client:
        response = await client.delete(f"/v1/tribunal/{RUN}")
    assert (response.status_code, response.content) == (204, b"")
    assert tribunals.stopped == [RUN]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/tribunal", "GET, POST"),
        ("DELETE", "/v1/tribunal", "GET, POST"),
        ("POST", f"/v1/tribunal/{RUN}", "GET, DELETE"),
    ],
)
async def test_other_methods_are_405(method: str, path: str, allow: str) -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.request(method, path, json=ASKED)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    problem(response)


# The list, and the document.


async def test_the_list_says_which_tribunals_could_sit() -> None:
    missing: dict[str, str | Exception] = {"quick": "the chair 'a' is failed", "lost": RuntimeError("no Ray")}
    async with client_of(over(FakeTribunals("default", "quick", "lost", missing=missing))) as client:
        listed = (await client.get("/v1/tribunal")).json()
    spec = {"strategy": "council", "members": [{"model": "pocket-1b"}]}
    unknown = "its members did not say in time"
    assert listed == {
        "object": "list",
        "data": [
            {"name": "default", "model": "tribunal", "ready": True, "spec": spec},
            {
                "name": "quick",
                "model": "tribunal/quick",
                "ready": False,
                "reason": "the chair 'a' is failed",
                "spec": spec,
            },
            {"name": "lost", "model": "tribunal/lost", "ready": False, "reason": unknown, "spec": spec},
        ],
    }


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return gateway(tribunals=FakeTribunals()).openapi()


def test_the_document_tells_every_type_of_event(document: dict[str, Any]) -> None:
    described = document["paths"]["/v1/tribunal"]["post"]["description"]
    assert list(WORDS) == list(EventType)
    assert all(f"`{kind.value}`" in described for kind in EventType)


async def test_answers_and_examples_match_their_schemas(document: dict[str, Any]) -> None:
    async with client_of(over(FakeTribunals(missing={"quick": "x"}))) as client:
        listed = (await client.get("/v1/tribunal")).json()
    shown = document["paths"]["/v1/tribunal"]
    contents = shown["post"]["responses"]["200"]["content"]
    event = contents["text/event-stream"]["schema"]["properties"]["data"]["anyOf"][1]["contentSchema"]
    for value, schema in [
        (RESULT, contents["application/json"]["schema"]),
        (DOCUMENTED, contents["application/json"]["schema"]),
        *[(envelope, event) for envelope in SCRIPT],
        (INLINE, shown["post"]["requestBody"]["content"]["application/json"]["schema"]),
        (listed, shown["get"]["responses"]["200"]["content"]["application/json"]["schema"]),
    ]:
        jsonschema.validate(value, {**schema, "components": document["components"]})
    TribunalAskBody.model_validate(INLINE)
    assert {"get", "delete"} <= set(document["paths"]["/v1/tribunal/{run_id}"])


def test_every_part_of_a_result_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["TribunalReply"]["properties"]) == set(RESULT)
    assert set(schemas["StepReply"]["properties"]) >= {key for step in RESULT["trace"] for key in step}
    assert set(schemas["CostReply"]["properties"]) == set(RESULT["cost"])


async def test_every_part_of_the_list_is_described_and_its_system_messages_are_said_to_be_there(
    document: dict[str, Any],
) -> None:
    tribunals = FakeTribunals("quick", missing={"quick": "x"})
    tribunals.specs["quick"] = {"members": [{"model": "a", "system": "You doubt."}]}
    async with client_of(over(tribunals)) as client:
        (card,) = (await client.get("/v1/tribunal")).json()["data"]
    described = document["components"]["schemas"]["TribunalCard"]
    assert set(described["properties"]) == set(card)
    assert card["spec"] == tribunals.specs["quick"]
    assert described["properties"]["spec"]["type"] == "object"
    assert "`system` messages" in described["properties"]["spec"]["description"]
    assert "spec" in described["required"]
