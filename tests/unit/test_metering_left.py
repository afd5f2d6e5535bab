"""Tokens of requests whose answers are not read to their end, or not through one generator."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from deployments.plain_stream import write_plain_streams
from tests.unit.metering_engine import HANG, Kind, Step, ask, begin, metered, settle, tokens
from tests.unit.test_plain_stream import PLAIN, REST, Serving


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("n", [1, 2])
async def test_who_leaves_in_the_middle_is_counted_to_there(kind: Kind, n: int) -> None:
    """An answer that does not stream has shown nothing by then."""
    engine, used = metered(Step(2), Step(5, n - 1), HANG)
    task = await begin(ask(engine, kind, n))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 7, 3, "cancelled")]


async def test_a_prompt_that_was_not_read_yet_counts_nothing() -> None:
    engine, used = metered(HANG)
    task = await begin(ask(engine))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tokens(used) == [(0, 0, 0, "cancelled")]


async def test_a_generator_that_nobody_reads_is_no_request() -> None:
    engine, used = metered(Step(1, 0, "stop"))
    ask(engine)
    unread = ask(engine)
    await unread.aclose()
    del unread
    await settle()
    assert (engine.asked, used) == ([], [])


@pytest.mark.parametrize("closed", [0, 1, 2])
async def test_a_generator_that_is_closed_or_dropped_ends_the_request_at_once(closed: int) -> None:
    """Dropped, as vLLM's own generators leave the engine's."""
    engine, used = metered(Step(1), Step(2), HANG)
    results = ask(engine)
    await anext(results)
    for _ in range(closed):
        await results.aclose()
        assert engine.aborted == ["id"]
    del results
    await settle()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_a_generator_closed_while_it_waits_is_reported_when_the_wait_ends() -> None:
    """merge_async_iterators of vLLM's does so."""
    engine, used = metered(Step(1), HANG)
    results = ask(engine)
    await anext(results)
    waiting = asyncio.ensure_future(anext(results))
    await settle()
    waiting.cancel()
    with suppress(RuntimeError):  # it is running
        await results.aclose()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_it_is_reported_as_the_last_result_goes_by() -> None:
    engine, used = metered(Step(1), Step(1, 0, "stop"))
    results = ask(engine)
    await anext(results)
    assert used == []
    await anext(results)
    assert tokens(used) == [(4, 2, 3, "done")]
    await results.aclose()
    assert len(used) == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_requests_side_by_side_are_not_mixed_up(n: int) -> None:
    engine, used = metered(Step(1), Step(2), HANG)
    tasks = [await begin(ask(engine, Kind.FINAL_ONLY, n, lora=name)) for name in ("a", "b")]
    for task in tasks:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(each.model, each.completion_tokens) for each in used] == [("a", 3), ("b", 3)]


async def test_what_else_is_added_to_the_engine_is_another_request() -> None:
    engine, used = metered(Step(1), HANG)
    results = ask(engine)
    await anext(results)
    await engine.add_request("other", 1)
    other = engine.output_processor.request_states["other-2"]
    other.is_prefilling, other.token_ids = False, [7] * 100
    await results.aclose()
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_a_plain_stream_counts_what_its_generator_never_saw() -> None:
    """It writes the tokens it held back into a result that went by."""
    engine, used = metered(*[Step(1)] * 5, Step(2, 0, "stop"))
    serving = Serving()
    assert write_plain_streams(serving)
    events = [each async for each in serving.chat_completion_stream_generator(PLAIN, ask(engine), *REST)]
    assert len(serving.asked) < 6
    assert events[-2] == "data: 7\n\n"
    assert tokens(used) == [(4, 7, 3, "done")]


async def test_a_plain_stream_that_is_left_is_counted_to_there() -> None:
    engine, used = metered(*[Step(1)] * 9, HANG)
    serving = Serving()
    write_plain_streams(serving)
    stream = serving.chat_completion_stream_generator(PLAIN, ask(engine), *REST)
    for _ in range(5):
        await anext(stream)
    await stream.aclose()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 4, 3, "cancelled")]  # its first event is the role
