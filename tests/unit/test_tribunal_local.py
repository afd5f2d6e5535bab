"""LocalTribunals: a run's envelopes, who listens to them, what ends a run, and what is kept of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from deployments.errors import BadRequest, EngineFailed, NoQuorum, Overloaded, ServingError, UnknownModel, UnknownRun
from deployments.tribunal import runs
from deployments.tribunal.runs import LocalTribunals
from tests.unit.tribunal_fakes import Panel, asked, tribunals_over, trio
from tests.waiting import eventually

HOLD = frozenset("*")
Told = list[dict[str, Any]]


async def envelopes(of: Any) -> Told:
    return [envelope async for envelope in of]


async def started(tribunals: LocalTribunals, panel: Panel, running: int = 3, **more: Any) -> tuple[str, Any]:
    """A run at work and the iterator that listens to it."""
    told = tribunals.events(asked(**more))
    first = await anext(told)
    await eventually(lambda: panel.running == running)
    return first["id"], told


def release(panel: Panel) -> None:
    for _ in range(99):
        panel.step.release()


def failing(error: Exception) -> Panel:
    return trio(fails={"draft": error})


async def test_envelopes_are_numbered_without_gaps_and_the_last_is_the_result() -> None:
    tribunals = tribunals_over(trio())
    told = await envelopes(tribunals.events(asked()))
    assert [envelope["seq"] for envelope in told] == list(range(1, len(told) + 1))
    assert {envelope["v"] for envelope in told} == {1}
    (run_id,) = {envelope["id"] for envelope in told}
    assert told[-1]["type"] == "result"
    assert told[-1]["result"]["id"] == run_id
    assert [envelope["type"] for envelope in told].count("result") == 1
    assert "".join(each["text"] for each in told if each["type"] == "answer.delta") == told[-1]["result"]["answer"]


async def test_run_gives_the_result_that_events_tell() -> None:
    result, told = await tribunals_over(trio()).run(asked()), await envelopes(tribunals_over(trio()).events(asked()))
    volatile = {"id", "seconds", "trace", "cost"}
    assert {k: v for k, v in result.items() if k not in volatile} == {
        k: v for k, v in told[-1]["result"].items() if k not in volatile
    }
    assert result["tribunal"] == "default"


async def test_an_answer_that_was_begun_and_given_up_is_replaced() -> None:
    panel = trio(synthesis="a synthesis")
    chair = panel.speakers["c"].free
    chair._fails, chair._breaks_after = (lambda request: EngineFailed("died") if "chair" in str(request) else None), 1
    told = await envelopes(tribunals_over(panel).events(asked(deltas=True)))
    pieces = [envelope for envelope in told if envelope["type"] == "answer.delta"]
    assert [(piece["text"], piece.get("replaces", False)) for piece in pieces] == [("a", False), ("the stable", True)]
    assert told[-1]["result"]["answer"] == "the stable"


async def test_a_failure_is_the_last_envelope_and_run_raises_it() -> None:
    told = await envelopes(tribunals_over(failing(EngineFailed("died"))).events(asked()))
    message = "0 of at least 2 members drafted. a: died; b: died; c: died"
    assert told[-1]["error"] == {"message": message, "type": "server_error", "param": None, "code": "no_quorum"}
    with pytest.raises(NoQuorum, match="0 of at least 2"):
        await tribunals_over(failing(EngineFailed("died"))).run(asked())


async def test_a_fault_of_the_request_is_told_with_its_field() -> None:
    told = await envelopes(tribunals_over(failing(BadRequest("no", "messages"))).events(asked()))
    assert told[-1]["error"] == {
        "message": "no", "type": "invalid_request_error", "param": "messages", "code": "invalid_request",
    }  # fmt: skip


async def test_an_unexpected_failure_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    tribunals = tribunals_over(failing(KeyError("secret")))
    told = await envelopes(tribunals.events(asked()))
    assert told[-1]["error"]["code"] == "internal_error"
    with pytest.raises(ServingError) as raised:
        await tribunals.run(asked())
    assert type(raised.value) is ServingError
    assert "secret" not in str(told) + str(raised.value)
    assert "secret" in caplog.text


async def test_what_is_refused_is_raised_before_the_first_envelope_and_is_no_run() -> None:
    panel = trio()
    tribunals = tribunals_over(panel)
    with pytest.raises(BadRequest):
        await anext(tribunals.events(asked(config={"rounds": 0})))
    with pytest.raises(BadRequest):
        await tribunals.run(asked(tribunal="nope"))
    assert (panel.log, tribunals._runs) == ([], {})


# Listeners that leave.


async def test_closing_the_events_stops_the_run_at_once() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel), panel)
    await told.aclose()
    assert (panel.running, panel.cancelled) == (0, 3)
    assert (await envelopes(tribunals.resume(run_id)))[-1]["error"]["code"] == "cancelled"


async def test_cancelling_who_listens_stops_the_run_at_once() -> None:
    panel = trio(holds=HOLD)
    tribunals = tribunals_over(panel)
    for listener in (tribunals.run(asked()), envelopes(tribunals.events(asked(deltas=True)))):
        task = asyncio.create_task(listener)
        await eventually(lambda: panel.running == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert panel.running == 0


async def test_a_run_that_lingers_goes_on_and_is_taken_up_where_it_was_left() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel), panel, linger_s=60)
    await told.aclose()
    assert panel.running == 3
    async with aclosing(tribunals.resume(run_id, 1)) as again:
        assert (await anext(again))["seq"] == 2
        release(panel)
        rest = await envelopes(again)
    assert [envelope["seq"] for envelope in rest] == list(range(3, 3 + len(rest)))
    assert rest[-1]["type"] == "result"


async def test_a_run_that_nobody_comes_back_to_is_stopped() -> None:
    panel = trio(holds=HOLD)
    _, told = await started(tribunals_over(panel), panel, linger_s=0.01)
    await told.aclose()
    assert panel.running == 3
    await eventually(lambda: panel.running == 0)
    assert panel.cancelled == 3


async def test_who_comes_back_in_time_keeps_it_going() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel), panel, linger_s=0.01)
    await told.aclose()
    async with aclosing(tribunals.resume(run_id)) as again:
        await anext(again)
        await asyncio.sleep(0.02)
        assert panel.running == 3
    await eventually(lambda: panel.running == 0)


async def test_two_listeners_hear_the_same_and_one_that_leaves_does_not_stop_it() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel), panel)
    second = asyncio.create_task(envelopes(tribunals.resume(run_id)))
    third = tribunals.resume(run_id)
    await anext(third)
    await third.aclose()
    assert panel.running == 3
    release(panel)
    heard = await envelopes(told)
    assert await second == await envelopes(tribunals.resume(run_id))
    assert (await second)[1:] == heard


async def test_what_has_ended_is_told_again_from_any_place() -> None:
    tribunals = tribunals_over(trio())
    told = await envelopes(tribunals.events(asked()))
    run_id = told[0]["id"]
    assert await envelopes(tribunals.resume(run_id)) == told
    assert await envelopes(tribunals.resume(run_id, 5)) == told[5:]
    assert await envelopes(tribunals.resume(run_id, 999)) == []


# Stopping and forgetting.


async def test_a_run_that_is_cancelled_tells_so_to_who_listens() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel), panel, linger_s=60)
    await tribunals.cancel(run_id)
    assert (panel.running, panel.cancelled) == (0, 3)
    assert (await envelopes(told))[-1]["error"]["code"] == "cancelled"
    await tribunals.cancel(run_id)


async def test_a_run_that_is_cancelled_raises_for_who_waits_for_its_result() -> None:
    panel = trio(holds=HOLD)
    tribunals = tribunals_over(panel)
    task = asyncio.create_task(tribunals.run(asked()))
    await eventually(lambda: panel.running == 3)
    await tribunals.cancel(next(iter(tribunals._runs)))
    with pytest.raises(ServingError, match="stopped before it had an answer"):
        await task


async def test_an_unknown_run_is_named() -> None:
    tribunals = tribunals_over(trio())
    with pytest.raises(UnknownRun, match="'tri-nope'"):
        await anext(tribunals.resume("tri-nope"))
    with pytest.raises(UnknownRun):
        await tribunals.cancel("x" * 500)


async def test_a_run_is_forgotten_when_it_ended_too_long_ago() -> None:
    tribunals = tribunals_over(trio(), keep_s=0)
    run_id = (await tribunals.run(asked()))["id"]
    with pytest.raises(UnknownRun):
        await anext(tribunals.resume(run_id))


async def test_where_too_much_is_kept_the_oldest_run_is_forgotten_first() -> None:
    tribunals = tribunals_over(trio())
    await tribunals.run(asked())
    (length,) = (run.characters for run in tribunals._runs.values())
    tribunals = tribunals_over(trio(), keep_characters=2 * length + length // 2)
    ids = [(await tribunals.run(asked()))["id"] for _ in range(4)]
    for run_id in ids[:2]:
        with pytest.raises(UnknownRun):
            await anext(tribunals.resume(run_id))
    for run_id in ids[2:]:
        assert await envelopes(tribunals.resume(run_id))


async def test_a_run_at_work_is_never_forgotten() -> None:
    panel = trio(holds=HOLD)
    run_id, told = await started(tribunals := tribunals_over(panel, keep_s=0, keep_characters=0), panel)
    async with aclosing(tribunals.resume(run_id)) as again:
        assert (await anext(again))["seq"] == 1
    await told.aclose()


async def test_it_knows_its_tribunals_and_who_could_not_sit() -> None:
    tribunals = tribunals_over(trio(), {"quick": {"members": ["a"]}, "default": {"members": ["b"]}})
    assert tribunals.names == ("default", "quick")
    assert await tribunals.missing("quick") is None
    with pytest.raises(UnknownModel):
        await tribunals.missing("nope")


async def test_of_many_runs_that_are_left_to_go_on_only_some_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "UNHEARD", 2)
    panel = trio(holds=HOLD)
    tribunals = tribunals_over(panel)
    for _ in range(5):
        told = tribunals.events(asked(linger_s=60))
        await anext(told)
        await told.aclose()
    await eventually(lambda: panel.running == 2 * 3)
    for run in [run for run in tribunals._runs.values() if run.live]:
        await run.stop()


async def test_more_runs_than_there_is_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LIVE", 2)
    panel = trio(holds=HOLD)
    tribunals = tribunals_over(panel)
    told = [tribunals.events(asked()) for _ in range(2)]
    for each in told:
        await anext(each)
    with pytest.raises(Overloaded):
        await tribunals.run(asked())
    for each in told:
        await each.aclose()
    assert panel.running == 0
