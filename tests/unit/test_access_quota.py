"""The quota: against a naive recount of all that was admitted, whatever happens in whatever order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.access.limits import Limits
from app.access.quota import FORGET_S, Quota, Refusal
from app.access.window import TICKS, WINDOW_S

BUCKET_S = 1 / TICKS
MOMENT_S = 1 / 1024
START_S = 1000.0


@dataclass
class Clock:
    now: float = START_S

    def __call__(self) -> float:
        return self.now


@dataclass
class Book:
    """Limits of keys and groups by name, as they are now."""

    keys: dict[str, Limits] = field(default_factory=dict)
    groups: dict[str, Limits] = field(default_factory=dict)

    def __call__(self, key: str, group: str) -> tuple[Limits, Limits]:
        return self.keys.get(key, Limits()), self.groups.get(group, Limits())


def quota_of(key: Limits | None = None, group: Limits | None = None) -> tuple[Quota, Clock, Book]:
    """Of the key `k` and the group `g`."""
    clock, book = Clock(), Book({"k": key or Limits()}, {"g": group or Limits()})
    return Quota(book, clock), clock, book


def refused(refusal: Refusal | None) -> Refusal:
    assert refusal is not None
    return refusal


def admit_many(quota: Quota, names: str, tokens: int = 0, key: str = "k") -> list[bool]:
    return [quota.admit(name, key, "g", tokens) is None for name in names]


def test_requests_over_the_limit_wait_until_the_first_has_left_the_window() -> None:
    quota, clock, _ = quota_of(Limits(requests_per_minute=2))
    assert admit_many(quota, "a") == [True]
    clock.now += 10
    assert admit_many(quota, "b") == [True]
    refusal = refused(quota.admit("c", "k", "g", 0))
    assert (refusal.reason, refusal.limit, refusal.whose) == ("quota_requests", "requests_per_minute", "key")
    assert refusal.retry_after_s == 50 + BUCKET_S
    clock.now += 50 + BUCKET_S
    assert admit_many(quota, "cd") == [True, False]


def test_keys_of_a_group_share_its_limits_and_a_refused_request_costs_neither() -> None:
    quota, _, book = quota_of(Limits(requests_per_minute=5), Limits(tokens_per_minute=100))
    book.keys["l"] = Limits(requests_per_minute=1)
    assert quota.admit("a", "k", "g", 60) is None
    refusal = refused(quota.admit("b", "l", "g", 50))
    assert (refusal.reason, refusal.whose) == ("quota_tokens", "group")
    assert "The group 'g' may use 100 tokens" in refusal.message
    assert quota.admit("c", "l", "g", 40) is None  # its one request is still there, and the group's 40 tokens
    assert quota.admit("d", "m", "h", 50) is None  # another group


def test_what_was_not_used_is_given_back_at_the_end() -> None:
    quota, _, _ = quota_of(Limits(tokens_per_minute=100))
    assert admit_many(quota, "a", 90) == [True]
    quota.used("a", 10, 5)
    assert admit_many(quota, "b", 20) == [False]  # it still runs
    quota.ended("a")
    quota.ended("a")
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 85
    assert admit_many(quota, "b", 85) == [True]
    assert admit_many(quota, "c", 1) == [False]


def test_more_than_was_reserved_counts_even_when_it_is_told_after_the_end() -> None:
    quota, clock, _ = quota_of(Limits(tokens_per_minute=100))
    assert admit_many(quota, "a", 10) == [True]
    quota.used("a", 20, 20)
    assert admit_many(quota, "b", 61) == [False]
    quota.ended("a")
    quota.used("a", 0, 70)
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 0
    assert refused(quota.admit("b", "k", "g", 0)).reason == "quota_tokens"  # what nobody could foresee
    clock.now += WINDOW_S + BUCKET_S
    quota.used("a", 0, 70)
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 100


def test_use_is_charged_at_the_admission_although_others_came_since() -> None:
    quota, clock, _ = quota_of(Limits(tokens_per_minute=100))
    assert admit_many(quota, "a", 0) == [True]
    clock.now += 30
    assert admit_many(quota, "b", 40) == [True]
    quota.used("a", 60, 0)
    assert refused(quota.admit("c", "k", "g", 60)).retry_after_s == 30 + BUCKET_S
    clock.now += 30 + BUCKET_S
    assert admit_many(quota, "c", 60) == [True]


@pytest.mark.parametrize("whose", ["key", "group"])
def test_what_can_never_be_admitted_is_told_so(whose: str) -> None:
    bounded = Limits(tokens_per_minute=100, bulk_items=10)
    quota, _, _ = quota_of(bounded if whose == "key" else None, bounded if whose == "group" else None)
    refusal = refused(quota.admit("a", "k", "g", 101))
    assert (refusal.reason, refusal.retry_after_s, refusal.whose) == ("quota_tokens_too_many", None, whose)
    assert "100 tokens" in refusal.message
    assert "max_tokens" in refusal.message
    refusal = refused(quota.admit_items("a", "k", "g", 11, 0))
    assert (refusal.reason, refusal.retry_after_s, refusal.whose) == ("quota_bulk_items_too_many", None, whose)
    assert "10 items" in refusal.message
    assert "this call has 11" in refusal.message
    assert quota.admit("a", "k", "g", 100) is None


def test_the_longest_wait_is_told_when_several_limits_refuse() -> None:
    quota, clock, _ = quota_of(Limits(requests_per_minute=1), Limits(requests_per_minute=1, tokens_per_minute=50))
    assert admit_many(quota, "a", 50, key="other") == [True]
    clock.now += 20
    quota.ended("a")
    assert refused(quota.admit("b", "k", "g", 10)).retry_after_s == 40 + BUCKET_S
    assert refused(quota.admit("b", "k", "g", 51)).retry_after_s is None


def test_bulk_items_are_free_again_when_they_are_answered_and_not_before() -> None:
    quota, clock, _ = quota_of(Limits(bulk_items=10, requests_per_minute=1))
    assert quota.admit("a", "k", "g", 0) is None
    assert quota.admit_items("a", "k", "g", 8, 0) is None  # it counts no second request
    clock.now += 1000
    refusal = refused(quota.admit_items("b", "k", "g", 3, 0))
    assert (refusal.reason, refusal.limit) == ("quota_bulk_items", "bulk_items")
    assert "there are 8" in refusal.message
    quota.items_done("a", 1)
    assert quota.admit_items("b", "k", "g", 3, 0) is None
    quota.items_done("a", 100)  # no more than it has
    assert quota.admit_items("c", "k", "g", 8, 0) is not None
    assert quota.admit_items("c", "k", "g", 7, 0) is None
    quota.ended("b")
    quota.ended("b")
    assert quota.admit_items("d", "k", "g", 4, 0) is not None
    assert quota.admit_items("d", "k", "g", 3, 0) is None


def test_a_bulk_call_reserves_tokens_on_top_of_its_request() -> None:
    quota, _, _ = quota_of(Limits(tokens_per_minute=100))
    assert quota.admit("a", "k", "g", 30) is None
    assert quota.admit_items("a", "k", "g", 5, 71) is not None
    assert quota.admit_items("a", "k", "g", 5, 70) is None
    quota.used("a", 1, 1)
    quota.ended("a")
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 98


def test_limits_may_change_at_any_time() -> None:
    quota, clock, book = quota_of()
    assert admit_many(quota, "abc", 10) == [True] * 3
    book.keys["k"] = Limits(requests_per_minute=3)
    assert admit_many(quota, "d") == [False]  # what came while nothing was bounded counts
    book.keys["k"] = Limits(tokens_per_minute=20)
    assert admit_many(quota, "d", 0) == [False]
    book.keys["k"] = Limits()
    assert admit_many(quota, "d", 10**9) == [True]
    clock.now += WINDOW_S + BUCKET_S
    book.keys["k"] = Limits(requests_per_minute=1, tokens_per_minute=1)
    assert admit_many(quota, "e", 1) == [True]


def test_a_request_that_needs_much_waits_for_several_to_leave() -> None:
    quota, clock, _ = quota_of(Limits(tokens_per_minute=100))
    for name in "abcd":
        assert quota.admit(name, "k", "g", 25) is None
        clock.now += 10
    assert refused(quota.admit("e", "k", "g", 25)).retry_after_s == 20 + BUCKET_S
    assert refused(quota.admit("e", "k", "g", 26)).retry_after_s == 30 + BUCKET_S
    assert refused(quota.admit("e", "k", "g", 100)).retry_after_s == 50 + BUCKET_S


def test_a_long_call_that_ends_leaves_the_items_of_others_of_its_key() -> None:
    quota, clock, _ = quota_of(Limits(bulk_items=10))
    assert quota.admit_items("a", "k", "g", 4, 0) is None
    clock.now += 100
    assert quota.admit_items("b", "k", "g", 6, 0) is None
    quota.ended("a")
    assert quota.admit_items("c", "k", "g", 5, 0) is not None
    assert quota.admit_items("c", "k", "g", 4, 0) is None


def test_a_request_that_asks_again_keeps_no_other_in_the_tables() -> None:
    quota, clock, _ = quota_of()
    assert admit_many(quota, "a", key="k") == admit_many(quota, "b", key="l") == [True]
    quota.ended("b")
    clock.now += 30
    assert admit_many(quota, "a", key="k") == [True]
    before = quota.size
    clock.now += 30 + BUCKET_S
    assert before - quota.size == 4  # the request b, and its key with two buckets


def test_headroom_is_of_whichever_has_less_left() -> None:
    quota, clock, _ = quota_of(Limits(requests_per_minute=10, tokens_per_minute=1000), Limits(requests_per_minute=8))
    assert quota.headroom("k", "g") == {
        "x-ratelimit-limit-requests": 8, "x-ratelimit-remaining-requests": 8, "x-ratelimit-reset-requests": 0,
        "x-ratelimit-limit-tokens": 1000, "x-ratelimit-remaining-tokens": 1000, "x-ratelimit-reset-tokens": 0,
    }  # fmt: skip
    assert quota.size == 0  # asking leaves nothing
    assert admit_many(quota, "ab", 100, key="k") == [True, True]
    clock.now += 15
    quota.ended("b")
    assert quota.headroom("k", "g") == {
        "x-ratelimit-limit-requests": 8, "x-ratelimit-remaining-requests": 6,
        "x-ratelimit-reset-requests": 45 + BUCKET_S, "x-ratelimit-limit-tokens": 1000,
        "x-ratelimit-remaining-tokens": 900, "x-ratelimit-reset-tokens": 45 + BUCKET_S,
    }  # fmt: skip
    assert quota.headroom("nobody", "") == {}


@pytest.mark.parametrize("later_s", [0, 100])
def test_a_request_whose_key_has_another_group_now_leaves_the_former_one_its_charge(later_s: float) -> None:
    quota, clock, book = quota_of(group=Limits(tokens_per_minute=100, bulk_items=5))
    book.groups["h"] = Limits(tokens_per_minute=100, bulk_items=5)
    assert quota.admit_items("a", "k", "g", 5, 60) is None
    clock.now += later_s
    assert quota.admit("a", "k", "h", 101) is not None  # this changes nothing
    assert quota.admit_items("b", "k", "g", 1, 0) is not None
    assert quota.admit_items("a", "k", "h", 5, 70) is None
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == (100 if later_s else 40)
    assert quota.headroom("k", "h")["x-ratelimit-remaining-tokens"] == 30
    assert quota.admit_items("b", "k", "g", 5, 0) is None
    quota.used("a", 10, 0)
    quota.ended("a")
    assert quota.headroom("k", "h")["x-ratelimit-remaining-tokens"] == 90
    quota.ended("b")
    clock.now += WINDOW_S + BUCKET_S
    assert quota.size == 0


def test_negative_numbers_are_errors_and_unknown_requests_are_not() -> None:
    quota, _, _ = quota_of()
    wrongs: tuple[Callable[[], object], ...] = (
        lambda: quota.admit("a", "k", "g", -1),
        lambda: quota.admit_items("a", "k", "g", -1, 0),
        lambda: quota.used("a", -1, 0),
        lambda: quota.used("a", 5, -1),
        lambda: quota.items_done("a", -1),
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be 0 or more, not -1"):
            wrong()
    quota.used("a", 1, 1)
    quota.items_done("a", 1)
    quota.ended("a")
    assert quota.size == 0


def test_a_request_that_never_ends_leaves_the_window_and_is_forgotten_after_two_hours() -> None:
    quota, clock, _ = quota_of(Limits(tokens_per_minute=100, bulk_items=5))
    assert quota.admit("a", "k", "g", 0) is None
    assert quota.admit_items("a", "k", "g", 5, 100) is None
    clock.now += WINDOW_S + BUCKET_S
    assert quota.admit("b", "k", "g", 100) is None
    assert quota.admit_items("c", "k", "g", 1, 0) is not None
    quota.ended("b")
    clock.now = START_S + FORGET_S - BUCKET_S
    assert quota.admit_items("c", "k", "g", 1, 0) is not None
    clock.now = START_S + FORGET_S
    assert quota.admit_items("c", "k", "g", 5, 0) is None
    quota.ended("c")
    clock.now += WINDOW_S + BUCKET_S
    assert quota.size == 0


def test_an_hour_of_many_requests_keeps_no_more_than_a_minute_of_them() -> None:
    quota, clock, _ = quota_of(Limits(requests_per_minute=10**6, tokens_per_minute=10**9))
    most = 0
    for number in range(36_000):
        clock.now += 0.1
        assert quota.admit(str(number), "k", "g", 10) is None
        quota.used(str(number), 1, 1)
        quota.ended(str(number))
        if number % 1000 == 999:
            most = max(most, quota.size)
    assert most <= 603 + 2 + 4 * (WINDOW_S * TICKS + 1)
    assert quota.headroom("k", "g")["x-ratelimit-remaining-requests"] >= 10**6 - 603
    clock.now += WINDOW_S + BUCKET_S
    assert quota.size == 0


Step = tuple[float, str, int]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 8), st.sampled_from("kl"), st.integers(0, 30)), min_size=20, max_size=120),
    st.integers(1, 12), st.integers(30, 150),
)  # fmt: skip
def test_no_minute_holds_more_than_the_limits(steps: list[Step], requests: int, tokens: int) -> None:
    clock = Clock()
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
        self.clock, self.book = Clock(), Book()
        self.quota = Quota(self.book, self.clock)
        self.log: dict[str, Told] = {}
        self.groups = dict(GROUPS)
        self.count = 0

    def _of(self, owner: str) -> Iterator[Told]:
        return (told for told in self.log.values() if owner in told.owners)

    def _held(self, owner: str, inside: Callable[[float], bool]) -> tuple[int, int]:
        """Requests and tokens of the times that are `inside`."""
        requests = sum(1 for told in self._of(owner) for at in told.times if inside(at))
        return requests, sum(told.charge for told in self._of(owner) if inside(told.at))

    def _owners(self, key: str) -> Iterator[tuple[str, Limits]]:
        return zip((key, self.groups[key]), self.book(key, self.groups[key]), strict=True)

    def _fits(self, key: str, requests: int, tokens: int, inside: Callable[[float], bool]) -> bool:
        for owner, limits in self._owners(key):
            had, charged = self._held(owner, inside)
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
        possible = self._fits(key, requests, tokens, lambda at: now < leaves(at)) and self._items_fit(key, items)
        assert (refusal is None) == possible
        if refusal is not None:
            self._check(refusal, name, requests, tokens, items)
            return
        owners = (key, self.groups[key])
        if (former := self.log.get(name)) and former.owners != owners:
            self._displace(name, former)
        told = self.log.setdefault(name, Told(owners))
        told.times += [now] * requests
        told.reserved, told.at, told.ended = told.charge + tokens, now, False
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
        assert (refusal.retry_after_s is None) == self._never(key, tokens, items)
        if refusal.retry_after_s is None or not self._items_fit(key, items):
            return
        then = now + refusal.retry_after_s
        assert not self._later(then - MOMENT_S, name, requests, tokens, items)
        assert self._later(then, name, requests, tokens, items)
        exact = self._exactly(key, requests, tokens, now)
        assert exact <= then <= exact + BUCKET_S

    def _exactly(self, key: str, requests: int, tokens: int, now: float) -> float:
        """From when on there is room in a window without buckets, where 60 s are enough."""
        ends = sorted(at + WINDOW_S for told in self.log.values() for at in (*told.times, told.at))
        return next(
            then
            for then in (now, *(end for end in ends if end > now))
            if self._fits(key, requests, tokens, lambda at: then - at < WINDOW_S)  # noqa: B023 (called at once)
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
