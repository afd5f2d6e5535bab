"""From ballots to an order: Borda's count, whether the leader can still be caught, grouping, weights, ties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.tribunal.ranking import (
    Ballot,
    Candidate,
    Draft,
    agreement,
    borda,
    borda_points,
    candidates_of,
    in_order,
    mean_scores,
    unassailable,
    weighted,
)

SCORES = (1.0, 2.0, 3.0)


def draft(member: str, text: str) -> Draft:
    return Draft(member, member, text, 1)


def candidates(*groups: str) -> list[Candidate]:
    """One for each text of letters, each of which is a member that says so."""
    return [Candidate(tuple(draft(member, group) for member in group)) for group in groups]


@pytest.mark.parametrize(
    ("ballot", "points"),
    [
        ({}, {}),
        ({4: 3.0}, {4: 0.5}),
        ({0: 3.0, 1: 1.0}, {0: 1.0, 1: 0.0}),
        ({0: 3.0, 1: 3.0}, {0: 0.5, 1: 0.5}),
        ({0: 5.0, 1: 3.0, 2: 1.0}, {0: 1.0, 1: 0.5, 2: 0.0}),
        ({0: 5.0, 1: 5.0, 2: 1.0}, {0: 0.75, 1: 0.75, 2: 0.0}),
        ({0: 2.0, 1: 2.0, 2: 2.0}, {0: 0.5, 1: 0.5, 2: 0.5}),
    ],
)
def test_a_ballot_gives_the_share_of_rivals_that_one_is_ahead_of(ballot: Ballot, points: dict[int, float]) -> None:
    assert borda_points(ballot) == points


def test_points_are_the_mean_over_the_ballots_that_a_candidate_is_on() -> None:
    ballots = [{1: 5.0, 2: 1.0}, {0: 4.0, 2: 2.0}, {0: 4.0, 1: 4.0}]
    assert borda(ballots, 4) == [0.75, 0.75, 0.0, 0.0]
    assert borda([], 2) == [0.0, 0.0]


@given(st.lists(st.dictionaries(st.integers(0, 4), st.sampled_from(SCORES), min_size=2), max_size=5))
def test_every_ballot_of_two_or_more_gives_half_a_point_a_candidate_on_average(ballots: list[Ballot]) -> None:
    for ballot in ballots:
        assert sum(borda_points(ballot).values()) == pytest.approx(len(ballot) / 2)
    assert all(0 <= points <= 1 for points in borda(ballots, 5))


def completions(pending: Sequence[Sequence[int]]) -> Iterator[list[Ballot]]:
    """Every way in which the pending ballots can come: with any scores, or not at all."""
    each = [[None, *product(SCORES, repeat=len(shown))] for shown in pending]
    for scores in product(*each):
        yield [dict(zip(p, given, strict=True)) for p, given in zip(pending, scores, strict=True) if given is not None]


def leaders(points: Sequence[float]) -> set[int]:
    return {index for index, value in enumerate(points) if value == max(points)}


BALLOTS = st.dictionaries(st.integers(0, 2), st.sampled_from(SCORES), min_size=1)
PENDING = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(BALLOTS, max_size=5), st.lists(PENDING, max_size=2))
def test_no_ballot_still_to_come_catches_an_unassailable_leader(
    ballots: list[Ballot], pending: list[list[int]]
) -> None:
    if unassailable(ballots, pending, 3):
        now = leaders(borda(ballots, 3))
        assert len(now) == 1
        assert all(leaders(borda([*ballots, *coming], 3)) == now for coming in completions(pending))


@pytest.mark.parametrize(
    ("ballots", "pending", "expected"),
    [
        ([{0: 5.0, 1: 1.0}] * 3, [[0, 1]], True),
        ([{0: 5.0, 1: 1.0}] * 2, [[0, 1]], True),
        ([{0: 5.0, 1: 1.0}], [[0, 1]], False),
        ([], [[0, 1]], False),
        ([{0: 3.0, 1: 3.0}], [], False),
        ([{0: 5.0, 1: 1.0}], [], True),
        ([{0: 5.0, 1: 1.0}] * 9, [[2]], False),
        ([{0: 5.0, 1: 1.0, 2: 1.0}] * 2, [[1, 2]], True),
    ],
)
def test_whether_the_leader_can_still_be_caught(
    ballots: list[Ballot], pending: list[list[int]], expected: bool
) -> None:
    count = 3 if any(2 in each for each in [*ballots, *pending]) else 2
    assert unassailable(ballots, pending, count) is expected


def test_drafts_that_say_the_same_are_one_candidate() -> None:
    drafts = [draft("a", "Yes."), draft("b", "no"), draft("c", "yes")]
    found = candidates_of(drafts, lambda text: text.lower().rstrip("."))
    assert [(each.text, each.members) for each in found] == [("Yes.", ("a", "c")), ("no", ("b",))]
    assert agreement(found) == pytest.approx(2 / 3)
    assert agreement([]) == 0
    assert agreement(candidates("abc")) == 1


def test_scores_are_weighted_by_the_rubric_and_what_is_not_in_it_counts_once() -> None:
    assert weighted({"accuracy": 5, "clarity": 1}, {"accuracy": 3, "clarity": 1}) == 4
    assert weighted({"agrees": 1}, {"accuracy": 3}) == 1
    assert weighted({}, {"accuracy": 3}) == 0


def test_the_mean_of_a_criterion_is_over_those_who_gave_it() -> None:
    reviews = [{0: {"accuracy": 5.0}}, {0: {"accuracy": 2.0}, 1: {"accuracy": 1.0}}, {}]
    assert mean_scores(reviews, 0) == {"accuracy": 3.5}
    assert mean_scores(reviews, 1) == {"accuracy": 1.0}
    assert mean_scores(reviews, 2) == {}


@pytest.mark.parametrize(
    ("points", "scores", "groups", "chair", "expected"),
    [
        ([0.2, 0.9, 0.5], [5, 1, 1], ["a", "b", "c"], "a", [1, 2, 0]),
        ([0.5, 0.5], [3.0, 4.0], ["a", "b"], "a", [1, 0]),
        ([0.5, 0.5], [3.0, 3.0], ["a", "bc"], "a", [1, 0]),
        ([0.5, 0.5], [3.0, 3.0], ["a", "b"], "b", [1, 0]),
        ([0.5, 0.5], [3.0, 3.0], ["a", "b"], "z", [0, 1]),
    ],
)
def test_ties_go_by_score_then_by_votes_then_to_the_chair_then_as_listed(
    points: list[float], scores: list[float], groups: list[str], chair: str, expected: list[int]
) -> None:
    assert in_order(candidates(*groups), points, scores, chair) == expected


def test_the_order_does_not_depend_on_who_reviewed_first() -> None:
    ballots: list[Ballot] = [{0: 5.0, 1: 3.0, 2: 1.0}, {0: 1.0, 2: 4.0}, {1: 2.0, 2: 2.0}]
    for shuffled in permutations(ballots):
        assert borda(shuffled, 3) == pytest.approx(borda(ballots, 3))
