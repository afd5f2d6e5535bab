"""The quota: what it admits, refuses and gives back, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.access.limits import Limits
from app.access.quota import FORGET_S
from app.access.window import TICKS, WINDOW_S
from tests.unit.access_fakes import BUCKET_S, admit_many, quota_of, refused

START_S = 1000.0


def test_requests_over_the_limit_wait_until_the_first_has_left_the_window() -> None:
    quota, clock, _ = quota_of(Limits(requests_per_minute=2))
    assert admit_many(quota, "a") == [True]
    clock.now += 10
    assert admit_many(quota, "b") == [True]
    refusal = refused(quota.admit("c", "k", "g", 0))
    assert (refusal.reason, refusal.message) == ("quota_requests", "This key may make 2 requests in any minute.")
    assert refusal.retry_after_s == 50 + BUCKET_S
    clock.now += 50 + BUCKET_S
    assert admit_many(quota, "cd") == [True, False]


def test_keys_of_a_group_share_its_limits_and_a_refused_request_costs_neither() -> None:
    quota, _, book = quota_of(Limits(requests_per_minute=5), Limits(tokens_per_minute=100))
    book.keys["l"] = Limits(requests_per_minute=1)
    assert quota.admit("a", "k", "g", 60) is None
    refusal = refused(quota.admit("b", "l", "g", 50))
    assert refusal.reason == "quota_tokens"
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


@pytest.mark.parametrize(("whose", "who"), [("key", "This key"), ("group", "The group 'g'")])
def test_what_can_never_be_admitted_is_told_so(whose: str, who: str) -> None:
    bounded = Limits(tokens_per_minute=100, bulk_items=10)
    quota, _, _ = quota_of(bounded if whose == "key" else None, bounded if whose == "group" else None)
    refusal = refused(quota.admit("a", "k", "g", 101))
    assert (refusal.reason, refusal.retry_after_s) == ("quota_tokens_too_many", None)
    assert f"{who} may use 100 tokens" in refusal.message
    assert "max_tokens" in refusal.message
    refusal = refused(quota.admit_items("a", "k", "g", 11, 0))
    assert (refusal.reason, refusal.retry_after_s) == ("quota_bulk_items_too_many", None)
    assert f"{who} may have 10 items" in refusal.message
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
    assert refusal.reason == "quota_bulk_items"
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


def test_what_a_bulk_call_s_request_reserved_is_a_part_of_what_its_items_may_take() -> None:
    quota, _, _ = quota_of(Limits(tokens_per_minute=100))
    assert quota.admit("a", "k", "g", 30) is None
    refusal = refused(quota.admit_items("a", "k", "g", 5, 101))
    assert (refusal.reason, refusal.retry_after_s) == ("quota_tokens_too_many", None)
    assert "this call may take 101: send fewer items at once, or set max_tokens lower" in refusal.message
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 70  # the refusal changed nothing
    assert quota.admit_items("a", "k", "g", 5, 100) is None
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 0
    quota.used("a", 1, 1)
    quota.ended("a")
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 98


def test_items_that_may_take_less_than_their_call_s_text_leave_it_reserved() -> None:
    quota, _, _ = quota_of(Limits(tokens_per_minute=100), Limits(tokens_per_minute=100))
    assert quota.admit("a", "k", "g", 60) is None
    assert quota.admit_items("a", "k", "g", 5, 10) is None
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 40


def test_a_bulk_call_waits_for_what_others_take_and_not_for_itself() -> None:
    quota, clock, _ = quota_of(Limits(tokens_per_minute=100))
    assert quota.admit("other", "k", "g", 40) is None
    clock.now += 20
    assert quota.admit("a", "k", "g", 30) is None
    refusal = refused(quota.admit_items("a", "k", "g", 5, 70))
    assert (refusal.reason, refusal.retry_after_s) == ("quota_tokens", 40 + BUCKET_S)
    assert "no room now for the 70 that this call may take" in refusal.message
    clock.now += 40 + BUCKET_S
    assert quota.admit_items("a", "k", "g", 5, 70) is None
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 30
    clock.now += WINDOW_S - 1  # from when its items were admitted on
    assert quota.headroom("k", "g")["x-ratelimit-remaining-tokens"] == 30


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
