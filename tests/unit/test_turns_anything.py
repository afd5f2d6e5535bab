"""Turns under any sequence of events: nobody is lost or wrongly refused, nothing overflows, every count is right."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.principal import ANYBODY, Principal
from deployments.turns import Turns
from tests.unit.turns_requests import FLOOD, QUIET, Clock, Request, asked, inside, settle

KEYS = [ANYBODY, FLOOD, replace(QUIET, weight=5), Principal("c", "lab"), Principal("d", "lab", group_weight=2)]
Operation = tuple[str, int, int]
operations = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end", "cancel", "wait", "go on", "look", "look"]),
        st.integers(0, 99),
        st.integers(0, 30),
    ),
    max_size=70,
)


@settings(max_examples=400, deadline=None)
@given(operations, st.integers(1, 12), st.integers(0, 6), st.integers(0, 3))
def test_whatever_happens_nobody_is_lost_and_nothing_overflows(
    steps: list[Operation], sequences: int, most_waiting: int, reserve: int
) -> None:
    asyncio.run(_anything(steps, sequences, most_waiting, reserve))


async def _anything(steps: list[Operation], sequences: int, most_waiting: int, reserve: int) -> None:
    clock = Clock(0)
    turns = Turns(sequences, most_waiting, clock, reserve)
    requests: list[Request] = []
    turned_away = 0
    for operation, which, number in steps:
        if operation == "look":
            turned_away += await _turned_away(turns, requests)
        else:
            await _operate(turns, clock, requests, operation, which, number)
        assert inside(requests) <= turns.inside <= sequences
        assert turns.waiting <= most_waiting
    await settle()
    assert inside(requests) == turns.inside
    assert turns.waiting == sum(not request.outcomes for request in requests)
    assert turns.waiting == 0 or turns.inside >= max(1, sequences - reserve)
    await _all_end(turns, requests, turned_away)


async def _turned_away(turns: Turns, requests: list[Request]) -> int:
    """How many keys are; each is told the same where it asks all the same."""
    await settle()
    refusals = [(key, refusal) for key in KEYS if (refusal := turns.turned_away(key))]
    for key, refusal in refusals:
        requests += await asked(turns, key, 1)
        assert requests[-1].outcomes == ["Overloaded"]
        assert str(requests[-1].error) == str(refusal)
    return len(refusals)


async def _operate(
    turns: Turns, clock: Clock, requests: list[Request], operation: str, which: int, number: int
) -> None:
    if operation == "ask":
        deadline = clock.now + number - 1 if which % 3 == 0 else None
        requests.append(Request(turns, KEYS[which % len(KEYS)], 10 * number, deadline))
    elif operation == "end" and (there := [request for request in requests if request.inside]):
        there[which % len(there)].turn.used(7 * number)
        there[which % len(there)]._end.set()
    elif operation == "cancel" and requests:
        requests[which % len(requests)].task.cancel()
    elif operation == "wait":
        await settle()
        clock.now += number / 3
        turns.expire()
        await settle()
        _assert_none_is_late(requests, clock)
    elif operation == "go on":
        await asyncio.sleep(0)


def _assert_none_is_late(requests: list[Request], clock: Clock) -> None:
    for request in requests:
        assert request.outcomes or request.turn.deadline > clock.now


async def _all_end(turns: Turns, requests: list[Request], turned_away: int) -> None:
    for _ in requests:
        for request in requests:
            if request.inside:
                request._end.set()
        await settle()
    assert (turns.inside, turns.waiting) == (0, 0)
    assert turns.snapshot().keys == ()
    assert all(request.task.done() and len(request.outcomes) == 1 for request in requests)
    became = Counter(request.outcomes[0] for request in requests)
    shot = turns.snapshot()
    assert (shot.refused - turned_away, shot.expired) == (became["Overloaded"], became["DeadlineExceeded"])
    assert became["entered"] <= shot.began <= became["entered"] + became["cancelled"]
