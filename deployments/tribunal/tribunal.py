"""One tribunal from its question to its result: the strategy within its deadline, and what is made of its end."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from deployments.errors import DeadlineExceeded, NoQuorum
from deployments.tribunal.config import TribunalSpec
from deployments.tribunal.events import EventType
from deployments.tribunal.pocket_wording import PocketWording
from deployments.tribunal.result import Result, Step
from deployments.tribunal.session import Session
from deployments.tribunal.steps import Bench
from deployments.tribunal.strategies import RUNS
from deployments.tribunal.terms import Emit, Terms
from deployments.tribunal.wording import GeneralWording, Wording


def wording_of(spec: TribunalSpec) -> Wording:
    return PocketWording() if spec.wording == "pocket" else GeneralWording()


async def hold(run_id: str, name: str, terms: Terms, emit: Emit, absent: dict[str, str] | None = None) -> Result:
    """Hold a sitting. Raises ServingError if it comes to no answer.

    name: of the tribunal, for the result. absent: label of a member that does not answer now -> why.
    """
    session = Session(terms, emit)
    for member in terms.spec.members:
        if absent and member.label in absent:
            session.miss(member, absent[member.label])
    bench = Bench(session, Random(terms.seed))
    try:
        async with asyncio.timeout(terms.spec.stop.deadline_s) as limit:
            await RUNS[terms.spec.strategy](bench)
    except TimeoutError:
        if not limit.expired():
            raise
        session.stop("deadline", f"{terms.spec.stop.deadline_s:g} s have passed")
    if bench.answer is None:
        _with_what_there_is(bench)
    session.stop("done", "every step was taken")
    return _result(run_id, name, bench)


def _with_what_there_is(bench: Bench) -> None:
    """The leading one of the drafts so far. Raises ServingError if there is none."""
    if not bench.drafts:
        if bench.session.stopped.get("reason") == "deadline":
            limit = bench.spec.stop.deadline_s
            raise DeadlineExceeded(f"No member had drafted when the deadline of {limit:g} s passed.")
        raise NoQuorum("No member drafted.", "failed")
    if not bench.ranking:
        bench.count_votes()
    bench.choose(bench.ranked_by)


def _result(run_id: str, name: str, bench: Bench) -> Result:
    session = bench.session
    answer = bench.answer or ""
    return Result(
        id=run_id,
        tribunal=name,
        strategy=bench.spec.strategy,
        answer=answer,
        chosen_by=bench.chosen_by,
        stopped=session.stopped,
        ranking=tuple(bench.ranking),
        dissent=_dissent(bench),
        absent=tuple(session.absent.values()),
        trace=tuple(sorted(session.steps, key=lambda step: step.step)),
        seconds=session.seconds,
        single=_single(bench),
        finish_reason=bench.finish_reason,
    )


def _single(bench: Bench) -> Step | None:
    """What the cost is compared with: the chair's own draft, else the first."""
    drafts = [step for step in bench.session.steps if step.kind == "draft" and not step.failed]
    chair = bench.chair.label
    return next((step for step in drafts if step.member.split(" #")[0] == chair), drafts[0] if drafts else None)


def _dissent(bench: Bench) -> tuple[dict[str, Any], ...]:
    """Drafts other than the leading one, and reviewers that put another first."""
    drafts = [
        {"members": list(ranked.members), "text": ranked.text, "points": round(ranked.points, 4)}
        for ranked in bench.ranking[1:]
    ]
    votes = [{"reviewer": name, "preferred": list(members)} for name, members in bench.preferred.items()]
    return (*drafts, *votes)


def tell_answer(emit: Emit, result: Result, told: str) -> None:
    """The answer as pieces that were not told yet. What was told and is not its beginning is taken back."""
    if result.answer.startswith(told):
        if rest := result.answer[len(told) :]:
            emit(EventType.ANSWER_DELTA, {"text": rest})
    else:
        emit(EventType.ANSWER_DELTA, {"text": result.answer, "replaces": True})
