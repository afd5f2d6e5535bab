"""Interactive requests take turns before a replica's engine, which would run them first come, first served.

As many are inside as the engine runs at once; the rest wait in a bounded queue in weighted fair order, so the flood of
one key does not come before another's single question. A few places are kept free for who has less than its share.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from deployments.errors import DeadlineExceeded, Overloaded, ServingError, Unavailable
from deployments.fair_order import MOST_OVER, FairOrder
from deployments.principal import Principal
from deployments.quiet_keys import TIMES_QUIET, QuietKeys
from deployments.service_rate import Clock, ServiceRate

WAITS = 32
"""The mean wait is that of about so many requests."""
A_LITTLE_S = 0.001
"""A timer may be early."""
AT_ONCE_S = 0.001
"""Who waited less has found room."""
HOLDS_PART, HOLDS_MS = 0.1, 1000
"""What a full queue says holds until so much of it is served: it does not run dry meanwhile."""
KEEPS_FREE = 8
"""One place for so many is kept free, for an engine that has as many."""


@dataclass(frozen=True)
class KeyCount:
    """One key's requests. group: "" if it belongs to none."""

    group: str
    key: str
    inside: int
    waiting: int


@dataclass(frozen=True)
class Snapshot:
    """For metrics. began, refused, expired: requests since the start; waited_s: of those that began, together."""

    inside: int
    waiting: int
    began: int
    refused: int
    expired: int
    waited_s: float
    mean_wait_s: float
    per_s: float
    keys: tuple[KeyCount, ...]


class Turn:
    """One request's, for one `async with`, inside which the engine has it."""

    __slots__ = (
        "_turns", "asked_at", "began", "cost", "deadline", "principal", "priority", "quiet", "reading", "streamed",
        "told",
    )  # fmt: skip

    def __init__(self, turns: Turns, principal: Principal, cost: float, deadline: float, streamed: bool) -> None:
        self._turns, self.principal, self.cost, self.deadline = turns, principal, cost, deadline
        self.streamed = streamed
        self.asked_at = 0.0
        self.began = self.quiet = self.reading = False
        self.priority = 0
        """For vLLM's priority scheduling, once it has begun: 0, and 1 each for a key and a group over their shares."""
        self.told: asyncio.Future[ServingError | None] | None = None
        """Of one that waits: None when it is its turn."""

    async def __aenter__(self) -> Turn:
        await self._turns.enter(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self)

    def piece(self) -> float:
        """To be told inside of each piece of a streamed answer: how long to wait before the next one."""
        return self._turns.piece(self)

    def used(self, tokens: float) -> None:
        """What it has really cost so far, to be told inside; it may be told again."""
        self._turns.charge(self.principal, tokens - self.cost)
        self.cost = tokens


