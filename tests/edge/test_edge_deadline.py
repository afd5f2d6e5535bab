"""A request's own deadline at the edge: what is silent then is ended there, and what was spent before counts."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from app.edge import Edge, EdgeSpec, ModelLimits
from tests.edge.backend import Backend, running
from tests.edge.test_edge_streams import assert_openai_error

CHAT = "/v1/chat/completions"
BODY = {"model": "m-a"}
LEFT, HEADER = "x-corral-time-left", "x-request-timeout"
LATE = "There was no whole answer within the 1 s that the request gave."
ONE_AT_A_TIME = {"limits": {"m-a": ModelLimits(1, in_flight=1)}, "queue_timeout_s": 60}
SHORT = {HEADER: "1"}


async def test_what_serve_holds_ends_at_its_deadline(client: httpx.AsyncClient, serve: Backend) -> None:
    """As a model that sleeps is held until it is loaded. The gateway's paths no less."""
    serve.hold = asyncio.Event()
    for path in (CHAT, "/generate", "/v1/rag/chat"):
        serve.left.clear()
        late = await client.post(path, json=BODY, headers=SHORT)
        assert assert_openai_error(late, 504, "server_error", "deadline_exceeded") == LATE
        await asyncio.wait_for(serve.left.wait(), 20)


@pytest.mark.parametrize("spec", [ONE_AT_A_TIME], indirect=True)
async def test_nothing_is_held_after_it(client: httpx.AsyncClient, edge: Edge, serve: Backend) -> None:
    """Neither the replica's one place, nor the replica itself, which did nothing wrong."""
    async with running("replica") as replica:
        await edge.set_replicas("m-a", [("127.0.0.1", replica.port)])
        assert (await client.post(CHAT, json=BODY)).json()["from"] == "replica"
        replica.hold = asyncio.Event()
        for _ in range(2):
            late = await client.post(CHAT, json=BODY, headers=SHORT)
            assert assert_openai_error(late, 504, "server_error", "deadline_exceeded") == LATE
        replica.hold = None
        assert (await client.post(CHAT, json=BODY)).json()["from"] == "replica"
    assert serve.seen == []


@pytest.mark.parametrize("spec", [{"deadline_grace_s": 60}], indirect=True)
async def test_a_replica_s_own_words_pass(client: httpx.AsyncClient, serve: Backend) -> None:
    serve.hold, serve.status = asyncio.Event(), 504
    asking = asyncio.create_task(client.post(CHAT, json=BODY, headers={HEADER: "5"}))
    await serve.arrived.wait()
    await asyncio.sleep(5.2)
    serve.hold.set()
    answer = await asking
    assert (answer.status_code, answer.json()["from"]) == (504, "serve")


@pytest.mark.parametrize("spec", [{"deadline_grace_s": 2}], indirect=True)
async def test_a_stream_is_not_cut_while_pieces_come(client: httpx.AsyncClient, serve: Backend) -> None:
    """A replica ends its streams itself, with an event; here none does."""
    async with client.stream("POST", f"{CHAT}?stream=1", json=BODY, headers=SHORT) as response:
        events = response.aiter_text()
        for number in range(12):
            serve.more.put_nowait(str(number))
            assert await anext(events) == f"data: {number}\n\n"
            await asyncio.sleep(0.3)
        serve.more.put_nowait("end")
        assert [event async for event in events] == []


async def test_what_is_left_goes_on_with_the_request(client: httpx.AsyncClient, serve: Backend) -> None:
    for path in (CHAT, "/generate"):
        serve.seen.clear()
        await client.post(path, json=BODY, headers={HEADER: "7.5", LEFT: "1"})
        (seen,) = serve.seen
        assert seen.all(HEADER) == ["7.5"]
        (left,) = seen.all(LEFT)
        assert 1 < int(left) <= 7500


async def test_the_time_in_which_a_body_came_counts(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    """Nobody is asked for what is too late already."""
    body = json.dumps(BODY).encode()
    reader, writer = await asyncio.open_connection(spec.host, spec.port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{HEADER}: 1\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:-1])
    await writer.drain()
    await asyncio.sleep(2)
    writer.write(body[-1:])
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 20)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 504 ")
    error = {"message": LATE, "type": "server_error", "param": None, "code": "deadline_exceeded"}
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": error}
    assert serve.seen == []


@pytest.mark.parametrize(
    "given", ["soon", "0", "-1", "nan", "inf", "1e9", "86401", "0x1", "1 2", "1,2", "", "%[src]", "9" * 400]
)
async def test_what_is_no_time_is_left_to_who_serves_it(client: httpx.AsyncClient, serve: Backend, given: str) -> None:
    assert (await client.post(CHAT, json=BODY, headers={HEADER: given})).status_code == 200
    (seen,) = serve.seen
    assert (seen.all(HEADER), seen.all(LEFT)) == ([given], [])


@pytest.mark.parametrize(
    ("given", "most"), [("1e2", 100_000), ("+30", 30_000), ("86400", 86_400_000), (".5e2", 50_000)]
)
async def test_a_time_is_read_as_replicas_do(client: httpx.AsyncClient, serve: Backend, given: str, most: int) -> None:
    await client.post(CHAT, json=BODY, headers={HEADER: given})
    (left,) = serve.seen[0].all(LEFT)
    assert most - 29_000 < int(left) <= most


@pytest.mark.parametrize("spec", [{"idle_timeout_s": 1.5}], indirect=True)
@pytest.mark.parametrize("given", ["1", "60"])
async def test_a_deadline_lengthens_no_silence(client: httpx.AsyncClient, serve: Backend, given: str) -> None:
    serve.hold = asyncio.Event()
    refused = await client.post(CHAT, json=BODY, headers={HEADER: given})
    serve.hold.set()
    message = assert_openai_error(refused, 504, "server_error", "deadline_exceeded")
    assert message == "The server did not answer in time."
