"""Metering of a replica: the tokens of every request to the engine, once, for the principal on whose behalf it runs.

It counts the results as they go by: those who read them change them afterwards (plain_stream.py). Of a request that is
broken off they do not say everything; one that does not stream has none until its end. vLLM's own state of the request
knows the rest, and is kept from its start for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from deployments.principal import CURRENT, Principal

Outcome = Literal["done", "cancelled", "failed"]
Report = Callable[["Used"], None]
Clock = Callable[[], float]
Results = AsyncGenerator[Any, None]

DELTA, FINAL_ONLY = "DELTA", "FINAL_ONLY"
"""Names of vLLM's RequestOutputKind: a result has the tokens since the last one, or there is one result alone."""
BROKEN_OFF: dict[str, Outcome] = {"abort": "cancelled", "error": "failed"}
"""vLLM's finish reasons that are no end of an answer."""


@dataclass(frozen=True)
class Stages:
    """Seconds that a request was in the engine's queue, that its prompt was read, and that its answer was written."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class Used:
    """What one request to the engine used. model: the served id, an adapter's name where it was asked for one.

    prompt_tokens are 0 until the engine has read the whole prompt; cached_tokens are those of them that it had kept.
    ttft_s: from the call to the first token; None where nobody knows.
    """

    principal: Principal
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    outcome: Outcome
    ttft_s: float | None
    seconds: float
    finish_reason: str = ""
    stages: Stages | None = None

    @property
    def unanswered(self) -> bool:
        """Whether it failed before any of it went by."""
        return self.outcome == "failed" and self.ttft_s is None


def meter(
    engine_client: Any,
    model: str,
    report: Report,
    current: Callable[[], Principal] = CURRENT.get,
    clock: Clock = time.monotonic,
) -> None:
    """Have this AsyncLLM report what each request used: as its last result goes by, or as it is broken off.

    Call it once for an engine client. `report` is called in the event loop of the request, and must not raise.
    """
    generate, encode = engine_client.generate, engine_client.encode

    def tally(params: Any, adapter: Any) -> _Tally:
        kind = getattr(getattr(params, "output_kind", None), "name", "")
        return _Tally(current(), adapter.lora_name if adapter else model, kind, report, clock)

    @wraps(generate)
    def metered_generate(
        prompt: Any, sampling_params: Any, request_id: str, *, lora_request: Any = None, **named: Any
    ) -> Results:
        results = generate(prompt, sampling_params, request_id, lora_request=lora_request, **named)
        counted = tally(sampling_params, lora_request)
        return _metered(results, counted, counted.deltas if counted.kind == DELTA else counted.totals)

    @wraps(encode)
    def metered_encode(
        prompt: Any, pooling_params: Any, request_id: str, lora_request: Any = None, *rest: Any, **named: Any
    ) -> Results:
        results = encode(prompt, pooling_params, request_id, lora_request, *rest, **named)
        counted = tally(pooling_params, lora_request)
        return _metered(results, counted, counted.pooled)

    engine_client.generate, engine_client.encode = metered_generate, metered_encode
    if hasattr(engine_client, "add_request"):
        engine_client.add_request = _watched(engine_client)


async def _metered(results: Results, tally: _Tally, count: Callable[[Any], None]) -> Results:
    """The same results. A generator costs less for each than a class with __anext__, and ends with who drops it."""
    outcome: Outcome = "failed"
    _STARTING.set(tally)
    try:
        async for result in results:
            count(result)
            yield result
        outcome = "done"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    finally:
        tally.end(outcome)
        await results.aclose()


def _watched(engine_client: Any) -> Callable[..., Any]:
    """Its add_request, which `generate` and `encode` call in the beginning; the tally gets the states that it made."""
    add_request = engine_client.add_request

    @wraps(add_request)
    async def watched(*given: Any, **named: Any) -> Any:
        tally = _STARTING.get()
        _STARTING.set(None)
        queue = await add_request(*given, **named)
        if tally:
            tally.states = _states(engine_client, queue)
        return queue

    return watched


def _states(engine_client: Any, queue: Any) -> Sequence[Any]:
    """vLLM's states of the sequences whose results come to this queue: one, or `n`."""
    states = getattr(getattr(engine_client, "output_processor", None), "request_states", {})
    only = states.get(getattr(queue, "request_id", None))
    return [only] if only else [state for state in states.values() if getattr(state, "queue", None) is queue]


