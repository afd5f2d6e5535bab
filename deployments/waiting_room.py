"""WaitingRoom: a replica's turns as its requests see them: what a request costs, and what it did cost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from deployments.config import ModelSpec
from deployments.errors import Overloaded
from deployments.metering import Used
from deployments.principal import Principal
from deployments.request_body import inputs_in
from deployments.turns import Turn, Turns, default_reserve

ALONE = 1.5
"""Requests inside for each sequence, so that the next ones are there when one ends."""
BESIDE_QUIET_ON_CPU = 0.125
BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 256
"""Of a request that does not say how long its answer may be."""


def turns_of(spec: ModelSpec) -> Turns:
    """Takes as many as the profile says, and has so many of them in the engine as keep it full.

    Who has its share already gets no more than the engine runs at once without the places that are kept free: one
    that comes during a flood must find a free sequence, not a place in the engine's queue.
    """
    sequences, taken = spec.max_sequences, spec.max_ongoing_requests
    places = max(1, min(int(ALONE * sequences), taken))
    kept_free = places - sequences + default_reserve(sequences) if places > sequences else default_reserve(places)
    waiting = taken - places + spec.max_queued_requests
    return Turns(places, waiting, reserve=kept_free, beside_quiet=_beside_quiet(spec))


def _beside_quiet(spec: ModelSpec) -> float:
    """A step of a GPU takes hardly longer for many than for few; one of a CPU takes as long as all together."""
    if spec.beside_quiet is not None:
        return spec.beside_quiet
    return 1 if spec.hardware.kind == "gpu" else BESIDE_QUIET_ON_CPU


def request_cost(size: int, body: Mapping[str, Any]) -> float:
    """Tokens, as a guess by the bytes of the request and what it says of its answers."""
    most = next((body[name] for name in ("max_completion_tokens", "max_tokens") if _is_count(body.get(name))), None)
    answers = int(body["n"]) if _is_count(body.get("n")) else 1
    each = max(inputs_in(body, name) for name in ("prompt", "messages"))
    return size / BYTES_PER_TOKEN + (most or ANSWER_TOKENS) * min(answers, 64) * each


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24


WAITED_S: ContextVar[float | None] = ContextVar("waited_s", default=None)
"""How long the request at hand has waited for its turn."""


class WaitingRoom:
    """One for each replica, of one event loop."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._open: dict[str, tuple[Turn, int]] = {}
        """Request -> its turn, and the tokens that it has really taken."""

    @asynccontextmanager
    async def turn(
        self, principal: Principal, cost: float, timeout_s: float | None = None, streamed: bool = False
    ) -> AsyncIterator[Turn]:
        """Wait for a turn. streamed: it is told of each piece. Raises Overloaded, DeadlineExceeded, Unavailable."""
        came = time.monotonic()
        deadline = None if timeout_s is None else came + timeout_s
        async with self.turns.turn(principal, cost, deadline, streamed) as turn:
            WAITED_S.set(time.monotonic() - came)
            if principal.request:
                self._open[principal.request] = turn, 0
            try:
                yield turn
            finally:
                self._open.pop(principal.request, None)

    def turned_away(self, principal: Principal) -> Overloaded | None:
        """What a full queue would tell one more request of it."""
        return self.turns.turned_away(principal)

    def bound(self, turns: Turns) -> None:
        """Have other bounds from now on; who is in the engine, or waits, goes by those before."""
        self.turns = turns

    def used(self, used: Used) -> None:
        """What the engine counted for a request; its key is charged with that instead of the guess."""
        if found := self._open.get(used.principal.request):
            turn, tokens = found[0], found[1] + used.prompt_tokens + used.completion_tokens
            self._open[used.principal.request] = turn, tokens
            turn.used(tokens)
