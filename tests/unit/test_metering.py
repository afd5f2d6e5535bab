"""Tokens of requests to the engine: all of them, once, for who asked, however the request comes to its end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.metering import Used, meter
from deployments.principal import CURRENT, Principal
from tests.unit.metering_engine import Engine, Kind, Other, Output, Result, Step, ask, drain, metered, tokens

ADA, BOB = Principal(key="ada", request="r1"), Principal(key="bob")
TWO = (Step(2, 0), Step(1, 1), Step(3, 1, "stop"), Step(4, 0, "length"))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("n", "script", "count"), [(1, (Step(2), Step(1), Step(0), Step(3, 0, "stop")), 6), (2, TWO, 10)]
)
async def test_an_answer_counts_its_tokens_once(kind: Kind, n: int, script: tuple[Step, ...], count: int) -> None:
    engine, used = metered(*script)
    await drain(ask(engine, kind, n))
    assert tokens(used) == [(4, count, 3, "done")]


@pytest.mark.parametrize("kind", Kind)
async def test_an_engine_that_fails_is_counted_to_there(kind: Kind) -> None:
    engine, used = metered(Step(2), RuntimeError("the engine died"))
    with pytest.raises(RuntimeError, match="the engine died"):
        await drain(ask(engine, kind))
    assert tokens(used) == [(4, 2, 3, "failed")]


@pytest.mark.parametrize(
    ("kind", "script", "unanswered"),
    [
        (Kind.DELTA, (Step(2), RuntimeError("died")), False),
        (Kind.DELTA, (RuntimeError("died"),), True),
        (Kind.FINAL_ONLY, (Step(2), RuntimeError("died")), True),
        (Kind.FINAL_ONLY, (Step(2, 0, "stop"),), False),
    ],
)
async def test_what_had_shown_nothing_when_it_failed_is_known(kind: Kind, script: Any, unanswered: bool) -> None:
    engine, used = metered(*script)
    await asyncio.gather(drain(ask(engine, kind)), return_exceptions=True)
    assert [each.unanswered for each in used] == [unanswered]


class Refusing(Engine):
    async def add_request(self, request_id: str, n: int) -> Any:
        raise ValueError("the prompt is too long")


async def test_what_the_engine_refuses_used_nothing() -> None:
    engine, used = Refusing(), list[Used]()
    meter(engine, "base", used.append)
    with pytest.raises(ValueError, match="too long"):
        await drain(ask(engine))
    assert tokens(used) == [(0, 0, 0, "failed")]


async def test_another_vllm_is_counted_by_what_went_by() -> None:
    later = Result([Output(0, [7, 7, 7], None)], False, prompt_token_ids=None, num_cached_tokens=None)
    engine, used = Other(Result([Output(0, [7, 7], None)], False), later, later), list[Used]()
    meter(engine, "base", used.append)
    results = ask(engine)
    await anext(results)
    await anext(results)
    await results.aclose()
    assert tokens(used) == [(4, 5, 3, "cancelled")]


@pytest.mark.parametrize(("reason", "outcome"), [("abort", "cancelled"), ("error", "failed"), ("length", "done")])
@pytest.mark.parametrize("kind", Kind)
async def test_the_engines_own_reasons_to_end_are_told_apart(kind: Kind, reason: str, outcome: str) -> None:
    engine, used = metered(Step(2), Step(0, 0, reason))
    await drain(ask(engine, kind))
    assert tokens(used) == [(4, 2, 3, outcome)]


async def test_it_is_the_callers_wherever_it_is_read() -> None:
    engine, used = metered(Step(1), Step(1, 0, "stop"))
    CURRENT.set(ADA)
    results = ask(engine)
    CURRENT.set(BOB)
    await asyncio.create_task(drain(results))
    await drain(ask(engine))
    assert [each.principal for each in used] == [ADA, BOB]


async def test_an_adapter_is_a_model_of_its_own() -> None:
    engine, used = metered(Step(1, 0, "stop"))
    await drain(ask(engine, lora="legal"))
    await drain(ask(engine))
    assert [each.model for each in used] == ["legal", "base"]


@pytest.mark.parametrize("lora", [None, SimpleNamespace(lora_name="legal")])
async def test_an_embedding_counts_its_prompt(lora: Any) -> None:
    engine, used = metered(Step(0))
    await drain(engine.encode(prompt="hello", pooling_params=None, request_id="id", lora_request=lora))
    assert tokens(used) == [(4, 0, 3, "done")]
    assert used[0].model == (lora.lora_name if lora else "base")


async def test_times_are_from_the_call_on() -> None:
    now, used = 10.0, list[Used]()
    engine = Engine(Step(1), Step(1, 0, "stop"))
    meter(engine, "base", used.append, clock=lambda: now)
    results = ask(engine)
    now = 11.5
    await anext(results)
    now = 14.0
    await anext(results)
    assert (used[0].ttft_s, used[0].seconds) == (1.5, 4)


@pytest.mark.parametrize(("metrics", "ttft_s"), [(SimpleNamespace(first_token_latency=0.25), 0.25), (None, None)])
async def test_the_first_token_of_an_answer_that_does_not_stream_is_vllms_to_tell(
    metrics: Any, ttft_s: float | None
) -> None:
    engine, used = Other(Result([Output(0, [7], "stop")], True, metrics=metrics)), list[Used]()
    meter(engine, "base", used.append)
    await drain(ask(engine, Kind.FINAL_ONLY))
    assert used[0].ttft_s == ttft_s
