"""Whole measurements of endpoints that are dead, break off, fall silent or say too much."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import count
from typing import Any

import pytest
from aiohttp import web

from loadtests.client import pace as pacing
from loadtests.client.ask import PATH
from loadtests.client.drive import drive
from loadtests.records import Fault, Kind, Limits
from loadtests.sweep.figures import figures_of
from tests.unit.load_client_fakes import ROLE, Endpoint, delta, point, serving, side
from tests.unit.load_drive import driven, plan


async def test_a_dead_endpoint_is_given_up_soon() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        closed = await drive(point(concurrency=4), plan(requests_per_user=500), side(url), 0)
        opened = await drive(point(concurrency=None, rate=1000.0), plan(max_seconds=100), side(url), 0)
    for found in (closed, opened):
        assert {each.fault for each in found.samples} == {Fault.CONNECTION}
        assert len(found.samples) < 100
        assert found.seconds > 0
        assert any("warm-up requests failed" in each for each in found.notices)


async def test_without_a_warm_up_a_dead_endpoint_is_given_up_soon_too() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        found = await drive(point(concurrency=4), plan(requests_per_user=500, warmup_requests=0), side(url), 0)
    assert len(found.samples) < 100
    assert any("all failed to connect" in each for each in found.notices)


async def test_an_endpoint_that_dies_in_the_middle_leaves_what_was_measured() -> None:
    """Nobody gives up an endpoint that has answered."""
    number = count()

    async def answer(request: web.Request) -> web.StreamResponse:
        if next(number) >= 5 and request.transport is not None:
            request.transport.abort()
        return await endpoint._chat(await request.json())

    endpoint = Endpoint(handlers={PATH: answer})
    found = await driven(endpoint, point(concurrency=1), requests_per_user=30, warmup_requests=0)
    assert sum(each.ok for each in found.samples) == 5
    assert [each.fault for each in found.samples[5:]] == [Fault.CONNECTION] * 25


@pytest.fixture
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "LEAST_GRACE_S", 0.05)


@pytest.mark.usefixtures("_hurry")
@pytest.mark.parametrize("load", [{"concurrency": 3}, {"concurrency": None, "rate": 100.0}])
async def test_an_endpoint_that_stops_answering_is_cut_off_and_told(load: dict[str, Any]) -> None:
    """Two answers, then silence: one is silent after its first text."""
    number, free = count(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        mine = next(number)
        if mine < 2:
            return await endpoint._chat(await request.json())
        stream = web.StreamResponse()
        await stream.prepare(request)
        if mine == 2:
            await stream.write(ROLE + delta(content="a"))
        await free.wait()
        return stream

    endpoint = Endpoint(handlers={PATH: answer})
    async with serving(endpoint) as url:
        settings = plan(max_seconds=0.6, warmup_requests=0, requests_per_user=9, min_requests=1)
        found = await drive(point(**load), settings, side(url), 0)
        free.set()
    silent = next(number) - 3
    assert [each.fault for each in found.samples] == [None, None, *[Fault.TIMEOUT] * (silent + 1)]
    assert [len(each.times_s) for each in found.samples if not each.ok].count(1) == 1
    figures = figures_of(found, limits=Limits(), gpus=None)
    assert (figures.requests, figures.failed, figures.good_share) == (silent + 3, silent + 1, 2 / (silent + 3))
    assert figures.ttft is not None
    assert figures.ttft.count == 2
    # to the end of the time and of the grace, not to the last answer
    assert 0.65 <= figures.seconds < 5
    assert any(f"{silent + 1} requests were still under way" in each for each in found.notices)
    assert any(f"{silent} of them without any text" in each for each in found.notices)


@pytest.mark.usefixtures("_hurry")
async def test_after_a_silent_warm_up_nothing_is_measured() -> None:
    asked, free = count(), asyncio.Event()

    async def silence(_: web.Request) -> web.Response:
        next(asked)
        await free.wait()
        return web.Response()

    async with serving(Endpoint(handlers={PATH: silence})) as url:
        found = await drive(point(), plan(max_seconds=0.2), side(url), 0)
        free.set()
    assert next(asked) == 2
    assert [each.fault for each in found.samples] == [Fault.TIMEOUT] * 2
    assert any("no request of the warm-up was answered" in each for each in found.notices)


async def test_after_a_warm_up_of_errors_it_is_measured() -> None:
    found = await driven(Endpoint(stream=lambda _: b"data: {}\n\n"))
    assert [each.fault for each in found.samples] == [Fault.BROKEN_STREAM] * 6


@pytest.mark.usefixtures("_hurry")
async def test_a_bulk_call_that_stops_is_cut_off_with_what_it_had() -> None:
    free = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(json.dumps({"index": 0, "result": {"text": "yes"}}).encode() + b"\n")
        await free.wait()
        return stream

    async with serving(Endpoint(handlers={"/bulk": answer})) as url:
        found = await drive(point(kind=Kind.BULK), plan(max_seconds=0.5, warmup_requests=0), side(url), 0)
        free.set()
    assert sorted(str(each.fault) for each in found.samples) == ["None"] * 2 + ["timeout"] * 30
    assert any("30 requests were still under way" in each and "30 of them" in each for each in found.notices)


async def test_a_key_that_is_echoed_stands_nowhere() -> None:
    """Not even a part of it, where the text is cut to its length."""
    key = "sk-0123456789abcdef"
    said = {"error": {"message": "x" * 185 + f" {key} is no key"}}

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(said, status=401)

    async def stream(_: web.Request) -> web.Response:
        return web.Response(body=f'data: {{"error": {{"message": "{key} is no key"}}}}\n\ndata: [DONE]\n\n')

    for handler in (echo, stream):
        async with serving(Endpoint(handlers={PATH: handler})) as url:
            found = await drive(point(), plan(), side(url), 0, key=key)
        assert len(found.samples) == 6
        assert all("***" in each.detail and key[:5] not in each.detail for each in found.samples)
        assert key[:5] not in str(found)


async def test_a_measurement_that_is_interrupted_leaves_nothing_open() -> None:
    started, free = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        started.set()
        await free.wait()
        return web.Response()

    async with serving(Endpoint(handlers={PATH: answer})) as url:
        measuring = asyncio.create_task(drive(point(), plan(warmup_requests=0), side(url), 0))
        await started.wait()
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        assert len(asyncio.all_tasks()) < 5
        free.set()
