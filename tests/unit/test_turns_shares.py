"""Turns over minutes of virtual time: what each key gets of an engine by weight, and how long it waits."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from deployments.principal import Principal
from deployments.turns import Turns, default_reserve
from tests.unit.load_scaling_fakes import in_virtual_time, now
from tests.unit.turns_requests import FLOOD, QUIET

WARM_S = 50
"""Who came first had an idle engine; shares are counted from then on."""


@dataclass
class Law:
    """How the requests of a key are: how often they come, what they are charged, and how long the engine has them."""

    principal: Principal
    cost: float
    work_s: float
    gap_s: float = 0.0
    users: int = 1
    waits_s: list[float] = field(default_factory=list)
    done: int = 0
    tokens: float = 0.0


async def _use(turns: Turns, law: Law, chance: random.Random, until_s: float) -> None:
    while now() < until_s:
        if law.gap_s:
            await asyncio.sleep(chance.expovariate(1 / law.gap_s))
        asked_at = now()
        async with turns.turn(law.principal, law.cost):
            law.waits_s.append(now() - asked_at)
            law.tokens += law.cost if WARM_S <= now() < until_s else 0
            await asyncio.sleep(law.work_s * chance.uniform(0.5, 1.5))
        law.done += 1


def simulated(laws: list[Law], sequences: int, until_s: float, reserve: int | None = None) -> list[Law]:
    chance = random.Random(1)

    async def run() -> None:
        turns = Turns(sequences, 10_000, now, reserve)
        async with asyncio.TaskGroup() as group:
            for law in laws:
                for _ in range(law.users):
                    group.create_task(_use(turns, law, chance, until_s))

    in_virtual_time(run)
    return laws


def test_a_quiet_key_does_not_notice_a_flood() -> None:
    flood, quiet = simulated(
        [Law(FLOOD, 500, 10, users=500), Law(QUIET, 300, 5, gap_s=4, users=4)], sequences=64, until_s=600
    )
    assert quiet.done > 200
    assert sum(wait == 0 for wait in quiet.waits_s) > 0.98 * len(quiet.waits_s)
    assert max(quiet.waits_s) < 2  # 56 places of 10 s each: one is free every fifth of a second
    assert flood.done > 3000


def test_quiet_keys_are_not_slower_because_the_flood_is_many_keys_of_a_group() -> None:
    lab = [Law(Principal(str(number), "lab"), 500, 10, users=20) for number in range(20)]
    *_, quiet = simulated([*lab, Law(QUIET, 300, 5, gap_s=4, users=4)], sequences=64, until_s=300)
    assert sum(wait == 0 for wait in quiet.waits_s) > 0.98 * len(quiet.waits_s)


@pytest.mark.parametrize("weight", [1, 3])
@pytest.mark.parametrize(("cost", "work_s"), [(100, 1), (1000, 1), (100, 8), (1000, 8)])
def test_shares_are_of_tokens_whatever_a_request_costs_and_takes(weight: int, cost: float, work_s: float) -> None:
    one, other = simulated(
        [Law(FLOOD, 200, 2, users=60), Law(Principal("heavy", weight=weight), cost, work_s, users=60)], 16, until_s=400
    )
    ahead = default_reserve(16) + 2
    assert abs(one.tokens - other.tokens / weight) <= ahead * (200 + cost / weight)


def test_ten_keys_of_a_group_get_what_one_key_of_another_gets() -> None:
    lab = [Law(Principal(str(number), "lab"), 100, 1, users=20) for number in range(10)]
    *group, alone = simulated([*lab, Law(FLOOD, 100, 1, users=60)], sequences=16, until_s=100)
    assert alone.tokens == pytest.approx(sum(law.tokens for law in group), rel=0.05)
    assert max(law.tokens for law in group) <= 1.1 * min(law.tokens for law in group)
