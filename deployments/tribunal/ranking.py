"""From drafts and ballots to an order: who says the same, Borda's count, and whether the leader can still be caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Ballot = Mapping[int, float]
"""Index of a candidate -> the reviewer's weighted score of it; higher is better. What was not reviewed is not there."""


@dataclass(frozen=True)
class Draft:
    """What a member says the answer is. `step`: of the trace."""

    member: str
    model: str
    text: str
    step: int
    finish_reason: str = "stop"


@dataclass(frozen=True)
class Candidate:
    """Drafts that say the same, as the first of them words it."""

    drafts: tuple[Draft, ...]

    @property
    def text(self) -> str:
        return self.drafts[0].text

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(draft.member for draft in self.drafts)


def candidates_of(drafts: Sequence[Draft], same: Callable[[str], str]) -> tuple[Candidate, ...]:
    """Group drafts whose `same` form is equal, in the order of their first."""
    groups: dict[str, list[Draft]] = {}
    for draft in drafts:
        groups.setdefault(same(draft.text), []).append(draft)
    return tuple(Candidate(tuple(group)) for group in groups.values())


def agreement(candidates: Sequence[Candidate]) -> float:
    """The largest share of drafts that say the same (0 without drafts)."""
    sizes = [len(candidate.drafts) for candidate in candidates]
    return max(sizes) / sum(sizes) if sizes else 0.0


def borda_points(ballot: Ballot) -> dict[int, float]:
    """Points of one ballot: the share of the others on it that a candidate is ahead of, a tie counting half."""
    others = len(ballot) - 1
    if others < 1:
        return dict.fromkeys(ballot, 0.5)
    return {index: (_ahead_of(score, ballot) - 0.5) / others for index, score in ballot.items()}


def _ahead_of(score: float, ballot: Ballot) -> float:
    """How many scores are lower, a tie counting half, its own among them."""
    return sum((score > rival) + 0.5 * (score == rival) for rival in ballot.values())


def borda(ballots: Sequence[Ballot], count: int) -> list[float]:
    """Mean points of each candidate over the ballots that it is on (0 where it is on none). Borda, 1781."""
    sums, seen = [0.0] * count, [0] * count
    for ballot in ballots:
        for index, points in borda_points(ballot).items():
            sums[index] += points
            seen[index] += 1
    return [total / times if times else 0.0 for total, times in zip(sums, seen, strict=True)]


def unassailable(ballots: Sequence[Ballot], pending: Sequence[Sequence[int]], count: int) -> bool:
    """Whether the ballots still to come cannot change who leads.

    pending: for each of them, the candidates that will be on it; each may get any points from 0 to 1.
    """
    low, high = [0.0] * count, [0.0] * count
    for index in range(count):
        given = [borda_points(ballot)[index] for ballot in ballots if index in ballot]
        coming = sum(index in ballot for ballot in pending)
        times = len(given) + coming
        low[index] = sum(given) / times if times else 0.0
        high[index] = (sum(given) + coming) / times if times else 0.0
    leader = max(range(count), key=lambda index: low[index])
    return all(low[leader] > high[index] for index in range(count) if index != leader)


def mean_scores(reviews: Sequence[Mapping[int, Mapping[str, float]]], index: int) -> dict[str, float]:
    """Criterion -> the mean of what the reviewers of a candidate gave it."""
    given = [review[index] for review in reviews if index in review]
    criteria = dict.fromkeys(name for scores in given for name in scores)
    return {name: sum(scores[name] for scores in given) / len(given) for name in criteria}


def weighted(scores: Mapping[str, float], rubric: Mapping[str, float]) -> float:
    """One number: the mean of the scores by the rubric's weights; what is no part of the rubric counts 1."""
    weights = {name: rubric.get(name, 1.0) for name in scores}
    return sum(scores[name] * weight for name, weight in weights.items()) / (sum(weights.values()) or 1.0)


def in_order(
    candidates: Sequence[Candidate], points: Sequence[float], scores: Sequence[float], chair: str
) -> list[int]:
    """Indices, best first: by points, then mean score, then how many say so, then the chair's own, then as listed."""
    return sorted(
        range(len(candidates)),
        key=lambda i: (-points[i], -scores[i], -len(candidates[i].drafts), chair not in candidates[i].members, i),
    )
