"""What /openapi.json says about tribunals: the question, the result, and what is told while they work."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from app.openapi import ERRORS, JsonDict, Responses, body, content, error, ref
from app.streaming import SSE
from app.tribunal.wire import TribunalAskBody, TribunalList, TribunalReply
from deployments.tribunal.events import VERSION, EventType

ASKED: tuple[type[BaseModel], ...] = (TribunalAskBody,)
ANSWERED: tuple[type[BaseModel], ...] = (TribunalReply, TribunalList)

WORDS: Mapping[EventType, str] = {
    EventType.STEP_STARTED: "`step`, `kind`, `round`, `member`, `model`: a member is asked.",
    EventType.DRAFT_DELTA: "`step`, `member`, `text`: a piece of a draft, a revision or a critique; several members' "
    "pieces come mixed.",
    EventType.DRAFT_DONE: "`step`, `kind`, `round`, `member`, `model`, `text`, `usage`, `seconds`: the whole of it.",
    EventType.REVIEW_DONE: "`step`, `round`, `member`, `model`, `scores` (or `abstained`), `usage`, `seconds`.",
    EventType.MEMBER_ABSENT: "`step`, `member`, `model`, `reason`: it could not be heard; the others go on.",
    EventType.ROUND_DONE: "`round`, `ranking`.",
    EventType.STOP_REASON: "`reason`, `detail`: why it deliberates no longer.",
    EventType.ANSWER_DELTA: "`text`: a piece of the answer; with `replaces`, all of it instead of the pieces before.",
    EventType.RESULT: "`result`: as without `stream`. Nothing comes after it.",
    EventType.ERROR: "`error`: `message`, `type`, `param`, `code`. Nothing comes after it.",
}
EVENTS = "\n".join(f"- `{kind.value}`: {words}" for kind, words in WORDS.items())
STREAM = f"""Each event is `id: SEQ` and `data:` with an envelope: `v` (the version, {VERSION}), `id` (of the run),
`seq` (from 1, without gaps), `type`, and what belongs to the type:

{EVENTS}

After some seconds of silence comes a comment line. A version may get new types: skip what you do not know."""
ENVELOPE: JsonDict = {
    "type": "object",
    "description": STREAM,
    "required": ["v", "id", "seq", "type"],
    "properties": {
        "v": {"const": VERSION},
        "id": {"type": "string"},
        "seq": {"type": "integer", "minimum": 1},
        "type": {"enum": [kind.value for kind in EventType]},
    },
}
STREAM_EXAMPLE = (
    'id: 1\ndata: {"v":1,"id":"tri-6f1c","seq":1,"type":"step.started","step":1,"kind":"draft","round":0,'
    '"member":"llama-3.1-8b","model":"llama-3.1-8b"}\n\n'
)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
STEP = {"step": 1, "kind": "draft", "round": 0, "member": "llama-3.1-8b", "model": "llama-3.1-8b",
        "started_s": 0.0, "seconds": 0.5, "text": "In the corral.", "usage": USAGE}  # fmt: skip
RESULT: JsonDict = {
    "id": "tri-6f1c",
    "object": "tribunal",
    "tribunal": "default",
    "strategy": "single",
    "answer": "In the corral.",
    "finish_reason": "stop",
    "chosen_by": "single",
    "stopped": {"reason": "done", "detail": "every step was taken"},
    "ranking": [{"rank": 1, "members": ["llama-3.1-8b"], "text": "In the corral.", "points": 1.0, "scores": {}}],
    "scores": [],
    "dissent": [],
    "absent": [],
    "abstained": [],
    "trace": [STEP],
    "usage": {**USAGE, "calls": 1},
    "cost": {"tokens": 13, "single": {"member": "llama-3.1-8b", "model": "llama-3.1-8b", "tokens": 13, "seconds": 0.5},
             "times_tokens": 1.0, "times_seconds": 1.0},
    "seconds": 0.5,
}  # fmt: skip
SPEC = {"strategy": "council", "members": [{"model": "llama-3.2-3b"}, {"model": "llama-3.1-8b"}], "rounds": 1}
CARDS = {"object": "list", "data": [{"name": "default", "model": "tribunal", "ready": True, "spec": SPEC}]}
INLINE = {
    "question": "Where do the llamas sleep?",
    "config": {"members": ["llama-3.2-3b", "llama-3.1-8b"], "rounds": 2},
}

NOT_READY: Responses = {
    409: error(
        "Who was asked for by name does not answer now.",
        "The chair 'llama-3.1-70b' is starting.",
        "invalid_request_error",
        "config.chair",
        "not_ready",
    )
}
UNKNOWN: Responses = {
    404: error(
        "No such run, or it is kept no longer.",
        "There is no tribunal run 'tri-6f1c', or its events are kept no longer.",
        "invalid_request_error",
        None,
        "run_not_found",
    )
}
ANSWER: JsonDict = {
    "description": "The result, or what happens until then.",
    "content": content("application/json", ref(TribunalReply), RESULT) | content(SSE, ENVELOPE, STREAM_EXAMPLE),
}
ASK: JsonDict = {
    "summary": "Ask a tribunal: several models draft, review and refine one answer",
    "description": "The answer comes with the ranking of the drafts, the reviews' scores, who dissented, every step "
    "with its model, tokens and time, and the cost against asking one model. A client that leaves stops it, unless "
    f"`resume_s` says otherwise. With `stream`:\n\n{STREAM}",
    "openapi_extra": body(content("application/json", ref(TribunalAskBody), INLINE)),
    "responses": {200: ANSWER, **ERRORS, **NOT_READY},
}
LIST: JsonDict = {
    "summary": "The tribunals, and whether each could sit now",
    "responses": {
        200: {"description": "All of them.", "content": content("application/json", ref(TribunalList), CARDS)},
        **ERRORS,
    },
}
RESUME: JsonDict = {
    "summary": "Take up a tribunal's stream, or wait for its result",
    "description": "The events after `after` (or after the header Last-Event-ID, whichever is later), and on as they "
    "come; with `Accept: application/json` the result once it is there. A run is kept for a while after its end.",
    "responses": {200: ANSWER, **ERRORS, **UNKNOWN},
}
CANCEL: JsonDict = {
    "summary": "Stop a tribunal, whoever listens",
    "status_code": 204,
    "responses": {204: {"description": "It is stopped."}, **ERRORS, **UNKNOWN},
}
