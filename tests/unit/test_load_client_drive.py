"""Whole measurements against real small servers: who is asked what and when, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web

from loadtests.client.ask import PATH
from loadtests.client.clock import Clock
from loadtests.client.drive import drive
from loadtests.client.pace import arrivals
from loadtests.client.prompts import WorkloadError
from loadtests.records import Fault, Kind
from tests.unit.load_client_fakes import DONE, MODEL, ROLE, Endpoint, delta, point, serving, side, usage
from tests.unit.load_drive import driven, plan, texts


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
