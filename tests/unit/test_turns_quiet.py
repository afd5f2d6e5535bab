"""Turns beside quiet keys: a flood keeps a part of its places while they ask, and gets all back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments.principal import ANYBODY, Principal
from deployments.quiet_keys import LINGER_S, PIECE_S, TIMES_QUIET, QuietKeys
from deployments.turns import A_LITTLE_S, Turns
from tests.unit.load_scaling_fakes import VirtualLoop, in_virtual_time
from tests.unit.turns_requests import FLOOD, QUIET, THIRD, Clock, Request, all_ended, asked, inside


async def test_beside_a_quiet_key_a_flood_keeps_a_part_of_the_places() -> None:
    """New ones of the flood wait until no more than its part are inside, and all of it comes back some time later."""
    clock = Clock()
    turns = Turns(16, 100, clock, reserve=2, beside_quiet=0.25)
    flood = await asked(turns, FLOOD, 30)
    assert turns.inside == 14
    quiet = await asked(turns, QUIET, 1)
    for request in flood[:12]:
        await request.end()
    assert turns.inside == 1 + 4  # a quarter of 14, rounded up
    await quiet[0].end()
    for request in flood[12:14]:
        clock.now += LINGER_S / 2 + 0.01
        await request.end()
    assert turns.inside == 14
    await all_ended(flood)


async def test_a_flood_alone_keeps_all_places_however_often_it_asks() -> None:
    turns = Turns(16, 100, Clock(), reserve=2, beside_quiet=0.25)
    flood = await asked(turns, FLOOD, 40)
    for request in flood[:20]:
        await request.end()
    assert inside(flood) == 14
    await all_ended(flood)


async def test_quiet_keys_that_are_many_leave_a_flood_more() -> None:
    """Nobody is starved by them: it may have so many times their places."""
    turns = Turns(64, 600, Clock(), reserve=8, beside_quiet=0.125)
    flood = await asked(turns, FLOOD, 200)
    quiet = [await asked(turns, Principal(f"quiet-{number}"), 1) for number in range(8)]
    for request in flood[:56]:
        await request.end()
    assert inside(flood) == TIMES_QUIET * len(quiet)
    await all_ended(flood, *quiet)


def test_a_flood_gets_its_places_back_though_nothing_ends() -> None:
    """What is inside may take for minutes yet."""

    async def run() -> None:
        turns = Turns(16, 100, asyncio.get_running_loop().time, reserve=2, beside_quiet=0.25)
        flood, quiet = await asked(turns, FLOOD, 30), await asked(turns, QUIET, 1)
        for request in flood[:12]:
            await request.end()
        await quiet[0].end()
        await asyncio.sleep(LINGER_S / 2)
        assert inside(flood) == 4
        await asyncio.sleep(LINGER_S / 2 + 2 * A_LITTLE_S)
        assert inside(flood) == 14
        await all_ended(flood)

    in_virtual_time(run)


async def test_beside_a_quiet_key_prompts_are_read_one_at_a_time() -> None:
    turns = Turns(16, 100, Clock(), reserve=2, beside_quiet=0.5)
    flood = await asked(turns, FLOOD, 40, streamed=True)
    assert inside(flood) == 14  # while nobody else asks all at once
    quiet = await asked(turns, QUIET, 1, streamed=True)
    for request in flood[:10]:
        await request.end()
    assert inside(flood) == 4  # its half is 7, but the quiet key's prompt comes first
    await quiet[0].piece()
    for read in range(3):
        assert inside(flood) == 5 + read
        await flood[14 + read].piece()
    assert inside(flood) == 7
    await all_ended(flood, quiet)


@pytest.mark.parametrize("gone", ["ended", "cancelled"])
async def test_a_prompt_that_is_never_read_holds_nobody_up(gone: str) -> None:
    turns = Turns(16, 100, Clock(), reserve=2, beside_quiet=0.5)
    flood, quiet = await asked(turns, FLOOD, 30), await asked(turns, QUIET, 1, streamed=True)
    for request in flood[:10]:
        await request.end()
    assert inside(flood) == 4
    await (quiet[0].end() if gone == "ended" else quiet[0].cancel())
    assert inside(flood) == 7
    await all_ended(flood)


async def test_what_does_not_tell_of_its_first_token_holds_nobody_up() -> None:
    turns = Turns(16, 100, Clock(), reserve=2, beside_quiet=0.5)
    flood, quiet = await asked(turns, FLOOD, 30), await asked(turns, QUIET, 1)
    for request in flood[:10]:
        await request.end()
    assert inside(flood) == 7
    await all_ended(flood, quiet)


async def test_beside_a_quiet_key_a_flood_s_text_comes_in_fewer_pieces() -> None:
    clock = Clock()
    turns = Turns(16, 100, clock, reserve=2, beside_quiet=0.5)
    flood, third = await asked(turns, FLOOD, 14, streamed=True), await asked(turns, THIRD, 1, streamed=True)
    clock.now += LINGER_S
    await third[0].end()
    clock.now += LINGER_S
    assert await flood[0].piece() == 0
    quiet = await asked(turns, QUIET, 1, streamed=True)
    assert await flood[0].piece() == PIECE_S
    assert await quiet[0].piece() == 0
    await quiet[0].end()
    assert await flood[0].piece() == PIECE_S
    clock.now += LINGER_S
    assert await flood[0].piece() == 0
    await all_ended(flood)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["began", "ended", "1 s"]), max_size=40), st.integers(1, 20))
def test_a_flood_has_all_but_while_quiet_keys_ask_and_a_moment_longer(steps: list[str], most_beside: int) -> None:
    clock = Clock()
    quiet, left_at = QuietKeys(most_beside, clock), -LINGER_S
    for step in steps:
        if step == "began":
            quiet.began()
        elif step == "ended" and quiet.inside:
            quiet.ended()
            left_at = clock.now
        else:
            clock.now += 1
        asking = quiet.inside > 0 or clock.now < left_at + LINGER_S
        assert (quiet.most_inside() < float("inf")) == asking == (quiet.expected_s() > 0)
        assert quiet.most_inside() >= max(most_beside, TIMES_QUIET * quiet.inside)
        assert (quiet.rest_s(TIMES_QUIET * max(1, quiet.inside) + 1) > 0) == asking
        assert quiet.rest_s(TIMES_QUIET) == 0


KEYS = [ANYBODY, FLOOD, FLOOD, FLOOD, QUIET, THIRD, Principal("of a lab", "lab", weight=3)]


@dataclass(frozen=True)
class Places:
    sequences: int
    reserve: int
    beside_quiet: float


class QuietTurns(RuleBasedStateMachine):
    """Requests of floods and quiet keys come, end, give up and are late, in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.requests: list[Request] = []

    @initialize(
        places=st.builds(Places, st.integers(1, 16), st.integers(0, 4), st.floats(0.05, 1)), most=st.integers(0, 40)
    )
    def start(self, places: Places, most: int) -> None:
        self.sequences, self.reserve = places.sequences, places.reserve
        now = self.runner.get_loop().time
        self.turns = Turns(places.sequences, most, now, places.reserve, places.beside_quiet)

    def teardown(self) -> None:
        """Whoever is left has a turn within as many rounds as there are requests."""
        with self.runner:
            self.runner.run(self._to_the_end())
        quiet = self.turns._quiet
        assert (self.turns.inside, self.turns.waiting, quiet.inside, quiet.reading) == (0, 0, 0, 0)
        assert all(request.outcomes for request in self.requests)

    @rule(
        key=st.sampled_from(KEYS), count=st.integers(1, 8), patience_s=st.none() | st.floats(0.1, 5),
        streamed=st.booleans(),
    )  # fmt: skip
    def ask(self, key: Principal, count: int, patience_s: float | None, streamed: bool) -> None:
        deadline = None if patience_s is None else self.runner.get_loop().time() + patience_s
        self.requests += self.runner.run(asked(self.turns, key, count, deadline=deadline, streamed=streamed))

    @precondition(lambda self: any(request.turn.streamed for request in self.there))
    @rule(which=st.integers(0, 99))
    def send_a_piece(self, which: int) -> None:
        streams = [request for request in self.there if request.turn.streamed]
        request = streams[which % len(streams)]
        assert 0 <= self.runner.run(request.piece()) <= PIECE_S
        assert not request.turn.reading

    @precondition(lambda self: self.there)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        self.runner.run(self.there[which % len(self.there)].end())

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        self.runner.run(self.requests[which % len(self.requests)].cancel())

    @rule(seconds=st.floats(0.05, 3))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.turns.inside == len(self.there) <= self.sequences
        assert self.turns._quiet.inside == sum(request.turn.quiet for request in self.there) >= 0
        assert self.turns._quiet.reading == sum(request.turn.reading for request in self.there) >= 0

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        quiet = self.turns._quiet
        if self.turns.inside >= max(1, self.sequences - self.reserve) or -2 * A_LITTLE_S < quiet.expected_s() <= 0:
            return  # full, or the timer for those that are held back is about to ring
        for request in self.requests:
            if not request.outcomes:
                assert self.turns._order.inside_of(request.principal) >= quiet.most_inside()

    @property
    def there(self) -> list[Request]:
        return [request for request in self.requests if request.inside]

    async def _to_the_end(self) -> None:
        for _ in self.requests:
            for request in self.there:
                await request.end()
        await asyncio.sleep(LINGER_S + 2 * A_LITTLE_S)  # the held back come in then, if nobody made room for them
        for _ in self.requests:
            for request in self.there:
                await request.end()


TestQuietTurns = QuietTurns.TestCase
TestQuietTurns.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
