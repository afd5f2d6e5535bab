"""The gateway on a real socket before a real upstream: pieces, disconnects and refusals as uvicorn does them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from app.relay import Upstream
from app.services import BulkLimits, Limits, Services
from app.web import create_app
from tests.unit.fakes import FakeHerd, FakeModel
from tests.waiting import eventually


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The app under uvicorn on a free port of the loopback interface."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


class Engine:
    """A model's app that streams one piece for every release of `step`, and notices when its client leaves."""

    def __init__(self) -> None:
        self.step = asyncio.Semaphore(0)
        self.left = False
        self.app = FastAPI()
        self.app.add_api_route("/models/a/v1/chat/completions", self.stream, methods=["POST"])

    async def stream(self) -> StreamingResponse:
        return StreamingResponse(self._pieces(), media_type="text/event-stream")

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            for number in range(100):
                await self.step.acquire()
                yield f"data: {number}\n\n".encode()
        except asyncio.CancelledError:
            self.left = True
            raise


@asynccontextmanager
async def gateway_before(upstream: str, model: FakeModel) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=upstream, trust_env=False) as forward:
        limits = Limits(body_timeout_s=0.1, bulk=BulkLimits(max_in_flight=3))
        services = Services({"a": model}, {"a": "a"}, FakeHerd.ready("a"), Upstream(forward), limits)
        async with served(create_app(services)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client


async def test_streams_pass_through_both_servers_and_a_leaving_client_reaches_the_upstream() -> None:
    upstream = Engine()
    async with served(upstream.app) as url, gateway_before(url, FakeModel("a")) as client:
        async with client.stream("POST", "/v1/chat/completions", json={"model": "a", "stream": True}) as response:
            pieces = response.aiter_raw()
            for number in range(3):
                upstream.step.release()
                assert await asyncio.wait_for(anext(pieces), 1) == f"data: {number}\n\n".encode()
        await eventually(lambda: upstream.left)


async def test_a_leaving_client_cancels_generate_and_bulk() -> None:
    model = FakeModel("a", step=asyncio.Semaphore(0))
    item = {"model": "a", "prompt": "x"}
    async with gateway_before("http://127.0.0.1:1", model) as client:
        for path, body, running in (("/generate", item, 1), ("/bulk", {"items": [item] * 9}, 3)):
            call = asyncio.create_task(client.post(path, json=body))
            await eventually(lambda running=running: model.running == running)  # type: ignore[misc]
            call.cancel()
            await eventually(lambda: model.running == 0)
    assert model.cancelled == 4


async def test_an_upstream_that_is_not_there_and_a_body_that_stalls() -> None:
    async with gateway_before("http://127.0.0.1:1", FakeModel("a")) as client:
        refused = await client.post("/v1/chat/completions", json={"model": "a"})
        head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(head + b'{"model"')
        stalled = (await asyncio.wait_for(reader.read(), 2)).decode()
        writer.close()
        await writer.wait_closed()
        fine = await client.post("/generate", json={"model": "a", "prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert stalled.startswith("HTTP/1.1 408")
    assert '"code":"body_timeout"' in stalled
    assert fine.status_code == 200


async def test_lines_of_bulk_arrive_as_they_finish() -> None:
    step = asyncio.Semaphore(0)
    body = {"items": [{"model": "a", "prompt": "x"}] * 3, "stream": True}
    async with gateway_before("http://127.0.0.1:1", FakeModel("a", step=step)) as client:
        step.release()
        async with client.stream("POST", "/bulk", json=body) as response:
            lines = response.aiter_lines()
            seen = []
            for _ in range(3):
                seen.append(json.loads(await asyncio.wait_for(anext(lines), 1))["index"])
                step.release()
    assert seen == [0, 1, 2]
