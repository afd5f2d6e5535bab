"""The quota against a naive recount of all that was admitted, whatever happens in whatever order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.access.limits import Limits
from app.access.quota import FORGET_S, Quota, Refusal
from app.access.window import TICKS, WINDOW_S
from tests.unit.access_fakes import BUCKET_S, Book, Clock

MOMENT_S = 1 / 1024
Step = tuple[float, str, int]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 8), st.sampled_from("kl"), st.integers(0, 30)), min_size=20, max_size=120),
    st.integers(1, 12), st.integers(30, 150),
)  # fmt: skip
def test_no_minute_holds_more_than_the_limits(steps: list[Step], requests: int, tokens: int) -> None:
    clock = Clock(1000.0)
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    both = Limits(requests_per_minute=requests + 2, tokens_per_minute=tokens + 20)
    quota = Quota(lambda key, group: (limits, both), clock)
    admitted: list[Step] = []
    for number, (wait_s, key, amount) in enumerate(steps):
        clock.now += wait_s
        if quota.admit(str(number), key, "g", amount) is None:
            admitted.append((clock.now, key, amount))
    for begin, _, _ in admitted:
        inside = [step for step in admitted if begin <= step[0] <= begin + WINDOW_S]
        assert len(inside) <= requests + 2
        assert sum(amount for _, _, amount in inside) <= tokens + 20
        for key in "kl":
            assert sum(1 for _, who, _ in inside if who == key) <= requests
            assert sum(amount for _, who, amount in inside if who == key) <= tokens


Call = tuple[float, str, int, int]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 8), st.sampled_from("kl"), st.integers(0, 30), st.integers(0, 60)),
        min_size=20, max_size=80,
    ),
    st.integers(30, 150),
)  # fmt: skip
def test_no_minute_of_bulk_calls_holds_more_tokens_than_the_limits(calls: list[Call], tokens: int) -> None:
    """Each reserves its text when it comes, all that its items may take a moment after, and is over if that fails."""
    clock, limits, both = Clock(1000.0), Limits(tokens_per_minute=tokens), Limits(tokens_per_minute=tokens + 20)
    quota = Quota(lambda key, group: (limits, both), clock)
    admitted: list[Step] = []
    for number, (wait_s, key, text, items) in enumerate(calls):
        clock.now += wait_s
        if quota.admit(str(number), key, "g", text) is not None:
            continue
        clock.now += 0.5
        if quota.admit_items(str(number), key, "g", 1, items) is None:
            admitted.append((clock.now, key, max(text, items)))
        else:
            quota.ended(str(number))
    for begin, _, _ in admitted:
        inside = [step for step in admitted if begin <= step[0] <= begin + WINDOW_S]
        assert sum(amount for _, _, amount in inside) <= tokens + 20
        for key in "kl":
            assert sum(amount for _, who, amount in inside if who == key) <= tokens


@dataclass
class Told:
    """All that is known of a request. times: of its admissions. at: the last time that it got anything."""

    owners: tuple[str, str]
    times: list[float] = field(default_factory=list)
    at: float = 0.0
    reserved: int = 0
    actual: int = 0
    items: int = 0
    ended: bool = False

    @property
    def charge(self) -> int:
        return max(self.reserved, self.actual)


GROUPS = {"k": "g", "l": "g", "m": "h"}
"""In the beginning."""
KEYS = st.sampled_from(list(GROUPS))
TOKENS = st.integers(0, 120)
SOME_LIMITS = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(2, 9),
    tokens_per_minute=st.integers(60, 500) | st.none(),
    bulk_items=st.integers(1, 20) | st.none(),
)
MOMENTS = st.integers(0, 640).map(lambda parts: parts / 64)
AGES = st.sampled_from([0.25, 30.0, 59.0, 60.0, 60.25, FORGET_S - 60, FORGET_S])


def leaves(at: float) -> float:
    """When a bucket that ends after `at` leaves the window."""
    return (math.floor(at * TICKS) + 1) / TICKS + WINDOW_S


class Recount(RuleBasedStateMachine):
    """Everything is predicted from a log of what was told; the true window, without buckets, is checked beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.book = Clock(1000.0), Book()
        self.quota = Quota(self.book, self.clock)
        self.log: dict[str, Told] = {}
        self.groups = dict(GROUPS)
        self.count = 0

    def _of(self, owner: str) -> Iterator[Told]:
        return (told for told in self.log.values() if owner in told.owners)

    def _held(self, owner: str, inside: Callable[[float], bool], but: Told | None = None) -> tuple[int, int]:
        """Requests and tokens of the times that are `inside`, without the tokens of one request."""
        requests = sum(1 for told in self._of(owner) for at in told.times if inside(at))
        return requests, sum(told.charge for told in self._of(owner) if inside(told.at) and told is not but)

    def _owners(self, key: str) -> Iterator[tuple[str, Limits]]:
        return zip((key, self.groups[key]), self.book(key, self.groups[key]), strict=True)

    def _own(self, name: str, requests: int) -> Told | None:
        """The same request as it is already, where all that it may take is told and not what it takes besides."""
        told = self.log.get(name)
        return told if told and not requests and told.owners == (name[0], self.groups[name[0]]) else None

    def _fits(self, name: str, requests: int, tokens: int, inside: Callable[[float], bool]) -> bool:
        own = self._own(name, requests)
        tokens = max(tokens, own.charge) if own else tokens
        for owner, limits in self._owners(name[0]):
            had, charged = self._held(owner, inside, own)
            if requests and limits.requests_per_minute is not None and had + requests > limits.requests_per_minute:
                return False
            if limits.tokens_per_minute is not None and charged + tokens > limits.tokens_per_minute:
                return False
        return True

    def _items_fit(self, key: str, items: int) -> bool:
        return not items or all(
            limits.bulk_items is None or sum(told.items for told in self._of(owner)) + items <= limits.bulk_items
            for owner, limits in self._owners(key)
        )

    def _never(self, key: str, tokens: int, items: int) -> bool:
        return any(
            (limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute)
            or (limits.bulk_items is not None and items > limits.bulk_items)
            for _, limits in self._owners(key)
        )

    def _forget(self) -> None:
        now = self.clock.now
        for name, told in list(self.log.items()):
            if now >= leaves(told.at):
                told.reserved = told.actual = 0
            lost = math.floor(told.at * TICKS) <= math.floor((now - FORGET_S) * TICKS)
            if now >= leaves(told.at) and (told.ended or lost):
                del self.log[name]

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        for name in (*GROUPS, *GROUPS.values()):
            self.change_limits(name, data.draw(SOME_LIMITS))

    @rule(seconds=MOMENTS)
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self._forget()

    @rule(seconds=AGES)
    def wait_long(self, seconds: float) -> None:
        self.wait(seconds)

    @rule(owner=st.sampled_from(["k", "l", "m", "g", "h"]), limits=SOME_LIMITS)
    def change_limits(self, owner: str, limits: Limits) -> None:
        (self.book.groups if owner in "gh" else self.book.keys)[owner] = limits

    @rule(key=KEYS, group=st.sampled_from("gh"))
    def move_key(self, key: str, group: str) -> None:
        self.groups[key] = group

    @rule(key=KEYS, tokens=TOKENS, wait_s=MOMENTS)
    def admit(self, key: str, tokens: int, wait_s: float) -> None:
        self.count += 1
        self._ask(f"{key}{self.count}", requests=1, tokens=tokens, items=0)
        self.wait(wait_s)

    @rule(key=KEYS, tokens=TOKENS, items=st.integers(1, 12))
    def admit_bulk(self, key: str, tokens: int, items: int) -> None:
        self.count += 1
        self._ask(f"{key}{self.count}", requests=0, tokens=tokens, items=items)

    @rule(data=st.data(), tokens=TOKENS)
    def admit_again(self, data: st.DataObject, tokens: int) -> None:
        self._ask(self._some(data), requests=1, tokens=tokens, items=0)

    @rule(data=st.data(), tokens=TOKENS, items=st.integers(0, 12))
    def admit_items_again(self, data: st.DataObject, tokens: int, items: int) -> None:
        self._ask(self._some(data), requests=0, tokens=tokens, items=items)

    @rule(data=st.data(), prompt=TOKENS, completion=TOKENS)
    def use(self, data: st.DataObject, prompt: int, completion: int) -> None:
        name = self._some(data)
        self.quota.used(name, prompt, completion)
        if told := self.log.get(name):
            if self.clock.now >= leaves(told.at) and prompt + completion:  # it counts in the minute in which it is told
                told.at = self.clock.now
            told.actual += prompt + completion

    @rule(data=st.data(), count=st.integers(0, 8))
    def answer_items(self, data: st.DataObject, count: int) -> None:
        name = self._some(data)
        self.quota.items_done(name, count)
        if told := self.log.get(name):
            told.items = max(0, told.items - count)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(self._some(data))

    @rule()
    def end_all(self) -> None:
        for name in list(self.log):
            self._end(name)
        before = self.quota.size
        self.clock.now += WINDOW_S + BUCKET_S
        self._forget()
        assert not self.log
        assert self.quota.size == 0 <= before

    def _end(self, name: str) -> None:
        self.quota.ended(name)
        if told := self.log.get(name):
            told.reserved, told.items, told.ended = told.actual, 0, True
        self._forget()

    def _some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*(name for name in self.log if " until " not in name), "k-unknown"]))

    def _ask(self, name: str, requests: int, tokens: int, items: int) -> None:
        key, now = name[0], self.clock.now
        refusal = self._put(self.quota, name, requests, tokens, items)
        possible = self._fits(name, requests, tokens, lambda at: now < leaves(at)) and self._items_fit(key, items)
        assert (refusal is None) == possible
        if refusal is not None:
            self._check(refusal, name, requests, tokens, items)
            return
        owners = (key, self.groups[key])
        if (former := self.log.get(name)) and former.owners != owners:
            self._displace(name, former)
        told = self.log.setdefault(name, Told(owners))
        told.times += [now] * requests
        told.reserved = told.charge + tokens if requests else max(told.charge, tokens)
        told.at, told.ended = now, False
        told.items += items
        self._check_limits(key, requests)

    def _displace(self, name: str, former: Told) -> None:
        self.count += 1
        former.at, former.reserved, former.items, former.ended = self.clock.now, former.charge, 0, True
        self.log[f"{name} until {self.count}"] = self.log.pop(name)

    def _put(self, quota: Quota, name: str, requests: int, tokens: int, items: int) -> Refusal | None:
        key, group = name[0], self.groups[name[0]]
        if requests:
            return quota.admit(name, key, group, tokens)
        return quota.admit_items(name, key, group, items, tokens)

    def _check_limits(self, key: str, requests: int) -> None:
        """After an admission no limit is broken in the 60 s until now, both ends counted in."""
        now = self.clock.now
        for owner, limits in self._owners(key):
            had, charged = self._held(owner, lambda at: now - at <= WINDOW_S)
            assert not requests or limits.requests_per_minute is None or had <= limits.requests_per_minute
            assert limits.tokens_per_minute is None or charged <= limits.tokens_per_minute

    def _check(self, refusal: Refusal, name: str, requests: int, tokens: int, items: int) -> None:
        key, now = name[0], self.clock.now
        own = self._own(name, requests)
        needed = max(tokens, own.charge) if own else tokens
        assert (refusal.retry_after_s is None) == self._never(key, needed, items)
        if refusal.retry_after_s is None or not self._items_fit(key, items):
            return
        then = now + refusal.retry_after_s
        assert self._later(then, name, requests, tokens, items)
        if needed > tokens:  # what it has reserved already may leave the window before
            return
        assert not self._later(then - MOMENT_S, name, requests, tokens, items)
        exact = self._exactly(name, requests, tokens, now)
        assert exact <= then <= exact + BUCKET_S

    def _exactly(self, name: str, requests: int, tokens: int, now: float) -> float:
        """From when on there is room in a window without buckets, where 60 s are enough."""
        ends = sorted(at + WINDOW_S for told in self.log.values() for at in (*told.times, told.at))
        return next(
            then
            for then in (now, *(end for end in ends if end > now))
            if self._fits(name, requests, tokens, lambda at: then - at < WINDOW_S)  # noqa: B023 (called at once)
        )

    def _later(self, now: float, name: str, requests: int, tokens: int, items: int) -> bool:
        quota, clock = copy.deepcopy((self.quota, self.clock))
        clock.now = now
        return self._put(quota, name, requests, tokens, items) is None

    @invariant()
    def headroom_is_what_is_left(self) -> None:
        for key, group in self.groups.items():
            shown = self.quota.headroom(key, group)
            for place, what in enumerate(("requests", "tokens")):
                rooms = [
                    max(0, limit - self._held(owner, lambda at: self.clock.now < leaves(at))[place])
                    for owner, limits in self._owners(key)
                    if (limit := getattr(limits, f"{what}_per_minute")) is not None
                ]
                assert shown.get(f"x-ratelimit-remaining-{what}") == min(rooms, default=None)

    @invariant()
    def it_keeps_nothing_else(self) -> None:
        assert (self.quota.size == 0) == (not self.log)


Recount.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRecount = Recount.TestCase
