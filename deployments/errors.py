"""Everything that can go wrong between a request and its answer.

ServingError
 +- BadRequest            the request itself is wrong; `param` names the field
 |   +- PromptTooLong     prompt and answer do not fit the model's context
 |   +- BodyTooLarge      the body is past the limit
 |   +- WrongContentType  the body is not of a type that is read here
 +- Forbidden             the key may not do this; `param` names what
 +- UnknownModel          no such id; `known` lists the ids there are
 +- Cancelled             stopped before there was an answer, by whoever asked
 +- UnknownRun            no such tribunal run, or it is kept no longer
 +- Unavailable           nothing serves that model now; `state` and the message say why
 |   +- NoQuorum          too few members of a tribunal answered; the message names them
 +- NotReady              who was asked for by name (a tribunal's chair or members) does not answer now
 +- Overloaded            the bounded queue is full; try again after `retry_after_s`
 |   +- OverQuota         the key or its group has used up what it may; `reason` says which limit
 +- DeadlineExceeded      the request's own deadline passed
 +- EngineFailed          the engine died or broke off while answering

They cross process boundaries by pickle, so each passes its arguments on to `super().__init__`.
HTTP knows nothing of them: app/errors.py maps them to a status.
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of all. `reason` is a machine-readable word, stable across releases."""

    reason = "internal_error"

    def __init__(self, message: str, *args: object) -> None:
        super().__init__(message, *args)
        self.message = message

    def __str__(self) -> str:
        return self.message


class BadRequest(ServingError):
    reason = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.param = param


class PromptTooLong(BadRequest):
    reason = "context_length_exceeded"


class BodyTooLarge(BadRequest):
    reason = "body_too_large"


class WrongContentType(BadRequest):
    reason = "unsupported_media_type"


class Forbidden(ServingError):
    reason = "not_allowed"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.param = param


class UnknownModel(ServingError):
    reason = "model_not_found"

    def __init__(self, model: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(model, known)
        self.model, self.known = model, known
        self.message = f"The model {model!r} does not exist. Models here: {', '.join(known) or 'none'}."


class Cancelled(ServingError):
    reason = "cancelled"


class UnknownRun(ServingError):
    reason = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.message = f"There is no tribunal run {run_id!r}, or its events are kept no longer."


class Unavailable(ServingError):
    reason = "model_unavailable"

    def __init__(self, message: str, state: str = "failed") -> None:
        super().__init__(message, state)
        self.state = state


class NoQuorum(Unavailable):
    reason = "no_quorum"


class NotReady(ServingError):
    reason = "not_ready"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.param = param


FULL_MS = "x-corral-full-ms"
"""Header of a refusal by a full queue, for the edge: for how many milliseconds it holds."""


class Overloaded(ServingError):
    """holds_ms: for so long nothing else would be said, so that nobody needs to ask."""

    reason = "queue_full"
    holds_ms = 0

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s


class OverQuota(Overloaded):
    def __init__(self, message: str, retry_after_s: int, reason: str) -> None:
        super().__init__(message, retry_after_s)
        self.args = (message, retry_after_s, reason)
        self.reason = reason


class DeadlineExceeded(ServingError):
    reason = "deadline_exceeded"


class EngineFailed(ServingError):
    reason = "engine_failed"
