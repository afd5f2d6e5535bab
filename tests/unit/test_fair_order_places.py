"""The pure scheduler: who is over its share of the places, where one stands in the queue, and who gives up."""

from __future__ import annotations

import pytest

from deployments.fair_order import FairOrder
from deployments.principal import Principal
from tests.unit.fair_order_engine import A, B, C, Engine

Entered = tuple[Principal, int, list[int]]
"""So many of a key, and what the last ones' `over` was."""


@pytest.mark.parametrize(
    ("places", "entered"),
    [
        pytest.param(8, [(A, 6, [0, 0, 0, 0, 2, 2])], id="alone it has half, as if one more were there"),
        pytest.param(
            8, [(Principal("a", "lab", weight=9, group_weight=50), 6, [0, 0, 0, 0, 2, 2])], id="by any weight"
        ),
        pytest.param(4, [(Principal(), 10, [0] * 10)], id="without keys nobody is over"),
        pytest.param(
            16,
            [
                (Principal("loud", "lab"), 14, [2]),
                (Principal("quiet", "lab"), 4, [1, 1, 1, 1]),
                (Principal("other", "office"), 6, [0, 0, 0, 0, 0, 2]),
            ],
            id="a quiet key of a flooding group is not over itself",
        ),
        pytest.param(
            24,
            [
                (A, 12, []),
                (Principal("second", "lab"), 1, []),
                (Principal("first", "lab"), 8, [0, 0, 0, 0, 1, 1, 1, 2]),
            ],
            id="a key of a quiet group that leaves its others nothing is over",
        ),
        pytest.param(  # 32 * 2 / (1 + 2 + 2)
            32, [(A, 1, []), (Principal("b", weight=2), 14, [0] * 12 + [2] * 2)], id="shares are by weight"
        ),
        pytest.param(
            4,
            [*((Principal(str(number)), 1, [0]) for number in range(20)), (Principal("3"), 1, [2])],
            id="one place is nobody's excess",
        ),
    ],
)
def test_who_enters_is_over_its_share_or_not(places: int, entered: list[Entered]) -> None:
    order: FairOrder[int] = FairOrder(places)
    for principal, count, last in entered:
        over = [order.enter(principal, 1) for _ in range(count)]
        assert over[count - len(last) :] == last


def test_few_places_are_no_excuse_for_many_tokens() -> None:
    engine = Engine(sequences=64, lead=4)
    for _ in range(40):
        engine.ask(A, 10)
    for _ in range(30):
        engine.step()
    for _ in range(10):
        engine.ask(B, 10)
    out_of_order = list(iter(lambda: engine.step(most_over=0), None))
    assert out_of_order == [B] * 6  # the first two were next anyway
    assert [engine.step() for _ in range(5)] == [A] * 5


def test_only_those_within_their_share_are_looked_at_when_asked_for() -> None:
    engine = Engine(sequences=16)
    for _ in range(20):
        engine.ask(A)
    for _ in range(9):
        engine.step()
    assert engine.step(most_over=1) is None
    engine.ask(B, 1000)
    assert engine.step(most_over=0) == B
    assert engine.step(most_over=-1) is None


def test_the_position_of_the_next_request() -> None:
    engine = Engine()
    assert engine.order.position(A) == 1
    for _ in range(10):
        engine.ask(A)
    assert engine.order.position(A) == 11
    assert engine.order.position(B) == 2
    assert engine.order.position(Principal("b", weight=0.25)) == 5
    engine.ask(B)
    assert engine.order.position(A) == 12
    assert engine.order.position(B) == 4


def test_the_position_in_a_group() -> None:
    engine = Engine()
    for number in range(3):
        for _ in range(10):
            engine.ask(Principal(str(number), "lab"))
    for _ in range(40):
        engine.ask(A)
    assert engine.order.position(Principal("new", "lab")) == 8  # one of each key, and as many of the other's
    assert engine.order.position(A) == 71


def test_the_position_is_where_it_comes_if_all_cost_alike() -> None:
    engine = Engine()
    for principal, count in ((A, 30), (B, 5), (C, 12)):
        for _ in range(count):
            engine.ask(principal)
    position = engine.order.position(C)
    number = engine.ask(C)
    came = []
    while (item := engine.order.next()) is not None:
        engine.step()
        came.append(item)
    assert abs(came.index(number) + 1 - position) <= 2


def test_who_has_most_of_the_queue_gives_up_the_newest() -> None:
    engine = Engine()
    newest = [engine.ask(A) for _ in range(6)][-1]
    engine.ask(B)
    assert engine.order.surplus(B) == newest
    heavy = Principal("heavy", weight=10)
    for _ in range(20):
        engine.ask(heavy)
    assert engine.order.surplus(B) == newest


def test_of_equals_the_newcomer_gives_up() -> None:
    engine = Engine()
    of_a, of_b = engine.ask(A), engine.ask(B)
    assert engine.order.surplus(A) == of_a
    assert engine.order.surplus(B) == of_b
    engine.order.enter(A, 1)
    assert engine.order.surplus(B) == of_a  # has a place already


def test_who_has_not_much_less_than_the_most_gives_up_the_newest_of_their_own() -> None:
    engine = Engine()
    for _ in range(6):
        engine.ask(A)
    newest = [engine.ask(B) for _ in range(4)][-1]
    assert engine.order.surplus(B) == newest
    of_group = [engine.ask(Principal("other", "lab")) for _ in range(5)][-1]
    own = [engine.ask(Principal("new", "lab")) for _ in range(3)][-1]
    assert engine.order.surplus(Principal("new", "lab")) == own
    assert engine.order.surplus(Principal("late", "lab")) == of_group


def test_the_group_with_most_gives_up_and_in_it_the_key_with_most() -> None:
    engine = Engine()
    lab = [engine.ask(Principal("loud", "lab")) for _ in range(4)]
    engine.ask(Principal("quiet", "lab"))
    for _ in range(2):
        engine.ask(A)
    assert engine.order.surplus(A) == lab[-1]
    assert engine.order.surplus(Principal("quiet", "lab")) == lab[-1]
