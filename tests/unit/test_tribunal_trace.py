"""A trace as text: told event by event and from the result, it says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from deployments.chat import ChatDelta, ChatRequest
from deployments.errors import (
    EngineFailed,
    Overloaded,
)
from deployments.tribunal.events import EventType
from deployments.tribunal.trace_text import TraceText, trace_text
from deployments.tribunal.virtual import TribunalModel
from tests.unit.fakes import FakeTribunals
from tests.unit.tribunal_fakes import asked, tribunals_over, trio
from tests.unit.tribunal_script import ANSWER, RESULT, SCRIPT, TRACE

QUESTION = {"role": "user", "content": "where?"}
ASKED = ChatRequest((QUESTION,))


async def streamed(tribunals: FakeTribunals, request: ChatRequest = ASKED) -> list[ChatDelta]:
    return [delta async for delta in TribunalModel(tribunals, "default").stream(request)]


def test_the_trace_is_the_same_event_by_event_and_from_the_result() -> None:
    live = TraceText()
    assert "".join(live.of(envelope) for envelope in SCRIPT) == trace_text(RESULT) == TRACE


@pytest.mark.parametrize(
    "config",
    [
        {"stop": {"consensus": None, "leader": False}},
        {"stop": {"leader": True}},
        {"strategy": "mixture"},
        {"strategy": "mixture", "rounds": 2},
        {"strategy": "debate", "rounds": 2},
        {"strategy": "self_consistency", "samples": 3},
        {"strategy": "best_of_n", "samples": 3},
        {"strategy": "single"},
        {"strategy": "refine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("fails", [{}, {"synthesis": Overloaded("full")}, {"synthesis": EngineFailed("died")}], ids=str)
async def test_what_a_stream_tells_of_a_real_run_is_its_trace_and_comes_before_the_answer(
    config: dict[str, Any], fails: dict[str, Exception]
) -> None:
    run = tribunals_over(trio(fails=fails), {"default": {"members": ["a", "b", "c"], **config}})
    script = [envelope async for envelope in run.events(asked(deltas=True))]
    result = script[-1]["result"]
    deltas = await streamed(FakeTribunals(script=script))
    first = next(index for index, delta in enumerate(deltas) if delta.text)
    reasoning = "".join(delta.reasoning for delta in deltas[:first])
    assert not any(delta.reasoning for delta in deltas[first:])
    assert "".join(delta.text for delta in deltas) == result["answer"]
    assert sorted(reasoning.split("\n\n")) == sorted(trace_text(result).split("\n\n"))


@pytest.mark.parametrize("heard", [["draft"], ["draft", "revision"], ["draft", "review"]])
@pytest.mark.parametrize("spoke", [False, True])
def test_a_ranking_of_first_drafts_is_told_only_where_no_chair_writes(heard: list[str], spoke: bool) -> None:
    """A chair's words are passed on before such a ranking is known, so that streams could not have it."""
    trace = [step for step in RESULT["trace"] if step["kind"] == "synthesis" and spoke]
    trace += [draft(kind=kind, started_s=0, step=20) for kind in heard]
    result = {**RESULT, "trace": trace, "absent": []}
    live = TraceText()
    reviews = {"review": EventType.REVIEW_DONE}
    envelopes: list[tuple[EventType, Mapping[str, Any]]] = [
        (reviews.get(kind, EventType.DRAFT_DONE), {**draft(kind=kind), "type": None}) for kind in heard
    ]
    if len(heard) > 1:
        envelopes.append((EventType.ROUND_DONE, {"round": 1, "ranking": RESULT["ranking"]}))
    envelopes.append((EventType.STOP_REASON, RESULT["stopped"]))
    if spoke:
        envelopes.append((EventType.STEP_STARTED, {"step": 6, "kind": "synthesis"}))
    envelopes += [(EventType.ANSWER_DELTA, {"text": ANSWER}), (EventType.RESULT, {"result": result})]
    text = "".join(live.of({**data, "type": kind}) for kind, data in envelopes)
    assert text == trace_text(result)
    assert ("Ranking:" in text) == (not spoke or len(heard) > 1)
    assert text.endswith("Stop: leader (no review still to come could change who leads)\n\n")


def draft(**more: Any) -> Mapping[str, Any]:
    usage = {"completion_tokens": 2}
    return {"type": "draft.done", "step": 1, "kind": "revision", "round": 2, "member": "a", "usage": usage,
            "seconds": 1.25, "text": " b \n", **more}  # fmt: skip


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (draft(), "a revised in round 2 (2 tokens, 1.2 s):\nb\n\n"),
        (draft(kind="critique", abstained=True), "a abstained: its critique could not be read\n\n"),
        (draft(kind="synthesis"), ""),
        (draft(type="review.done", scores={}), "a reviewed in round 2 (2 tokens, 1.2 s): no scores\n\n"),
        ({"type": "step.started"}, ""),
        ({"type": "of.tomorrow"}, ""),
    ],
)
def test_an_event_is_a_piece_of_text(envelope: Mapping[str, Any], text: str) -> None:
    assert TraceText().of(envelope) == text


def test_a_single_draft_is_not_ranked() -> None:
    alone = {**RESULT, "trace": [], "absent": [], "ranking": RESULT["ranking"][:1], "stopped": {}}
    assert trace_text(alone) == ""
    assert trace_text({**alone, "stopped": {"reason": "done", "detail": "every step was taken"}}) == ""
    agreed = {**alone, "ranking": [{"rank": 1, "members": ["a", "b"], "points": 1}], "stopped": {"reason": "consensus"}}
    assert trace_text(agreed) == "Ranking: 1. a and b (1.00)\n\nStop: consensus\n\n"