class _Tally:
    """One request to the engine: what went by of it, and, once, the report."""

    def __init__(self, principal: Principal, model: str, kind: str, report: Report, clock: Clock) -> None:
        self.kind = kind
        self.states: Sequence[Any] = ()
        self._principal, self._model, self._report, self._clock = principal, model, report, clock
        self._began = clock()
        self._seen = self._ended = False
        self._ttft_s: float | None = None
        self._finish_reason = ""
        self._prompt = self._cached = self._deltas = 0
        self._totals: dict[int, int] = {}

    def deltas(self, result: Any) -> None:
        """A result with the tokens that are new."""
        for output in result.outputs:
            self._deltas += len(output.token_ids)
        self._passed(result)

    def totals(self, result: Any) -> None:
        """A result with all tokens so far of the sequences that it has."""
        for output in result.outputs:
            self._totals[output.index] = len(output.token_ids)
        self._passed(result)

    def pooled(self, result: Any) -> None:
        """A result that has no tokens."""
        self._passed(result)

    def _passed(self, result: Any) -> None:
        if not self._seen:
            self._first(result)
        if result.finished:
            outputs = result.outputs if isinstance(result.outputs, list) else ()
            reasons = [output.finish_reason for output in outputs if output.finish_reason]
            self._finish_reason = reasons[0] if reasons else ""
            broken = (BROKEN_OFF.get(reason) for reason in reasons)
            self.end(next(filter(None, broken), "done"))

    def _first(self, result: Any) -> None:
        self._seen = True
        self._prompt = len(result.prompt_token_ids or ())
        self._cached = result.num_cached_tokens or 0
        if self.kind != FINAL_ONLY:
            self._ttft_s = self._clock() - self._began
        else:
            self._ttft_s = getattr(getattr(result, "metrics", None), "first_token_latency", None) or None

    def end(self, outcome: Outcome) -> None:
        """Report, unless that was done."""
        if self._ended:
            return
        self._ended = True
        completion = self._deltas + sum(self._totals.values())
        if outcome != "done":
            completion = max(completion, self._add_unseen())
        seconds = self._clock() - self._began
        used = (self._prompt, completion, self._cached)
        stages = _stages(getattr(self.states[0], "stats", None)) if self.states else None
        self.states = ()  # the prompts in them are large, and a context may hold this longer
        timed = (outcome, self._ttft_s, seconds)
        self._report(Used(self._principal, self._model, *used, *timed, self._finish_reason, stages))

    def _add_unseen(self) -> int:
        """Completion tokens by vLLM's states; the prompt's are noted."""
        read = [state for state in self.states if not getattr(state, "is_prefilling", True)]
        for state in read:
            self._prompt = max(self._prompt, getattr(state, "prompt_len", 0))
            self._cached = max(self._cached, getattr(state, "num_cached_tokens", 0) or 0)
        writers = (getattr(state, "detokenizer", None) for state in read)
        return sum(writer.num_output_tokens() for writer in writers if writer)


def _stages(stats: Any) -> Stages | None:
    """By vLLM's clock readings of a request; None where it did not come to its first token."""
    names = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
    queued, scheduled, first, last = (getattr(stats, name, 0.0) for name in names)
    if not queued <= scheduled <= first <= last or not queued:
        return None
    return Stages(scheduled - queued, first - scheduled, last - first)


_STARTING: ContextVar[_Tally | None] = ContextVar("starting", default=None)
"""Whose generator is at its beginning: vLLM's add_request runs in it."""
