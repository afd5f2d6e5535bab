"""Whole measurements against real small servers."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loadtests.client import pace as pacing
from loadtests.client.ask import PATH
from loadtests.client.clock import Clock
from loadtests.client.drive import drive
from loadtests.client.pace import arrivals
from loadtests.client.prompts import WorkloadError
from loadtests.records import Calibration, Driven, Fault, Kind, Limits, Plan, Point
from loadtests.sweep.figures import figures_of
from tests.unit.load_client_fakes import DONE, MODEL, ROLE, Endpoint, delta, point, serving, side, usage

CALIBRATED = {MODEL: Calibration(words_per_token=0.5, template_tokens=5)}


def plan(**changes: Any) -> Plan:
    few = {"requests_per_user": 3, "min_requests": 4, "warmup_requests": 1, "calibrations": CALIBRATED}
    return Plan(**{"sides": (), "points": (), **few, **changes})


async def driven(endpoint: Endpoint, at: Point | None = None, repeat: int = 0, **changes: Any) -> Driven:
    async with serving(endpoint) as url:
        return await drive(at or point(), plan(**changes), side(url), repeat)


def texts(endpoint: Endpoint) -> list[str]:
    return [body["messages"][0]["content"] for body in endpoint.measured]


async def test_a_closed_loop_asks_its_number_and_leaves_the_warm_up_out() -> None:
    endpoint = Endpoint()
    found = await driven(endpoint)
    assert (len(endpoint.measured), len(found.samples)) == (2 + 6, 6)
    assert all(each.ok and each.input_tokens == 41 and each.output_tokens == 4 for each in found.samples)
    assert min(each.due_s for each in found.samples) >= 0
    assert found.seconds == max(e.ended_s for e in found.samples) - min(e.due_s for e in found.samples)
    assert found.engine is None
    assert [each for each in found.notices if "/metrics" not in each] == []


async def test_no_more_users_ask_at_once_than_there_are() -> None:
    now, most = 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return await endpoint._chat(await request.json())

    endpoint = Endpoint(handlers={PATH: answer})
    await driven(endpoint, point(concurrency=5))
    assert most == 5


async def test_both_sides_of_a_pair_get_the_same_prompts_and_nothing_else_does() -> None:
    ours, other, later = Endpoint(), Endpoint(), Endpoint()
    await driven(ours)
    await driven(other)
    await driven(later, repeat=1)
    assert sorted(texts(ours)) == sorted(texts(other))
    assert len(set(texts(ours)) | set(texts(later))) == 16


async def test_an_endpoint_is_asked_for_its_tokens_where_the_plan_does_not_tell() -> None:
    endpoint = Endpoint()
    found = await driven(endpoint, calibrations={})
    assert endpoint.paths.count("/tokenize") == 2
    assert {each.input_tokens for each in found.samples} <= {40, 41, 42}


async def test_without_any_calibration_it_is_told() -> None:
    found = await driven(Endpoint(tokenizes=False, handlers={PATH: _no_usage}), calibrations={})
    assert all(each.ok and each.output_tokens is None for each in found.samples)
    assert any("not told how many tokens" in each for each in found.notices)


async def _no_usage(request: web.Request) -> web.Response:
    if not (await request.json()).get("stream"):
        return web.json_response({"choices": []})
    return web.Response(body=ROLE + delta(content="a") + DONE)


async def test_an_open_loop_sends_when_it_is_due() -> None:
    endpoint = Endpoint()
    found = await driven(endpoint, point(concurrency=None, rate=100.0), max_seconds=0.3)
    dues = sorted(each.due_s for each in found.samples)
    assert dues == pytest.approx(arrivals(100.0, 0.3, (1, 0), 10_000))
    assert all(each.began_s >= each.due_s for each in found.samples)
    assert all(each.ok for each in found.samples)


async def test_an_open_loop_does_not_wait_for_slow_answers() -> None:
    """All are sent before any is answered."""
    sent, expected = asyncio.Event(), len(arrivals(200.0, 0.1, (1, 0), 1000))
    number = count(1)

    async def answer(request: web.Request) -> web.StreamResponse:
        if next(number) == expected:
            sent.set()
        await sent.wait()
        return await endpoint._chat(await request.json())

    endpoint = Endpoint(handlers={PATH: answer})
    found = await driven(endpoint, point(concurrency=None, rate=200.0), max_seconds=0.1, warmup_requests=0)
    assert len(found.samples) == expected
    assert expected > 5


async def test_few_arrivals_are_told() -> None:
    found = await driven(Endpoint(), point(concurrency=None, rate=0.5), max_seconds=0.2)
    assert len(found.samples) == 1
    assert "only 1 requests arrived at 0.5/s in 0.2 s" in found.notices


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


async def test_answers_that_end_early_and_prompts_of_other_lengths_are_told() -> None:
    short = Endpoint(stream=lambda _: ROLE + delta(content="a") + usage(90, 2) + DONE)
    found = await driven(short)
    assert "answers had 2 tokens on average where 4 were asked: they ended earlier" in found.notices
    assert "prompts had 90 tokens on average where 41 were asked" in found.notices
    assert not any("where" in each for each in (await driven(short, workload="random:uniform")).notices)


async def test_engine_figures_come_along() -> None:
    found = await driven(Endpoint(metrics='vllm:prompt_tokens_total{model_name="small"} 7\n'))
    assert found.engine is not None
    assert found.engine.prompt_tokens == 0
    assert found.notices == ()


async def test_prompts_that_the_engine_has_in_its_cache_are_told() -> None:
    """As with the prompts of an earlier run. Six answers of 41 tokens, five of which are of the template."""
    hits = {"cold": 6 * 5 + 6, "warm": 6 * 5 + 16}

    async def metrics(_: web.Request) -> web.Response:
        asked = len(endpoint.measured) > 2
        return web.Response(
            text=f"vllm:prefix_cache_queries_total {246 * asked}\nvllm:prefix_cache_hits_total {now * asked}"
        )

    for name, now in hits.items():
        endpoint = Endpoint(handlers={"/metrics": metrics})
        found = await driven(endpoint)
        assert found.engine is not None
        assert found.engine.prefix_hits == now
        told = [each for each in found.notices if "7% of the prompts' tokens in its prefix cache" in each]
        assert bool(told) == (name == "warm")
        assert all("another --seed" in each for each in told)


async def test_a_wall_clock_that_jumps_is_noticed_and_no_latency_has_it() -> None:
    endpoint, jumps = Endpoint(), iter([0.0, 0.0, 0.0])

    def wall() -> float:
        return 1_750_000_000.0 + next(jumps, 3600.0)

    async with serving(endpoint) as url:
        found = await drive(point(), plan(), side(url), 0, clock=Clock(wall=wall))
    assert any("the wall clock jumped by +3" in each for each in found.notices)
    assert found.began_at == "2025-06-15T15:06:40.000Z"
    assert found.seconds < 3000
    assert all(each.e2e_s < 3000 for each in found.samples)


async def test_a_file_with_fewer_prompts_than_requests_is_told(tmp_path: Path) -> None:
    talk = {"conversations": [{"from": "human", "value": "what is it then"}, {"from": "gpt", "value": "it is a test"}]}
    (tmp_path / "talks.json").write_text(json.dumps([talk] * 3))
    endpoint = Endpoint()
    found = await driven(endpoint, workload=str(tmp_path / "talks.json"))
    assert set(texts(endpoint)) == {"what is it then"}
    assert any("3 prompts for 8 requests" in each for each in found.notices)


async def test_a_file_whose_prompts_the_repeats_before_have_used_up_is_told(tmp_path: Path) -> None:
    talks = [
        {"conversations": [{"from": "human", "value": f"what is it {each}"}, {"from": "gpt", "value": "it is a test"}]}
        for each in range(16)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    notices = [
        (await driven(Endpoint(), repeat=each, workload=str(tmp_path / "talks.json"))).notices for each in range(3)
    ]
    told = [[each for each in repeat if "some are asked again" in each] for repeat in notices]
    assert told[:2] == [[], []]
    assert told[2][0].startswith("the workload has 16 prompts for 24 requests of this and the repeats before it")


async def test_no_conversation_is_longer_than_any_sides_context(tmp_path: Path) -> None:
    words = {"short": 6, "long": 20}
    talks = [
        {"conversations": [{"from": "human", "value": f"{name} " * length}, {"from": "gpt", "value": "it is a test"}]}
        for name, length in words.items()
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    endpoint = Endpoint()
    async with serving(endpoint) as url:
        # half a token a word: 20 and 48 tokens, where 0.75 x 50 less the template's 5 are 32
        sides = (side(url, contexts={MODEL: 500}), side(url, name="other", contexts={MODEL: 50}))
        await drive(point(), plan(sides=sides, workload=str(tmp_path / "talks.json")), sides[0], 0)
    assert {each.split()[0] for each in texts(endpoint)} == {"short"}


async def test_a_workload_that_cannot_be_had_is_the_callers_error() -> None:
    with pytest.raises(WorkloadError):
        await driven(Endpoint(), workload="/nowhere.json")


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


async def test_the_key_goes_with_every_request() -> None:
    endpoint = Endpoint(key="right")
    async with serving(endpoint) as url:
        found = await drive(point(), plan(calibrations={}), side(url), 0, key="right")
        refused = await drive(point(), plan(), side(url), 0)
    assert all(each.ok for each in found.samples)
    assert {each.fault for each in refused.samples} == {Fault.REFUSED}


async def test_bulk_users_post_calls_of_sixteen_at_once() -> None:
    calls: list[int] = []
    now, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal now, most
        items = (await request.json())["items"]
        calls.append(len(items))
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        result = {"text": "yes", "usage": {"prompt_tokens": 40, "completion_tokens": 4}}
        return web.Response(body="".join(json.dumps({"index": n, "result": result}) + "\n" for n in range(len(items))))

    endpoint = Endpoint(handlers={"/bulk": answer})
    found = await driven(endpoint, point(kind=Kind.BULK, concurrency=3), requests_per_user=20)
    assert (calls, most) == ([3] + [16] * 6, 3)
    assert [each.ok for each in found.samples] == [True] * 96
    calls.clear()
    await driven(endpoint, point(kind=Kind.BULK, concurrency=1), warmup_requests=0)
    assert calls == [16]


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


@pytest.mark.parametrize("kind", [Kind.SINGLE, Kind.TRIBUNAL, Kind.RAG])
async def test_corrals_own_kinds_are_driven(kind: Kind) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(
            {"text": "x", "answer": "x", "refused": kind is Kind.RAG, "usage": {"completion_tokens": 4}}
        )

    endpoint = Endpoint(handlers=dict.fromkeys(("/generate", "/v1/tribunal", "/v1/rag/chat"), answer))
    found = await driven(endpoint, point(kind=kind))
    assert [(each.ok, each.ttft_s) for each in found.samples] == [(True, None)] * 6
    assert sum("refusals" in each for each in found.notices) == (kind is Kind.RAG)


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
