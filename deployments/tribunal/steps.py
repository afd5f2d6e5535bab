"""The steps that strategies are made of: each asks one or several members and gives typed results.

Every step goes on with those who answered. Steps that nobody answered give nothing, and the strategy ends with what
it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from string import ascii_uppercase
from typing import Any

from deployments.errors import BadRequest, NoQuorum, Overloaded, ServingError
from deployments.tribunal.config import Member, tribunal_name
from deployments.tribunal.events import EventType
from deployments.tribunal.ranking import (
    Ballot,
    Candidate,
    Draft,
    agreement,
    borda,
    candidates_of,
    in_order,
    mean_scores,
    unassailable,
    weighted,
)
from deployments.tribunal.result import ChosenBy, Ranked
from deployments.tribunal.session import Session, first_refusal
from deployments.tribunal.terms import Call, Said
from deployments.tribunal.wording import Critique, Scores

CLAIMS = 64
"""Most statements of a draft that are critiqued one by one."""
KEEP = 0.5
"""Share of the budget that a step leaves for the steps after it."""
Review = dict[int, Scores]


@dataclass
class Bench:
    """A sitting's steps, and what they have come to so far: the drafts, their order, the answer."""

    session: Session
    random: Random
    drafts: list[Draft] = field(default_factory=list)
    ranking: list[Ranked] = field(default_factory=list)
    preferred: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Reviewer -> who wrote the draft that it put first."""
    ranked_by: ChosenBy = "vote"
    _ranked_drafts: list[Draft] = field(default_factory=list)
    answer: str | None = None
    chosen_by: ChosenBy = "single"
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        terms = self.session.terms
        self.question, self.spec, self.wording = terms.question, terms.spec, terms.wording

    @property
    def chair(self) -> Member:
        return self.spec.chair_member

    @property
    def over(self) -> bool:
        return bool(self.session.stopped)

    def rounds(self, first: int = 1) -> Iterator[int]:
        """The numbers of the rounds, as long as nothing has stopped the deliberation."""
        for number in range(first, self.spec.rounds + 1):
            if self.over:
                return
            self.session.round = number
            yield number

    # Drafts

    async def draft(self, members: Sequence[Member], needed: int, keep: float = KEEP) -> None:
        """Everyone drafts in parallel. Raises ServingError if fewer than `needed` could."""
        await self._drafts([self._draft_of(member) for member in self.session.present(members)], needed, keep)

    async def sample(self, member: Member, count: int, keep: float = KEEP) -> None:
        """One member drafts several times."""
        await self._drafts([self._draft_of(member, f"{member.label} #{each}") for each in range(1, count + 1)], 1, keep)

    def _draft_of(self, member: Member, name: str | None = None) -> Call[str]:
        prompt = self.wording.draft(self.question, member)
        return Call(member, prompt, "draft", self.session.max_tokens_of(member), name)

    async def _drafts(self, calls: Sequence[Call[str]], needed: int, keep: float) -> None:
        patience_s = self.spec.stop.patience_s
        found: list[tuple[int, Draft]] = []
        coming = self.session.as_they_come(calls, keep, lambda count: patience_s if count >= needed else None)
        async with aclosing(coming) as answers:
            async for index, said in answers:
                if said:
                    found.append((index, _draft(said, calls[index].name)))
                    self.drafts = [draft for _, draft in sorted(found, key=lambda pair: pair[0])]
        if not self.drafts or (len(self.drafts) < needed and not self.over):
            raise self._no_quorum(needed)
        self.count_votes()

    def _no_quorum(self, needed: int) -> ServingError:
        failures = self.session.failures
        if self.session.stopped.get("reason") == "budget":
            return BadRequest("stop.budget_tokens: the budget does not pay for one draft.", "config.stop.budget_tokens")
        if refusal := first_refusal(failures):
            return refusal
        if failures and all(isinstance(failure, Overloaded) for failure in failures):
            return failures[0]
        missing = "; ".join(f"{each.member}: {each.reason}" for each in self.session.absent.values())
        return NoQuorum(f"{len(self.drafts)} of at least {needed} members drafted. {missing}".strip(), "failed")

    def agreed(self) -> bool:
        """Whether so many drafts say the same that no more is to be deliberated."""
        share, wanted = agreement(self.candidates()), self.spec.stop.consensus
        if wanted is None or len(self.drafts) < 2 or share < wanted:
            return False
        self.session.stop("consensus", f"{share:.0%} of the drafts say the same")
        return True

    def candidates(self) -> tuple[Candidate, ...]:
        return candidates_of(self.drafts, self.wording.same)

    # Reviews

    async def review(self, reviewers: Sequence[Member], keep: float = KEEP) -> None:
        """Peers judge the drafts, unnamed and in an order of their own; the ranking is by Borda's count."""
        candidates = self.candidates()
        if len(candidates) < 2 or self.over:
            self._rank_by_votes()
            return
        todo = {member: self._shown(member, candidates) for member in self._judges(reviewers)}
        reviews: dict[str, Review] = {}
        calls = [(member, group) for member, shown in todo.items() for group in self._groups(shown)]
        coming = self.session.as_they_come([self._review(m, g, candidates) for m, g in calls], keep)
        try:
            async with aclosing(coming) as answers:
                async for index, said in answers:
                    member, group = calls[index]
                    if said:
                        reviews.setdefault(member.label, {}).update(_by_index(said.value, group))
                    todo[member] = [each for each in todo[member] if each not in group]
                    if self.spec.stop.leader and self._settled(reviews, todo, len(candidates)):
                        break
        finally:  # what came before the deadline counts
            self._rank(candidates, reviews)

    def _judges(self, members: Sequence[Member]) -> list[Member]:
        """Who can review: a tribunal that is a member keeps to no schema."""
        return [member for member in self.session.present(members) if tribunal_name(member.model) is None]

    def _shown(self, reviewer: Member, candidates: Sequence[Candidate]) -> list[int]:
        """Candidates for a reviewer, shuffled: those of others, or all where fewer than two would be left."""
        every = list(range(len(candidates)))
        others = [index for index in every if reviewer.label not in candidates[index].members]
        shown = every if self.spec.self_review or len(others) < 2 else others
        self.random.shuffle(shown)
        return shown

    def _groups(self, shown: Sequence[int]) -> list[tuple[int, ...]]:
        return [(index,) for index in shown] if self.spec.apart else [tuple(shown)]

    def _review(self, member: Member, group: Sequence[int], candidates: Sequence[Candidate]) -> Call[Any]:
        shown = {_label(place): candidates[index] for place, index in enumerate(group)}
        drafts = {label: candidate.text for label, candidate in shown.items()}
        prompt = self.wording.review(self.question, drafts, self.spec.rubric, member)
        named = prompt.then(lambda scores: {", ".join(shown[label].members): scores[label] for label in shown})
        return Call(member, named, "review", self.spec.review_max_tokens * len(group))

    def _settled(self, reviews: dict[str, Review], todo: dict[Member, list[int]], count: int) -> bool:
        waiting = [self._shown_to(member, reviews, left) for member, left in todo.items() if left]
        complete = [self._ballot(reviews[m.label]) for m, left in todo.items() if not left and m.label in reviews]
        if not waiting or not unassailable(complete, waiting, count):
            return False
        self.session.stop("leader", "no review still to come could change who leads")
        return True

    def _shown_to(self, member: Member, reviews: dict[str, Review], left: Sequence[int]) -> list[int]:
        return [*reviews.get(member.label, {}), *left]

    def _ballot(self, review: Review) -> Ballot:
        return {index: weighted(scores, self.spec.rubric) for index, scores in review.items()}

    def _rank(self, candidates: Sequence[Candidate], reviews: dict[str, Review]) -> None:
        if not reviews:
            self._rank_by_votes()
            return
        ballots = {name: self._ballot(review) for name, review in reviews.items()}
        points = borda(list(ballots.values()), len(candidates))
        scores = [mean_scores(list(reviews.values()), index) for index in range(len(candidates))]
        totals = [weighted(each, self.spec.rubric) for each in scores]
        order = in_order(candidates, points, totals, self.chair.label)
        self.preferred = {
            name: candidates[max(ballot, key=lambda index: ballot[index])].members
            for name, ballot in ballots.items() if order[0] in ballot and max(ballot.values()) > ballot[order[0]]
        }  # fmt: skip
        self.ranked_by, self._ranked_drafts = "borda", self.drafts
        self.ranking = [Ranked(place, candidates[i].members, candidates[i].text, points[i], scores[i])
                        for place, i in enumerate(order, 1)]  # fmt: skip

    def _rank_by_votes(self) -> None:
        """But keep what reviews of the same drafts have come to."""
        if self.ranked_by != "borda" or self._ranked_drafts != self.drafts:
            self.count_votes()

    def count_votes(self) -> None:
        """Rank by how many drafts say the same."""
        candidates, total = self.candidates(), len(self.drafts)
        points = [len(candidate.drafts) / total for candidate in candidates]
        order = in_order(candidates, points, points, self.chair.label)
        self.ranked_by, self.preferred = "vote", {}
        self.ranking = [Ranked(place, candidates[i].members, candidates[i].text, points[i])
                        for place, i in enumerate(order, 1)]  # fmt: skip

    def round_done(self) -> None:
        told = {"round": self.session.round, "ranking": [ranked.to_json() for ranked in self.ranking]}
        self.session.emit(EventType.ROUND_DONE, told)

    # Second thoughts

    async def critique(self, draft: Draft, critics: Sequence[Member]) -> list[list[Critique]]:
        """For each claim of the draft what the critics say; nothing of those who failed."""
        claims = self.wording.claims(draft.text)
        if len(claims) > CLAIMS:
            raise BadRequest(f"The draft makes {len(claims)} statements; at most {CLAIMS} can be mended.", "messages")
        present = self._judges(critics)
        calls = [
            Call(critic, self.wording.critique(self.question, claim, critic), "critique", self.spec.review_max_tokens)
            for claim in claims for critic in present
        ]  # fmt: skip
        heard = await self.session.all(calls, KEEP)
        size = len(present)
        return [[said.value for said in heard[at * size : (at + 1) * size] if said] for at in range(len(claims))]

    async def revise(self, draft: Draft, critiques: Sequence[Sequence[Critique]], author: Member) -> Draft | None:
        """The draft as its author mends it; None where the author failed."""
        prompt = self.wording.revise(self.question, draft.text, critiques, author)
        if isinstance(prompt, str):
            return Draft(draft.member, draft.model, prompt, draft.step)
        said = await self.session.one(Call(author, prompt, "revision", self.session.max_tokens_of(author)))
        return _draft(said, author.label) if said else None

    async def reconsider(self, members: Sequence[Member], keep: float = KEEP) -> None:
        """Everyone sees what the others said and drafts again; who fails stands by the draft before."""
        before = {draft.member: draft for draft in self.drafts}
        present = [member for member in self.session.present(members) if member.label in before]
        calls = [
            Call(member, self.wording.reconsider(self.question, before[member.label].text,
                                                 self._others(member), member),
                 "revision", self.session.max_tokens_of(member))
            for member in present
        ]  # fmt: skip
        heard = await self.session.all(calls, keep)
        now = {call.name: _draft(said, call.name) for call, said in zip(calls, heard, strict=True) if said}
        self.drafts = [now.get(draft.member, draft) for draft in self.drafts]
        self._rank_by_votes()

    def _others(self, member: Member) -> list[str]:
        others = [draft.text for draft in self.drafts if draft.member != member.label]
        self.random.shuffle(others)
        return others

    # The answer

    async def synthesise(self) -> None:
        """The chair writes the answer out of the ranked drafts; where it cannot, the leading draft is the answer."""
        if not self.session.present([self.chair]):
            self.choose(self.ranked_by)
            return
        shown = [(_opinion(ranked), ranked.text) for ranked in self.ranking]
        prompt = self.wording.synthesise(self.question, shown, self.chair)
        said = await self.session.one(Call(self.chair, prompt, "synthesis", self.session.max_tokens_of(self.chair)))
        if said is None:
            self.choose(self.ranked_by)
        else:
            self.decide(said.value, "chair", said.finish_reason)

    def choose(self, chosen_by: ChosenBy) -> None:
        """The leading draft is the answer."""
        if self.ranking:
            leading = self.ranking[0]
            first = next((draft for draft in self.drafts if draft.text == leading.text), None)
            self.decide(leading.text, chosen_by, first.finish_reason if first else "stop")

    def decide(self, answer: str, chosen_by: ChosenBy, finish_reason: str = "stop") -> None:
        self.answer = self.wording.final(self.question, answer)
        self.chosen_by, self.finish_reason = chosen_by, finish_reason


def _draft(said: Said[str], name: str) -> Draft:
    return Draft(name, said.member.model, said.value, said.step, said.finish_reason)


def _label(place: int) -> str:
    """draft-A to draft-Z, then draft-AA and so on."""
    turn, letter = divmod(place, len(ascii_uppercase))
    return f"draft-{ascii_uppercase[letter] * (turn + 1)}"


def _by_index(scores: dict[str, Scores], group: Sequence[int]) -> Review:
    """A review's scores come in the order in which its drafts were shown."""
    return dict(zip(group, scores.values(), strict=True))


def _opinion(ranked: Ranked) -> str:
    scores = ", ".join(f"{name} {value:.1f}" for name, value in ranked.scores.items())
    return f"place {ranked.rank}" + (f"; {scores}" if scores else "")
