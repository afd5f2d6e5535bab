"""Who is next, in weighted fair order: start-time fair queueing among groups, and among the keys of each group.

Every group, and every key of one, has a tag: the tokens charged to it by its weight. The lowest tag is next, and who
did not wait before goes on from the time of those that do: a quiet key saves nothing up, and what a key used while
nobody else waited is not held against it (Goyal, Vin, Cheng: Start-time Fair Queuing, SIGCOMM 1996).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployments.principal import Principal

Item = TypeVar("Item", bound=Hashable)
FEW_FLOWS = 16
"""So many are kept before those that nobody uses are looked for."""
LEAST_COST = 1.0
"""Tokens. What costs nothing would always be next."""
NOT_MUCH_LESS = 0.5
"""Of the largest part of the queue. Nearer to 1, keys that ask alike send each other's old requests away."""
MOST_OVER = 2
"""A request's group and its key may both have their share already."""


class FairOrder(Generic[Item]):
    """Requests that wait, and how many of each key are inside.

    places: how many can be inside. lead: by so many of its requests a key may be ahead of the order without being over
    its share. Operations take time by the number of keys known; how many requests wait makes no difference.
    """

    def __init__(self, places: int, lead: int = 1) -> None:
        self._places, self._lead = places, lead
        self._groups: _Flows[_Group[Item]] = _Flows()

    @property
    def waiting(self) -> int:
        return self._groups.waiting

    @property
    def inside(self) -> int:
        return self._groups.inside

    def push(self, principal: Principal, item: Item, cost: float) -> None:
        """cost: tokens, as estimated. Requests of a key stay in the order in which they came."""
        _, key = self._joined(principal)
        key.items[item] = max(cost, LEAST_COST)

    def enter(self, principal: Principal, cost: float) -> int:
        """push and start of one that need not wait. What its `over` was."""
        group, key = self._joined(principal)
        cost = max(cost, LEAST_COST)
        over = self._over(group, key, cost)
        self._charged_start(group, key, cost)
        return over

    def next(self, most_over: int = MOST_OVER, most_inside: float = math.inf) -> Item | None:
        """The first of those whose `over` is at most so much, and whose key has fewer inside."""
        if not self.waiting or most_over < 0:
            return None
        for group in sorted(self._groups.that_wait(), key=_rank):
            keys = group.keys.that_wait()
            if most_over < MOST_OVER:
                keys = [key for key in keys if self._over(group, key, key.next_cost) <= most_over]
            keys = [key for key in keys if key.inside < most_inside or not key.name]
            if keys:
                return next(iter(min(keys, key=_rank).items))
        return None

    def start(self, principal: Principal, item: Item) -> None:
        """It waits no longer, it is inside, and its key and group are charged for it."""
        group, key = self._found(principal)
        self._charged_start(group, key, key.items.pop(item))

    def finish(self, principal: Principal) -> None:
        """One of the key's requests has left."""
        group, key = self._found(principal)
        group.keys.count(key, 0, -1)
        self._groups.count(group, 0, -1)

    def remove(self, principal: Principal, item: Item) -> bool:
        """It is not wanted any more. Whether it did wait."""
        group, key = self._sought(principal)
        if group is None or key is None or key.items.pop(item, None) is None:
            return False
        group.keys.count(key, -1, 0)
        self._groups.count(group, -1, 0)
        return True

    def charge(self, principal: Principal, extra: float) -> None:
        """Correct what a request that is inside was charged, up or down, by so many tokens."""
        group, key = self._sought(principal)
        if group is not None and key is not None:
            self._groups.charge(group, extra)
            group.keys.charge(key, extra)

    def over(self, principal: Principal) -> int:
        """How many of the two, the key's group and the key, would hold more than their share with its next request.

        Shares are of the places, by weight among those that wait or are inside and one more group like this. One place
        is nobody's excess. Both are over if one is far ahead of the order, however few places its tokens took: places
        out of order do not add up to more tokens. Who has no key is one with everybody else, and never over.
        """
        group, key = self._found(principal)
        return self._over(group, key, key.next_cost)

    def inside_of(self, principal: Principal) -> int:
        """Requests of its key that are inside."""
        _, key = self._sought(principal)
        return key.inside if key else 0

    def most_inside_beside(self, principal: Principal) -> int:
        """Requests that are inside of the other key with most of them. Who has no key does not count."""
        own, keyless = principal.key, ""
        groups = self._groups.known.values()
        others = (key.inside for each in groups for key in each.keys.known.values() if key.name not in (own, keyless))
        return max(others, default=0)

    def position(self, principal: Principal) -> int:
        """That the key's next request would have, the first one's being 1, if all cost alike."""
        group, key = self._sought(principal)
        nth: float = key.waiting + 1 if key else 1
        if group:
            nth = group.keys.turn(key, principal.weight, nth)
        return math.ceil(self._groups.turn(group, _group_weight(principal), nth))

    def surplus(self, newcomer: Principal) -> Item:
        """The newest request of whoever has most of the queue for their weight; of equals, of who holds most places.

        The newcomer's own, where its group and key have not much less: they are told at once, and nobody who has waited
        for long is sent away. With the newcomer's among them one group at least has more than its share of the queue,
        and so has one key of it.
        """
        return next(reversed(self._fullest(newcomer).items))

    def would_be_surplus(self, newcomer: Principal) -> bool:
        """Whether one more request of it surely would be: it is even without that one."""
        _, key = self._sought(newcomer)
        return key is not None and key.waiting > 0 and self._fullest(newcomer) is key

    def _fullest(self, newcomer: Principal) -> _Key[Item]:
        name = _group_name(newcomer)
        group = _largest(self._groups.that_wait(), lambda each: each.name == name)
        return _largest(group.keys.that_wait(), lambda each: each.name == newcomer.key)

    def items(self) -> Iterator[Item]:
        """All that wait."""
        for group in self._groups.that_wait():
            for key in group.keys.that_wait():
                yield from key.items

    def counts(self) -> Iterator[tuple[str, str, int, int]]:
        """Group, key, requests inside and waiting, of each key that has any."""
        for group in self._groups.known.values():
            for key in group.keys.known.values():
                if key.inside or key.waiting:
                    yield group.name[0], key.name, key.inside, key.waiting

    def _over(self, group: _Group[Item], key: _Key[Item], cost: float) -> int:
        if not key.name:
            return 0
        lead = self._lead * cost
        if self._groups.ahead(group) > lead or group.keys.ahead(key) > lead:
            return MOST_OVER
        part = self._groups.part(group)
        share = self._places * part / (1 + part)
        return (0 < group.inside > share - 1) + (0 < key.inside > share * group.keys.part(key) - 1)

    def _joined(self, principal: Principal) -> tuple[_Group[Item], _Key[Item]]:
        """One more request waits in these."""
        name = _group_name(principal)
        group = self._groups.known.get(name) or self._groups.add(name, _Group(name=name))
        key = group.keys.known.get(principal.key) or group.keys.add(principal.key, _Key(name=principal.key))
        self._groups.wait(group, _group_weight(principal))
        group.keys.wait(key, principal.weight)
        return group, key

    def _charged_start(self, group: _Group[Item], key: _Key[Item], cost: float) -> None:
        self._groups.start(group, cost)
        group.keys.start(key, cost)

    def _found(self, principal: Principal) -> tuple[_Group[Item], _Key[Item]]:
        group = self._groups.known[_group_name(principal)]
        return group, group.keys.known[principal.key]

    def _sought(self, principal: Principal) -> tuple[_Group[Item] | None, _Key[Item] | None]:
        group = self._groups.known.get(_group_name(principal))
        return group, group.keys.known.get(principal.key) if group else None


