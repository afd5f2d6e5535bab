"""The pure scheduler: shares in tokens on two levels, no credit for the quiet, no debt for what nobody else wanted."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fair_order import FairOrder
from deployments.principal import Principal
from tests.unit.fair_order_engine import A, B, C, Engine, flows

costs = st.lists(st.integers(1, 5000), min_size=1, max_size=8)
weights = st.floats(0.1, 10)


def test_requests_of_a_key_stay_in_their_order() -> None:
    order: FairOrder[str] = FairOrder(4)
    for item, cost in (("first", 900), ("second", 1), ("third", 50)):
        order.push(A, item, cost)
    came = []
    while (begun := order.next()) is not None:
        order.start(A, begun)
        came.append(begun)
    assert came == ["first", "second", "third"]
    assert (order.inside, order.waiting) == (3, 0)


@settings(deadline=None)
@given(costs, costs, costs, st.tuples(weights, weights, weights), st.integers(1, 60))
def test_backlogged_keys_get_tokens_by_weight_within_one_request_of_each(
    of_a: list[int], of_b: list[int], of_c: list[int], weight: tuple[float, float, float], steps: int
) -> None:
    engine = Engine()
    kinds = {Principal(name, weight=w): c for name, w, c in zip("abc", weight, (of_a, of_b, of_c), strict=True)}
    sources = {principal: itertools.cycle(each) for principal, each in kinds.items()}
    for principal, source in sources.items():
        engine.ask(principal, next(source))
        engine.ask(principal, next(source))
    for _ in range(steps):
        began = engine.step()
        assert began is not None
        engine.ask(began, next(sources[began]))
        for one, other in itertools.combinations(kinds, 2):
            apart = engine.tokens[one] / one.weight - engine.tokens[other] / other.weight
            assert abs(apart) <= (max(kinds[one]) / one.weight + max(kinds[other]) / other.weight) * (1 + 1e-9)


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000))
def test_wrong_estimates_are_made_good(sequences: int, cost_a: int, used_a: int, cost_b: int, used_b: int) -> None:
    engine = Engine(sequences)
    kinds = {A: (cost_a, used_a), B: (cost_b, used_b)}
    for principal, (cost, used) in kinds.items():
        for _ in range(2 * sequences):
            engine.ask(principal, cost, used)
    for _ in range(400):
        began = engine.step()
        assert began is not None
        engine.ask(began, *kinds[began])
    most = (sequences + 1) * sum(max(kind) for kind in kinds.values())
    assert abs(engine.tokens[A] - engine.tokens[B]) <= most


@pytest.mark.parametrize(("group_weight", "weight", "share"), [(1, 1, 0.5), (3, 1, 0.25), (1, 2, 2 / 3)])
def test_ten_keys_of_a_group_are_one_to_the_others(group_weight: float, weight: float, share: float) -> None:
    many = [Principal(f"key-{number}", "lab", group_weight=group_weight) for number in range(10)]
    alone = Principal("alone", weight=weight)
    engine = Engine()
    for principal in [*many, alone]:
        for _ in range(400):
            engine.ask(principal, 10)
    for _ in range(300):
        engine.step()
    assert abs(engine.tokens[alone] / 3000 - share) < 0.01
    of_many = [engine.tokens[principal] for principal in many]
    assert max(of_many) - min(of_many) <= 10


def test_keys_of_a_group_share_by_their_weights() -> None:
    light, heavy = Principal("light", "lab", weight=1), Principal("heavy", "lab", weight=3)
    engine = Engine()
    for principal in (light, heavy):
        for _ in range(100):
            engine.ask(principal, 7)
    for _ in range(80):
        engine.step()
    assert Counter(engine.began) == {light: 20, heavy: 60}


def test_a_group_and_a_key_of_one_name_are_two() -> None:
    engine = Engine()
    group, key = Principal("x", "lab"), Principal("lab")
    for principal in (group, group, key, key):
        engine.ask(principal)
    assert set(itertools.islice(iter(engine.step, None), 2)) == {group, key}
    assert list(engine.order.counts()) == [("lab", "x", 0, 1), ("", "lab", 1, 1)]


def test_who_was_quiet_has_saved_nothing_up() -> None:
    engine = Engine()
    engine.ask(B)
    for _ in range(500):
        engine.ask(A)
    for _ in range(200):
        engine.step()
    for _ in range(50):
        engine.ask(B)
    engine.began.clear()
    for _ in range(40):
        engine.step()
    assert engine.began[0] == B  # who comes is not behind the queue
    assert abs(Counter(engine.began)[B] - 20) <= 1


@pytest.mark.parametrize("used", [1, 100, 10_000])
def test_what_nobody_else_wanted_is_not_held_against_a_key(used: float) -> None:
    engine = Engine(sequences=50)
    for _ in range(300):
        engine.ask(A, 100, used)
    for _ in range(300):
        engine.step()
    for _ in range(49):
        engine.end()  # one stays, so that the engine never was idle
    for _ in range(20):
        engine.ask(B, 100)
        engine.ask(A, 100)
    engine.began.clear()
    for _ in range(20):
        engine.step()
    assert abs(Counter(engine.began)[A] - 10) <= 1


def test_what_a_key_used_beyond_its_share_while_another_waited_is_held_against_it() -> None:
    engine = Engine()
    for _ in range(60):
        engine.ask(B, 100)
    engine.ask(A, 100, used=1000)
    while A not in engine.began:
        engine.step()
    engine.ask(A, 100)
    engine.began.clear()
    while A not in engine.began:
        engine.step()
    assert 8 <= len(engine.began) <= 12


def test_who_used_more_than_its_share_while_another_waited_is_over_it() -> None:
    engine = Engine(sequences=64)
    engine.order.enter(A, 100)
    engine.ask(B, 100)
    engine.order.charge(A, 1000)
    engine.ask(A, 100)
    assert (engine.order.over(A), engine.order.over(B)) == (2, 0)


def test_what_one_was_charged_too_much_is_not_held_against_another() -> None:
    engine = Engine(sequences=9)
    for _ in range(8):
        engine.ask(A, 4000, used=10)
        engine.step()
    engine.ask(B, 100)
    engine.step()
    for _ in range(7):
        engine.end()
    for _ in range(20):
        engine.ask(A, 100)
        engine.ask(B, 100)
    engine.began.clear()
    for _ in range(20):
        engine.step()
    assert abs(Counter(engine.began)[B] - 10) <= 3


def test_a_flood_that_was_charged_too_much_does_not_come_before_a_quiet_key() -> None:
    engine = Engine(sequences=8)
    for _ in range(400):
        engine.ask(A, cost=4000, used=10)
    for round_ in range(20):
        for _ in range(10):
            engine.step()
        engine.ask(B, 100)
        engine.began.clear()
        for _ in range(3):
            engine.step()
        assert B in engine.began, round_


def test_of_equals_who_holds_less_is_first() -> None:
    engine = Engine(sequences=9)
    for _ in range(4):
        engine.ask(A)
        engine.step()
    engine.ask(A)
    engine.ask(B)
    assert engine.step() == B


def test_one_that_need_not_wait_is_charged_like_the_others() -> None:
    engine = Engine(sequences=9)
    assert engine.order.enter(B, 1) == 0
    assert [engine.order.enter(A, 5), engine.order.enter(A, 5)] == [0, 0]
    engine.ask(A, 5)
    engine.ask(B, 5)
    assert engine.step() == B
    assert engine.order.inside == 4


def test_what_is_removed_does_not_come() -> None:
    engine = Engine()
    first, second, third = engine.ask(A), engine.ask(A), engine.ask(A)
    other = engine.ask(B)
    assert engine.order.remove(A, second)
    assert not engine.order.remove(A, second)
    assert not engine.order.remove(A, other)
    assert not engine.order.remove(C, first)
    assert engine.order.waiting == 3
    assert set(engine.order.items()) == {first, third, other}
    assert engine.order.remove(A, first)
    assert engine.order.remove(A, third)
    assert [engine.step(), engine.step()] == [B, None]


def test_nothing_is_kept_of_keys_that_are_gone() -> None:
    engine = Engine()
    for number in range(2000):
        engine.ask(Principal(f"key-{number}", f"group-{number % 7}" if number % 2 else ""), 10)
        engine.step()
        assert flows(engine.order) < 100
    engine.end()
    assert flows(engine.order) == 0
    engine.order.charge(A, 5)  # too late
    assert flows(engine.order) == 0


def test_a_key_that_is_ahead_cannot_forget_it_by_being_idle() -> None:
    engine = Engine(sequences=2)
    for _ in range(60):
        engine.ask(A, 1)
    engine.ask(B, 20)
    while B not in engine.began:
        engine.step()
    engine.step()
    engine.step()  # B has nothing inside and nothing waiting now
    for number in range(100):  # room for the state of others is made
        engine.order.push(Principal(f"key-{number}"), -number - 1, 1)
        engine.order.remove(Principal(f"key-{number}"), -number - 1)
    engine.ask(B, 20)
    engine.began.clear()
    while B not in engine.began:
        engine.step()
    assert len(engine.began) > 15


def test_weights_may_change_while_requests_wait() -> None:
    engine = Engine()
    for _ in range(200):
        engine.ask(A)
        engine.ask(B)
    for _ in range(100):
        engine.step()
    assert Counter(engine.began) == {A: 50, B: 50}
    engine.ask(Principal("b", weight=4))
    engine.began.clear()
    for _ in range(100):
        engine.step()
    assert Counter(engine.began) == {A: 20, B: 80}


OPERATIONS = ["push", "enter", "next", "finish", "remove", "charge"]
Operation = tuple[str, int, int]
operations = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 5), costs.map(max)),
    max_size=80,
)
KEYS = [Principal(""), A, Principal("b", weight=3), Principal("c", "lab"), Principal("d", "lab", weight=0.2),
        Principal("e", "office", group_weight=7)]  # fmt: skip


@settings(deadline=None)
@given(operations)
def test_nothing_is_lost_and_all_is_counted(steps: list[Operation]) -> None:
    order: FairOrder[int] = FairOrder(4)
    waiting: dict[int, Principal] = {}
    inside: list[Principal] = []
    for number, (operation, which, cost) in enumerate(steps):
        _operate(order, waiting, inside, operation, KEYS[which], number, cost)
        assert (order.waiting, order.inside) == (len(waiting), len(inside))
        assert set(order.items()) == set(waiting)
        assert (order.next() in waiting) if waiting else order.next() is None
        counts = {(group, key): (in_, out) for group, key, in_, out in order.counts()}
        in_, out = Counter(inside), Counter(waiting.values())
        assert counts == {(each.group, each.key): (in_[each], out[each]) for each in {*inside, *waiting.values()}}
    if not waiting and not inside:
        assert flows(order) == 0


def _operate(
    order: FairOrder[int], waiting: dict[int, Principal], inside: list[Principal], operation: str, key: Principal,
    number: int, cost: int,
) -> None:  # fmt: skip
    if operation == "push":
        order.push(key, number, cost)
        waiting[number] = key
    elif operation == "enter":
        order.enter(key, cost)
        inside.append(key)
    elif operation == "next" and (item := order.next()) is not None:
        order.start(waiting[item], item)
        inside.append(waiting.pop(item))
    elif operation == "finish" and inside:
        order.finish(inside.pop(cost % len(inside)))
    elif operation == "remove" and waiting:
        item = sorted(waiting)[cost % len(waiting)]
        assert order.remove(waiting.pop(item), item)
    elif operation == "charge":
        order.charge(key, cost - 2500)
