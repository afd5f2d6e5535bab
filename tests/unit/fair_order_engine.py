"""An engine of so many sequences behind a FairOrder: what each key got of it."""

from __future__ import annotations

import itertools
from collections import defaultdict

from deployments.fair_order import MOST_OVER, FairOrder
from deployments.principal import Principal

A, B, C = Principal("a"), Principal("b"), Principal("c")


class Engine:
    """Takes the next request when it is told to, and ends the oldest one beyond `sequences`."""

    def __init__(self, sequences: int = 1, lead: int = 1) -> None:
        self.order: FairOrder[int] = FairOrder(sequences, lead)
        self._sequences = sequences
        self._numbers = itertools.count()
        self._asked: dict[int, tuple[Principal, float, float]] = {}
        self._inside: list[int] = []
        self.tokens: dict[Principal, float] = defaultdict(float)
        """Of all that began: really used."""
        self.began: list[Principal] = []

    def ask(self, principal: Principal, cost: float = 1, used: float | None = None) -> int:
        """cost: as estimated."""
        number = next(self._numbers)
        self._asked[number] = (principal, cost, cost if used is None else used)
        self.order.push(principal, number, cost)
        return number

    def step(self, most_over: int = MOST_OVER) -> Principal | None:
        if len(self._inside) == self._sequences:
            self.end()
        number = self.order.next(most_over)
        if number is None:
            return None
        principal, _, used = self._asked[number]
        self.order.start(principal, number)
        self._inside.append(number)
        self.tokens[principal] += used
        self.began.append(principal)
        return principal

    def end(self) -> None:
        principal, cost, used = self._asked[self._inside.pop(0)]
        self.order.charge(principal, used - cost)
        self.order.finish(principal)


def flows(order: FairOrder[int]) -> int:
    """Groups and keys that something is kept of: nothing else shows it before it has grown for weeks."""
    groups = order._groups.known
    return len(groups) + sum(len(group.keys.known) for group in groups.values())