@dataclass(slots=True, eq=False)
class _Flow:
    """A group or a key. least: its tag when it began to wait; corrections of what was before do not go below."""

    weight: float = 1.0
    tag: float = 0.0
    least: float = 0.0
    waiting: int = 0
    inside: int = 0


@dataclass(slots=True, eq=False)
class _Key(_Flow, Generic[Item]):
    """items: what waits, and its cost, from the oldest on."""

    name: str = ""
    items: OrderedDict[Item, float] = field(default_factory=OrderedDict)

    @property
    def next_cost(self) -> float:
        return next(iter(self.items.values()))


@dataclass(slots=True, eq=False)
class _Group(_Flow, Generic[Item]):
    name: tuple[str, str] = ("", "")
    keys: _Flows[_Key[Item]] = field(default_factory=lambda: _Flows())


Flow = TypeVar("Flow", bound=_Flow)


class _Flows(Generic[Flow]):
    """Flows that share by weight: all groups, or the keys of one. Those that nobody uses are kept while ahead."""

    def __init__(self) -> None:
        self.known: dict[Hashable, Flow] = {}
        self.waiting = self.inside = 0
        self.weight = 0.0
        """Of those that wait or are inside."""
        self._time = 0.0
        """The tag of the last one that started in order, as it was then."""
        self._many = FEW_FLOWS

    def that_wait(self) -> list[Flow]:
        return [flow for flow in self.known.values() if flow.waiting]

    def add(self, name: Hashable, flow: Flow) -> Flow:
        if len(self.known) >= self._many:
            self._drop_unused()
        self.known[name] = flow
        return flow

    def wait(self, flow: Flow, weight: float) -> None:
        """One more request of it waits. weight: as it is now."""
        if not flow.waiting and flow.tag < (now := self._now()):
            flow.tag = flow.least = now
        if flow.waiting or flow.inside:
            self.weight += weight - flow.weight
        flow.weight = weight
        self.count(flow, 1, 0)

    def start(self, flow: Flow, cost: float) -> None:
        """Time goes on to its tag, if that is the lowest: one that started out of order is ahead of it."""
        lowest = flow.tag if flow.waiting == self.waiting else min(each.tag for each in self.that_wait())
        self._time = max(self._time, lowest)
        flow.tag += cost / flow.weight
        self.count(flow, -1, 1)

    def charge(self, flow: Flow, extra: float) -> None:
        flow.tag = max(flow.least, flow.tag + extra / flow.weight)
        if extra > 0 and flow.waiting == self.waiting:  # it took nothing from anybody
            self._time += extra / flow.weight

    def count(self, flow: Flow, waiting: int, inside: int) -> None:
        """So many more of it wait and are inside."""
        was = flow.waiting + flow.inside
        flow.waiting, flow.inside = flow.waiting + waiting, flow.inside + inside
        self.waiting, self.inside = self.waiting + waiting, self.inside + inside
        if not was:
            self.weight += flow.weight
        elif was + waiting + inside == 0:
            self.weight -= flow.weight
        if not self.waiting and not self.inside:
            self._forget()

    def part(self, flow: Flow) -> float:
        """Its weight among those that wait or are inside, as it is."""
        return flow.weight / max(self.weight, flow.weight)

    def ahead(self, flow: Flow) -> float:
        """Tokens."""
        return (flow.tag - self._time) * flow.weight

    def turn(self, flow: Flow | None, weight: float, nth: float) -> float:
        """When the flow's nth request would come, as many of the others before it as their weights say."""
        others = (each for each in self.that_wait() if each is not flow)
        return nth + sum(min(each.waiting, nth * each.weight / weight) for each in others)

    def _now(self) -> float:
        """Where one goes on that did not wait. Corrections can have put one that waits before the last that started."""
        if not self.waiting:
            return self._time
        return min(self._time, *(flow.tag for flow in self.that_wait()))

    def _forget(self) -> None:
        self.known.clear()
        self._time = self.weight = 0.0
        self._many = FEW_FLOWS

    def _drop_unused(self) -> None:
        now = self._now()
        for name, flow in list(self.known.items()):
            if not flow.waiting and not flow.inside and flow.tag <= now:
                del self.known[name]
        self._many = max(FEW_FLOWS, 2 * len(self.known))


def _group_name(principal: Principal) -> tuple[str, str]:
    """A key without a group is one of its own."""
    return (principal.group, "") if principal.group else ("", principal.key)


def _group_weight(principal: Principal) -> float:
    return principal.group_weight if principal.group else principal.group_weight * principal.weight


def _rank(flow: _Flow) -> tuple[float, float]:
    """Of equals, who holds less is first."""
    return flow.tag, flow.inside / flow.weight


def _largest(flows: Sequence[Flow], is_own: Callable[[Flow], bool]) -> Flow:
    """That with most of the queue, or the newcomer's own if it has not much less of queue and places together."""
    largest = max(flows, key=lambda each: (*_held(each), is_own(each)))
    own = next((each for each in flows if is_own(each)), None)
    return own if own and sum(_held(own)) > NOT_MUCH_LESS * sum(_held(largest)) else largest


def _held(flow: _Flow) -> tuple[float, float]:
    """Of the queue, and of the places."""
    return flow.waiting / flow.weight, flow.inside / flow.weight
