"""The strategies, each over the same steps. A strategy ends with an answer, or with the ranking it has come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from deployments.tribunal.config import STRATEGIES, Strategy
from deployments.tribunal.ranking import Draft
from deployments.tribunal.steps import Bench
from deployments.tribunal.wording import Critique

Run = Callable[[Bench], Awaitable[None]]


async def single(bench: Bench) -> None:
    """The chair answers, and that is all."""
    await bench.draft([bench.chair], 1, keep=0)
    bench.choose("single")


async def self_consistency(bench: Bench) -> None:
    """The chair answers several times; what it says most often is the answer. Wang et al., 2022."""
    await bench.sample(bench.chair, bench.spec.sample_count, keep=0)
    bench.choose("vote")


async def best_of_n(bench: Bench) -> None:
    """The chair answers several times and judges its own answers; the best-judged one is the answer."""
    await bench.sample(bench.chair, bench.spec.sample_count)
    if not bench.agreed():
        await bench.review([bench.chair], keep=0)
        bench.round_done()
    bench.choose("consensus" if bench.session.stopped.get("reason") == "consensus" else bench.ranked_by)


async def refine(bench: Bench) -> None:
    """The chair drafts, the members critique, the chair revises, again and again. Madaan et al., 2023."""
    given = bench.wording.given(bench.question)
    if given is None:
        await bench.draft([bench.chair], 1)
    else:
        bench.drafts = [Draft("question", "", given, 0)]
        bench.count_votes()
    bench.choose("single")
    for _ in bench.rounds():
        if not await _refined(bench):
            break


async def council(bench: Bench) -> None:
    """The members draft and review each other's drafts, unnamed; the chair writes the synthesis."""
    await bench.draft(bench.spec.members, bench.spec.needed)
    for number in bench.rounds():
        if number > 1:
            await bench.reconsider(bench.spec.members)
        if bench.agreed():
            break
        await bench.review(bench.spec.members)
        bench.round_done()
    await _concluded(bench)


async def debate(bench: Bench) -> None:
    """The members draft, and in every round answer anew, having seen the others; they vote. Du et al., 2023."""
    await bench.draft(bench.spec.members, bench.spec.needed)
    for number in bench.rounds():
        if bench.agreed():
            break
        await bench.reconsider(bench.spec.members, keep=0.5 if number < bench.spec.rounds else 0)
        bench.round_done()
    bench.agreed()
    bench.choose("consensus" if bench.session.stopped.get("reason") == "consensus" else "vote")


async def mixture(bench: Bench) -> None:
    """Layers of proposers, each of which sees the layer before; the chair aggregates. Wang et al., 2024."""
    await bench.draft(bench.spec.members, bench.spec.needed)
    for _ in bench.rounds(2):
        if bench.agreed():
            break
        await bench.reconsider(bench.spec.members)
        bench.round_done()
    if not bench.over:
        bench.agreed()
    await _concluded(bench)


async def _refined(bench: Bench) -> bool:
    """One round: whether the draft was changed."""
    draft = bench.drafts[0]
    critiques = await bench.critique(draft, bench.spec.members)
    if not any(critiques):
        return False
    if _accepted(critiques):
        bench.session.stop("accepted", "the critics would change nothing")
        return False
    revised = await bench.revise(draft, critiques, bench.chair)
    if revised is None:
        return False
    changed = bench.wording.same(revised.text) != bench.wording.same(draft.text)
    bench.drafts = [revised]
    bench.count_votes()
    bench.choose("revision")
    bench.round_done()
    return changed


def _accepted(critiques: list[list[Critique]]) -> bool:
    """Whether at least half of the critics of every claim would keep it."""
    return all(2 * sum(each.keep for each in of_claim) >= len(of_claim) for of_claim in critiques if of_claim)


async def _concluded(bench: Bench) -> None:
    """Where the members agree there is nothing to write anew."""
    if bench.session.stopped.get("reason") == "consensus":
        bench.choose("consensus")
    elif bench.session.stopped.get("reason") in (None, "leader"):
        await bench.synthesise()
    else:
        bench.choose(bench.ranked_by)


RUNS: Mapping[Strategy, Run] = {
    "refine": refine, "council": council, "debate": debate, "mixture": mixture, "single": single,
    "best_of_n": best_of_n, "self_consistency": self_consistency,
}  # fmt: skip
assert set(RUNS) == set(STRATEGIES)
