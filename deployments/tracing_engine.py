"""What the engine did for one request, as a log line and as a span, from the numbers that metering has.

vLLM's own tracing sends only what ended well, knows neither key nor request nor model, and starts OpenTelemetry in the
engine's process too; so the span is made here, with vLLM's clock readings and OpenTelemetry's names for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.metering import Stages, Used
from deployments.request_log import about, tell
from deployments.tracing import TRACES, Value

NS_PER_S = 1_000_000_000
Clock = Callable[[], int]


@dataclass(frozen=True)
class EngineNotes:
    """Tells of each request of one engine. embeds: it makes vectors. clock: unix time in nanoseconds."""

    embeds: bool = False
    clock: Clock = time.time_ns

    def tell(self, used: Used, turn_s: float | None = None) -> None:
        """turn_s: how long the request waited before the engine had it."""
        tell(
            "engine", **about(used.principal), model=used.model, prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens, cached_tokens=used.cached_tokens, outcome=used.outcome,
            finish_reason=used.finish_reason or None, turn_ms=_ms(turn_s), ttft_ms=_ms(used.ttft_s),
            total_ms=_ms(used.seconds), **_stages_ms(used.stages),
        )  # fmt: skip
        if TRACES.on:
            self._span(used, turn_s)

    def _span(self, used: Used, turn_s: float | None) -> None:
        ended = self.clock()
        began = ended - _ns(used.seconds)
        operation = "embeddings" if self.embeds else "chat"
        said = {**self._attributes(used, operation), **_latencies(used), "corral.turn_s": turn_s}
        TRACES.past(f"{operation} {used.model}", used.principal, began, ended, said, _events(used, began))

    def _attributes(self, used: Used, operation: str) -> dict[str, Value | None]:
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": used.model,
            "gen_ai.response.model": used.model,
            "gen_ai.response.finish_reasons": [used.finish_reason] if used.finish_reason else None,
            "gen_ai.usage.input_tokens": used.prompt_tokens,
            "gen_ai.usage.output_tokens": used.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": used.cached_tokens,
            "error.type": None if used.outcome == "done" else used.outcome,
        }


def _latencies(used: Used) -> dict[str, Value | None]:
    """Seconds, by the names that vLLM's own spans have."""
    stages = used.stages
    return {
        "gen_ai.latency.time_to_first_token": used.ttft_s,
        "gen_ai.latency.e2e": used.seconds,
        "gen_ai.latency.time_in_queue": stages.queue_s if stages else None,
        "gen_ai.latency.time_in_model_prefill": stages.prefill_s if stages else None,
        "gen_ai.latency.time_in_model_decode": stages.decode_s if stages else None,
    }


def _events(used: Used, began: int) -> dict[str, int]:
    scheduled = {"scheduled": began + _ns(used.stages.queue_s)} if used.stages else {}
    first = {"first_token": began + _ns(used.ttft_s)} if used.ttft_s is not None else {}
    return {**scheduled, **first}


def _stages_ms(stages: Stages | None) -> dict[str, float | None]:
    if stages is None:
        return {}
    return {"queue_ms": _ms(stages.queue_s), "prefill_ms": _ms(stages.prefill_s), "decode_ms": _ms(stages.decode_s)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
