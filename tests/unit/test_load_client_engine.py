"""Engine figures from Prometheus texts, and from a real /metrics while a block runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from loadtests.client import engine as watching
from loadtests.client.engine import EngineWatch, figures, pause_s, snapshot
from tests.unit.load_client_fakes import MODEL, Endpoint, raw, serving

COUNTED: dict[str, Any] = {
    "prompt_tokens_total": 10.0,
    "generation_tokens_total": 20.0,
    "prefix_cache_queries_total": 30.0,
    "prefix_cache_hits_total": 4.0,
    "num_preemptions_total": 5.0,
    "request_queue_time_seconds_sum": 1.5,
    "request_queue_time_seconds_count": 6.0,
}


TWICE: dict[str, Any] = {name: 2 * value for name, value in COUNTED.items()}


def labels(model: str, replica: str | None = None) -> str:
    return f'engine="0",model_name="{model}"' + (f',corral_model="{model}",replica="{replica}"' if replica else "")


def text(running: float = 0, waiting: float = 0, kv: float = 0, *, of: str = labels(MODEL), **counters: Any) -> str:
    values = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": kv, **counters}
    lines = (f"# TYPE vllm:{name} x\nvllm:{name}{{{of}}} {value}\n" for name, value in values.items())
    return "".join(lines) + f"vllm:prompt_tokens_created{{{of}}} 1.7e+09\nvllm:iteration_tokens_total_sum{{{of}}} 3\n"


def test_gauges_are_of_the_readings_between_and_counters_of_those_around() -> None:
    grown: dict[str, Any] = {name: 3 * value for name, value in COUNTED.items()}
    during = [text(running=2, waiting=0, kv=0.25), text(running=4, waiting=1, kv=0.5)]
    found = figures(
        snapshot(text(**COUNTED), MODEL), [snapshot(each, MODEL) for each in during], snapshot(text(**grown), MODEL)
    )
    assert found is not None
    assert (found.running_mean, found.running_max, found.waiting_mean, found.waiting_max) == (3, 4, 0.5, 1)
    assert (found.kv_cache_max, found.queue_time_mean_ms) == (0.5, 250)
    assert (found.prompt_tokens, found.generation_tokens) == (20, 40)
    assert (found.prefix_queries, found.prefix_hits, found.preemptions) == (60, 8, 10)


def test_only_the_models_own_series_count_and_replicas_are_added() -> None:
    both = text(3, kv=0.2, of=labels(MODEL, "0")) + text(4, kv=0.6, of=labels(MODEL, "1"))
    read = snapshot(both + text(90, kv=0.9, of=labels("other", "0")), MODEL)
    assert (read.total("running"), read.most("kv_cache")) == (7, 0.6)
    everything = snapshot(both + text(90, of=labels("other", "0")), None)
    assert everything.total("running") == 97


def test_one_model_that_is_named_otherwise_is_taken_and_several_are_not() -> None:
    assert snapshot(text(3, of=labels("/weights/small")), MODEL).total("running") == 3
    assert snapshot(text(3, of=labels("a")) + text(3, of=labels("b")), MODEL).total("running") is None


def test_series_without_labels_and_strange_values_are_read_or_left_out() -> None:
    read = snapshot("vllm:num_requests_running 5\nvllm:num_requests_waiting NaN\nvllm:kv_cache_usage_perc x\n", MODEL)
    assert (read.total("running"), read.total("waiting"), read.most("kv_cache")) == (5, None, None)


def test_a_counter_that_fell_began_anew_and_a_new_series_began_at_nothing() -> None:
    before = snapshot(text(prompt_tokens_total=100, of=labels(MODEL, "0")), MODEL)
    after = snapshot(
        text(prompt_tokens_total=30, of=labels(MODEL, "0")) + text(prompt_tokens_total=7, of=labels(MODEL, "1")), MODEL
    )
    found = figures(before, [], after)
    assert found is not None
    assert (found.prompt_tokens, found.running_mean, found.queue_time_mean_ms) == (37, None, None)


def test_nothing_said_is_nothing() -> None:
    assert figures(None, [], None) is None
    assert figures(snapshot("", MODEL), [snapshot("up 1", MODEL)], snapshot("", MODEL)) is None


async def test_metrics_are_read_while_the_block_runs() -> None:
    endpoint = Endpoint(metrics=text(running=2, **COUNTED))
    async with serving(endpoint) as url, EngineWatch(url, MODEL, every_s=0.001) as watch:
        while endpoint.paths.count("/metrics") < 3:
            await asyncio.sleep(0.001)
        endpoint.metrics = text(running=6, **TWICE)
    found = watch.figures
    assert found is not None
    assert (found.running_max, found.generation_tokens) == (2, 20)
    assert watch.notices == []


async def test_an_endpoint_without_metrics_is_a_notice_and_asked_once() -> None:
    endpoint = Endpoint()
    async with serving(endpoint) as url, EngineWatch(url, MODEL, every_s=0.001) as watch:
        await asyncio.sleep(0.01)
    assert watch.figures is None
    assert watch.notices == [f"no engine figures: {url}/metrics: it answered 404"]
    assert endpoint.paths.count("/metrics") == 1


async def test_metrics_of_something_else_are_a_notice() -> None:
    async with serving(Endpoint(metrics="python_gc_objects 7\n")) as url, EngineWatch(url, MODEL) as watch:
        pass
    assert watch.figures is None
    assert "has none of vLLM's for small" in watch.notices[0]


async def test_metrics_that_stop_are_a_notice_with_what_was_read() -> None:
    endpoint = Endpoint(metrics=text(running=2, **COUNTED))
    async with serving(endpoint) as url, EngineWatch(url, MODEL, every_s=0.001) as watch:
        while endpoint.paths.count("/metrics") < 3:
            await asyncio.sleep(0.001)
        endpoint.metrics = None
    assert watch.figures is not None
    assert (watch.figures.running_max, watch.figures.generation_tokens) == (2, None)
    assert "readings of /metrics failed: it answered 404" in watch.notices[0]


async def test_metrics_that_do_not_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "TIMEOUT_S", 0.05)
    async with raw(b"", close=False) as url, EngineWatch(url, MODEL) as watch:
        pass
    assert watch.figures is None
    assert "no engine figures" in watch.notices[0]


def test_a_reading_that_takes_long_is_made_less_often() -> None:
    assert [pause_s(0.5, took_s) for took_s in (0.001, 0.1, 0.3)] == [0.5, 1.0, 2.0]


async def test_the_first_reading_does_not_wait_for_the_one_before() -> None:
    """However long that took."""

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(text=text(running=2))

    async with serving(Endpoint(handlers={"/metrics": slow})) as url, EngineWatch(url, MODEL, every_s=0.01) as watch:
        await asyncio.sleep(0.5)
    assert watch.figures is not None
    assert watch.figures.running_max == 2


async def test_a_measurement_without_a_reading_says_so() -> None:
    async with serving(Endpoint(metrics=text(running=2, **COUNTED))) as url, EngineWatch(url, MODEL) as watch:
        pass
    assert watch.figures is not None
    assert (watch.figures.running_max, watch.figures.generation_tokens) == (None, 0)
    assert watch.notices == [
        "no reading of /metrics fell into this measurement: it was too short to tell what was running, waiting and in "
        "the KV cache"
    ]
