"""A real HAProxy makes or continues the trace of a request, and a real keeper sends its span to a collector."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access.keeper_app import KeeperConfig
from app.edge import Edge, EdgeSpec
from tests.collector import Collector, collecting
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import started
from tests.ports import own_port
from tests.waiting import eventually, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CHAT, ASKED = "/v1/chat/completions", {"model": "m-a"}
WRITTEN = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")
BROKEN = [
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}", f"00-{TRACE[:-1]}-{SPAN}-01", "", "x", "00-%[uuid]-0-01", "é",
]  # fmt: skip


@pytest.fixture
def spec(make_spec: MakeSpec) -> EdgeSpec:
    return make_spec(secret="5ec2e7", keeper=True, sample=0.0)


async def passed_on(client: httpx.AsyncClient, serve: Backend, *told: str, **headers: str) -> tuple[str, ...]:
    """Trace, span and flags that the backend was told for these traceparents."""
    given = [(b"traceparent", each.encode()) for each in told]
    given += [(name.encode(), value.encode()) for name, value in headers.items()]
    assert (await client.get("/health", headers=given)).status_code == 200
    (said,) = serve.seen[-1].all("traceparent")
    found = WRITTEN.fullmatch(said)
    assert found, said
    return found.groups()


def lines(spec: EdgeSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spec.workdir / "edge.log").read_text().splitlines() if line.startswith("{")]


async def test_the_clients_trace_goes_on_under_the_edges_span(
    client: httpx.AsyncClient, serve: Backend, spec: EdgeSpec
) -> None:
    trace, span, flags = await passed_on(client, serve, f"00-{TRACE}-{SPAN}-01", tracestate="a=b", baggage="c=d")
    assert (trace, flags) == (TRACE, "01")
    assert span != SPAN
    assert serve.seen[-1].all("tracestate") == serve.seen[-1].all("baggage") == []
    await eventually(lambda: bool(lines(spec)))
    (line,) = lines(spec)
    assert (line["trace"], line["span"], line["parent"], line["sampled"]) == (TRACE, span, SPAN, "01")
    assert (await passed_on(client, serve, f"00-{TRACE}-{SPAN}-02"))[2] == "00"
    assert (await passed_on(client, serve, f"cc-{TRACE}-{SPAN}-09-what is to come"))[::2] == (TRACE, "01")


async def test_a_traceparent_that_is_none_begins_a_new_trace(
    client: httpx.AsyncClient, serve: Backend, spec: EdgeSpec
) -> None:
    asked = [*([each] for each in BROKEN), [f"00-{TRACE}-{SPAN}-01"] * 2]
    for told in asked:
        trace, _, flags = await passed_on(client, serve, *told)
        assert (trace != TRACE, flags) == (True, "00"), told
    await eventually(lambda: len(lines(spec)) == len(asked))
    assert [line["parent"] for line in lines(spec)] == ["-"] * len(asked)
    found = [await passed_on(client, serve) for _ in range(50)]
    assert len({trace for trace, *_ in found}) == len({span for _, span, _ in found}) == 50


async def test_without_traces_nothing_is_made_up(make_spec: MakeSpec, serve: Backend) -> None:
    spec = make_spec()
    edge = Edge(spec)
    await edge.start()
    async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False) as client:
        await client.get("/health")
    await edge.stop(drain_s=1)
    assert serve.seen[-1].all("traceparent") == []
    assert "trace" not in lines(spec)[-1]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
async def keeper(spec: EdgeSpec, edge: Edge, collector: Collector, tmp_path: Path) -> AsyncIterator[None]:
    traces = {"endpoint": collector.url, "sample": 0.0, "headers": {"x-team": "t"}}
    port = own_port()
    config = KeeperConfig(
        str(spec.workdir), "127.0.0.1", port, "5ec2e7", None, str(tmp_path / "u.db"), {}, traces=traces
    )
    process = await started(config)
    yield
    process.terminate()
    await process.wait()


async def test_the_keeper_sends_the_edges_span(
    client: httpx.AsyncClient, serve: Backend, collector: Collector, keeper: None
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "mine"}
    await client.post(f"{CHAT}?q=secret", json=ASKED, headers=headers)
    await client.get("/health")  # not traced
    (span,) = await asyncio.to_thread(until, lambda: collector.of(TRACE), 20, "the edge's span")
    (said,) = serve.seen[0].all("traceparent")
    assert (span.service, span.name, span.parent) == ("corral-edge", f"POST {CHAT}", SPAN)
    assert span.id == said[36:52]
    assert span.attributes["corral.request_id"] == "mine"
    assert span.attributes["gen_ai.request.model"] == "m-a"
    assert span.attributes["http.response.status_code"] == 200
    times = [span.began_ns, *span.events.values(), span.ended_ns + 2_000_000]
    assert times == sorted(times)
    assert list(span.events) == ["left_queue", "connected", "first_byte"]
    assert collector.headers["x-team"] == "t"
    assert not any(b"secret" in body for body in collector.bodies)
    assert len(collector.spans) == 1