class Turns:
    """One for each replica, of one event loop.

    sequences: that are inside at once. most_waiting: more are refused. reserve: places that nobody gets who has its
    share, so that one that comes during a flood enters at once; the next requests to end make room for another such.
    Half of them are open to a quiet key of the group that floods. Without keys (key "") nothing is kept free.
    beside_quiet: part of its places that a flood keeps while quieter keys ask, for an engine whose every step takes
    everybody as long as all that is in it; 1 keeps all.
    """

    def __init__(
        self,
        sequences: int,
        most_waiting: int,
        clock: Clock = time.monotonic,
        reserve: int | None = None,
        beside_quiet: float = 1,
    ) -> None:
        self._sequences, self._most, self._clock = sequences, most_waiting, clock
        reserve = default_reserve(sequences) if reserve is None else min(reserve, sequences - 1)
        self._leaves_free = (0, (reserve + 1) // 2, reserve)
        """Who is over its share at so many levels leaves so many places free."""
        self._order: FairOrder[Turn] = FairOrder(sequences, lead=max(1, reserve))
        self._rate = ServiceRate(clock)
        self._began = self._refused = self._expired = 0
        self._waited_s = self._mean_wait_s = 0.0
        self._due = math.inf
        """No deadline of those that wait is earlier."""
        self._timer: asyncio.TimerHandle | None = None
        most_beside = max(1, math.ceil((sequences - reserve) * beside_quiet)) if beside_quiet < 1 else math.inf
        self._quiet = QuietKeys(most_beside, clock)
        self._gone: asyncio.TimerHandle | None = None
        """For when quiet keys are expected no longer."""
        self._stopping = False
        self._empty = asyncio.Event()

    @property
    def inside(self) -> int:
        return self._order.inside

    @property
    def waiting(self) -> int:
        return self._order.waiting

    @property
    def mean_wait_s(self) -> float:
        """Of the last requests that began."""
        return self._mean_wait_s

    @property
    def mind_pieces(self) -> bool:
        """Whether `piece` of a turn may have something to say."""
        return self._quiet.matter

    def turn(self, principal: Principal, cost: float, deadline: float | None = None, streamed: bool = False) -> Turn:
        """cost: tokens, as estimated. deadline: on the clock, to begin by. streamed: `piece` will be told.

        Entering raises Overloaded, DeadlineExceeded, or Unavailable when the replica stops.
        """
        return Turn(self, principal, cost, math.inf if deadline is None else deadline, streamed)

    async def enter(self, turn: Turn) -> None:
        """Returns at once where there is room. Raises ServingError."""
        if self._stopping:
            raise Unavailable("This replica is stopping; try again.", "stopping")
        turn.asked_at = self._clock()
        if turn.deadline <= turn.asked_at:
            self._expired += 1
            raise _too_late()
        if not self._order.waiting and self._most_over() == MOST_OVER and self._has_room(turn.principal):
            self._began_now(turn, self._order.enter(turn.principal, turn.cost))
        else:
            await self._queue(turn)

    def turned_away(self, principal: Principal) -> Overloaded | None:
        """What one more request of it would be told at once, by a full queue; it counts as refused. None: it may enter.

        For before anything is known of the request, so that a refusal costs next to nothing.
        """
        full = self.waiting >= max(1, self._most) and self._clock() < self._due and not self._stopping
        if not full or not self._order.would_be_surplus(principal):
            return None
        self._refused += 1
        refusal = self._full(principal)
        refusal.holds_ms = min(HOLDS_MS, int(1000 * self._rate.takes_s(HOLDS_PART * self.waiting)))
        return refusal

    def leave(self, turn: Turn) -> None:
        self._rate.ended()
        self._finish(turn)
        self._settle()

    def piece(self, turn: Turn) -> float:
        if turn.reading:
            self._has_read(turn)
            self._settle()
        if turn.quiet or not self._quiet.came:
            return 0.0
        return self._quiet.rest_s(self._order.inside_of(turn.principal))

    def charge(self, principal: Principal, extra: float) -> None:
        """So many tokens more, or fewer, than a request inside was estimated at."""
        self._order.charge(principal, extra)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.inside, self.waiting, self._began, self._refused, self._expired, self._waited_s, self._mean_wait_s,
            self._rate.per_s(), tuple(KeyCount(*counts) for counts in self._order.counts()),
        )  # fmt: skip

    async def drain(self) -> None:
        """Take nobody new, and wait until the last has left; those that wait still get their turn."""
        self._stopping = True
        self._settle()
        await self._empty.wait()

    def expire(self) -> None:
        """Refuse those whose deadline has passed. A timer does so; it costs nothing before the first one is due."""
        now = self._clock()
        if now < self._due:
            return
        self._due = math.inf
        for turn in list(self._order.items()):
            if turn.deadline <= now:
                self._order.remove(turn.principal, turn)
                self._expired += _refuse(turn, _too_late())
            else:
                self._due = min(self._due, turn.deadline)
        self._set_timer()

    async def _queue(self, turn: Turn) -> None:
        turn.told = told = asyncio.get_running_loop().create_future()
        self._order.push(turn.principal, turn, turn.cost)
        self._settle()
        if self.waiting > self._most:
            self._push_out(turn.principal)
        if turn.deadline < self._due and not told.done():
            self._due = turn.deadline
            self._set_timer()
        try:
            refused = await told
        except BaseException:
            self._abandon(turn)
            raise
        if refused is not None:
            raise refused

    def _abandon(self, turn: Turn) -> None:
        """Nobody wants its answer any more; it may have its turn already."""
        if turn.began:
            self._order.charge(turn.principal, -turn.cost)
            self._finish(turn)
        else:
            self._order.remove(turn.principal, turn)
        self._settle()

    def _finish(self, turn: Turn) -> None:
        self._order.finish(turn.principal)
        self._has_read(turn)
        if turn.quiet:
            turn.quiet = False
            self._quiet.ended()

    def _has_read(self, turn: Turn) -> None:
        if turn.reading:
            turn.reading = False
            self._quiet.reading -= 1

    def _push_out(self, newcomer: Principal) -> None:
        """Refuse whoever has most of the queue for its weight, the newest of its requests first."""
        turn = self._order.surplus(newcomer)
        self._order.remove(turn.principal, turn)
        self._refused += _refuse(turn, self._full(turn.principal))
        self._settle()

    def _full(self, principal: Principal) -> Overloaded:
        wait_s = self._rate.retry_after_s(self._order.position(principal))
        message = f"The model's queue of {self._most} requests is full, and this key has its share of it; try again in"
        return Overloaded(f"{message} {wait_s} s.", wait_s)

    def _settle(self) -> None:
        """Let in whom there is room for. After everything that changes who is inside or waits."""
        if self._order.waiting:
            self.expire()
            while turn := self._order.next(self._most_over(), self._quiet.most_inside()):
                self._begin(turn)
            self._settle_later()
        self._rate.busy(self._order.waiting > 0)
        if self._stopping and not self.inside:  # then nobody waits
            self._empty.set()

    def _most_over(self) -> int:
        """Who may take a place now: at so many levels over its share, -1 for nobody."""
        free = self._sequences - self._order.inside
        over = MOST_OVER
        while over >= 0 and free <= self._leaves_free[over]:
            over -= 1
        return over

    def _has_room(self, principal: Principal) -> bool:
        return not principal.key or self._order.inside_of(principal) < self._quiet.most_inside()

    def _is_quiet(self, principal: Principal) -> bool:
        """Whether another key has far more inside, where that matters."""
        if not self._quiet.matter or not principal.key:
            return False
        return self._order.most_inside_beside(principal) > TIMES_QUIET * self._order.inside_of(principal)

    def _settle_later(self) -> None:
        """A flood gets its places back when quiet keys are gone, though nothing ends then."""
        rest_s = self._quiet.expected_s()
        if self._order.waiting and self._gone is None and 0 < rest_s < math.inf:
            self._gone = asyncio.get_running_loop().call_later(rest_s + A_LITTLE_S, self._quiet_are_gone)

    def _quiet_are_gone(self) -> None:
        """Or have come back; then the timer is set once more."""
        self._gone = None
        self._settle()

    def _begin(self, turn: Turn) -> None:
        """One that waited."""
        told = turn.told
        if told is None or told.done():  # given up in this moment
            self._order.remove(turn.principal, turn)
            return
        over = self._order.over(turn.principal)
        self._order.start(turn.principal, turn)
        self._began_now(turn, over, self._clock() - turn.asked_at)
        told.set_result(None)

    def _began_now(self, turn: Turn, over: int, waited_s: float = 0.0) -> None:
        turn.began, turn.priority = True, over
        if waited_s < AT_ONCE_S and self._is_quiet(turn.principal):
            turn.quiet = True
            self._quiet.began()
        if turn.streamed and turn.principal.key and self._quiet.expected_s() > 0:
            turn.reading = True
            self._quiet.reading += 1
        self._began += 1
        self._waited_s += waited_s
        self._mean_wait_s += (waited_s - self._mean_wait_s) / min(self._began, WAITS)

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._due < math.inf:
            rest_s = self._due - self._clock() + A_LITTLE_S
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.expire()
        if not self._timer:  # the clock is behind the loop's
            self._set_timer()
        self._settle()


def default_reserve(sequences: int) -> int:
    return max(1, sequences // KEEPS_FREE) if sequences >= KEEPS_FREE else 0


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The request's deadline passed before the engine had room for it.")


def _refuse(turn: Turn, error: ServingError) -> bool:
    """False if it was given up in this moment."""
    if turn.told is None or turn.told.done():
        return False
    turn.told.set_result(error)
    return True
