"""A model's generations side by side: where its served ids lead changes in one step, and back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from app.edge import Edge, EdgeError, EdgeSpec
from tests.edge.backend import Backend, running
from tests.waiting import eventually

CHAT = "/v1/chat/completions"


async def who(client: httpx.AsyncClient, model: str = "m-a") -> str:
    response = await client.post(CHAT, json={"model": model})
    assert response.status_code == 200, response.text
    return str(response.json()["from"])


async def test_ids_lead_to_the_next_generation_from_one_request_to_the_next(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec
) -> None:
    async with running("old") as old, running("new") as new:
        await edge.reload(replace(spec, spare=("m-a:1",)))
        await edge.set_replicas("m-a", [("127.0.0.1", old.port)])
        await edge.set_replicas("m-a:1", [("127.0.0.1", new.port)])
        assert await who(client) == "old"
        led = tuple((served, "m-a:1" if base == "m-a" else base) for served, base in spec.models)
        await edge.lead(led)
        assert [await who(client) for _ in range(4)] == ["new"] * 4
        assert set(new.paths) == {f"/models/m-a:1{CHAT}"}
        await edge.lead(spec.models)
        assert await who(client) == "old"
        assert set(edge.spec.bases) == {*spec.bases, "m-a:1"}


async def test_no_request_is_lost_while_it_changes(client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec) -> None:
    led = tuple((served, "m-a:1" if base == "m-a" else base) for served, base in spec.models)
    async with running("old") as old, running("new") as new:
        await edge.reload(replace(spec, spare=("m-a:1",)))
        await edge.set_replicas("m-a", [("127.0.0.1", old.port)])
        await edge.set_replicas("m-a:1", [("127.0.0.1", new.port)])
        over = asyncio.Event()
        seen: list[str] = []

        async def ask() -> None:
            while not over.is_set():
                seen.append(await who(client))

        load = asyncio.gather(*(ask() for _ in range(4)))
        for _ in range(10):
            await edge.lead(led)
            await edge.lead(spec.models)
        over.set()
        await load
    assert set(seen) <= {"old", "new"}
    assert len(seen) >= 4


async def test_a_model_that_is_gone_is_the_gateways_and_one_that_comes_is_routed(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, serve: Backend
) -> None:
    await edge.reload(replace(spec, spare=("coming",)))
    await edge.lead((*(pair for pair in spec.models if pair[1] != "m-a"), ("coming", "coming")))
    await who(client)
    assert serve.paths[-1] == CHAT
    await who(client, "coming")
    assert serve.paths[-1] == f"/models/coming{CHAT}"
    with pytest.raises(EdgeError, match="no model 'nowhere' here"):
        await edge.lead((("x", "nowhere"),))


async def test_what_was_led_outlives_death_and_a_model_that_does_not_answer_stays_the_gateways(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, serve: Backend
) -> None:
    await edge.reload(replace(spec, spare=("m-a:1",)))
    await edge.set_model("m-a", False)
    await edge.lead(tuple((served, "m-a:1" if base == "m-a" else base) for served, base in spec.models))
    await who(client)
    assert serve.paths[-1] == CHAT
    await edge.set_model("m-a", True)
    await edge.stop(0)
    await edge.start()
    await who(client)
    assert serve.paths[-1] == f"/models/m-a:1{CHAT}"


async def test_logs_name_the_model_without_its_generation(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec
) -> None:
    await edge.reload(replace(spec, spare=("m-a:1",)))
    await edge.lead(tuple((served, "m-a:1" if base == "m-a" else base) for served, base in spec.models))
    await who(client)
    log = spec.workdir / "edge.log"
    await eventually(lambda: '"status":200' in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [(line["model"], line["to"].split("/")[0]) for line in lines if line.get("path") == CHAT] == [
        ("m-a", "model-m-a:1")
    ]


@pytest.mark.parametrize("base", ["m-a:", "m-a:x", "m-a:1:2", ":1", "m a:1"])
def test_what_is_no_generation_is_refused(spec: EdgeSpec, base: str) -> None:
    with pytest.raises(ValueError, match="a model id"):
        replace(spec, spare=(base,))
