"""The edge's spans: HAProxy makes or continues the trace and writes its ids into the log line; here a line is a span.

The span has the id that HAProxy gave to what is behind it, so that the gateway's and the replicas' spans are under it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    set_span_in_context,
)

from deployments.tracing import KEY_ID, MODEL, REQUEST_ID, Value
from deployments.tracing_config import TracesConfig

SERVICE = "corral-edge"
FIXED_PATH = re.compile(r"/(v1/)?[a-z]+(/(completions|chat|search))?")
"""Paths that are routes by themselves: nothing in them is a name that somebody chose."""
HEX = re.compile(r"[0-9a-f]+")
NOTHING = "-"
NS_PER_US, NS_PER_MS = 1_000, 1_000_000
WAITS = (
    ("admitted", "admit_ms"),
    ("left_queue", "queue_ms"),
    ("connected", "connect_ms"),
    ("first_byte", "first_byte_ms"),
)
"""Event at the end of a wait -> the wait in a line; they follow one another from the end of the request's head."""


class GivenIds(IdGenerator):
    """Gives the ids that were put here, once; then random ones."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.trace: int | None = None
        self.span: int | None = None

    def generate_trace_id(self) -> int:
        given, self.trace = self.trace, None
        return given or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        given, self.span = self.span, None
        return given or self._random.generate_span_id()


@dataclass(frozen=True)
class EdgeSpans:
    """Makes spans of the edge's log lines. ids: the provider's, which must sample whatever it is given."""

    provider: TracerProvider
    ids: GivenIds = field(default_factory=GivenIds)

    @classmethod
    def sent_to(cls, config: TracesConfig) -> EdgeSpans:
        """The edge has decided already what is traced, so all of it is sent."""
        from deployments.tracing_export import provider

        ids = GivenIds()
        return cls(provider(config.model_copy(update={"sample": 1.0}), SERVICE, {}, ids), ids)

    def ended(self, line: bytes) -> None:
        """One line of the edge's log. What is no request, or not traced, is passed over."""
        try:
            seen = json.loads(line)
            if seen.get("sampled") == "01":
                self._send(Line.of(seen))
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def _send(self, line: Line) -> None:
        self.ids.trace, self.ids.span = line.trace, line.span
        tracer = self.provider.get_tracer("corral")
        span = tracer.start_span(
            line.name, _under(line), SpanKind.SERVER, line.attributes, start_time=line.began_ns
        )  # fmt: skip
        for event, when in line.events:
            span.add_event(event, timestamp=when)
        if line.status >= 500 or line.status < 100:
            span.set_status(StatusCode.ERROR)
        span.end(line.ended_ns)


@dataclass(frozen=True)
class Line:
    """What a log line says of a request that is traced. parent: None where the trace begins here."""

    trace: int
    span: int
    parent: int | None
    name: str
    status: int
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    events: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, seen: Mapping[str, Any]) -> Line:
        """Raises ValueError, KeyError, TypeError for a line of another kind."""
        parent = str(seen["parent"])
        head_ns = int(seen["began_us"]) * NS_PER_US
        began_ns = head_ns - max(0, int(seen["request_ms"])) * NS_PER_MS
        return cls(
            trace=_id(seen["trace"]), span=_id(seen["span"]), parent=None if parent in (NOTHING, "") else _id(parent),
            name=_name(str(seen["method"]), str(seen["path"])), status=int(seen["status"]),
            began_ns=began_ns, ended_ns=began_ns + max(0, int(seen["total_ms"])) * NS_PER_MS,
            attributes=dict(_attributes(seen)), events=tuple(_events(seen, head_ns)),
        )  # fmt: skip


def _under(line: Line) -> Context:
    """The client's span as a parent; an empty context for the first span of a trace."""
    if line.parent is None:
        return Context()
    parent = SpanContext(line.trace, line.parent, True, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _attributes(seen: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    yield REQUEST_ID, str(seen["id"])
    yield KEY_ID, "" if seen["key"] == NOTHING else str(seen["key"])
    if seen["model"] not in (NOTHING, ""):
        yield MODEL, str(seen["model"])
    yield "http.request.method", str(seen["method"])
    yield "url.path", str(seen["path"])
    yield "http.response.status_code", int(seen["status"])
    yield "http.request.size", int(seen["bytes_in"])
    yield "http.response.size", int(seen["bytes_out"])
    yield "corral.edge.to", str(seen["to"])
    yield "corral.edge.end", str(seen["end"])


def _events(seen: Mapping[str, Any], head_ns: int) -> Iterator[tuple[str, int]]:
    """HAProxy counts what the keeper takes as time in the queue."""
    waits = {name: _ms(seen.get(name)) for _, name in WAITS}
    if waits["admit_ms"] is not None and waits["queue_ms"] is not None:
        waits["queue_ms"] = max(0, waits["queue_ms"] - waits["admit_ms"])
    at = head_ns
    for event, name in WAITS:
        if (took := waits[name]) is not None:
            at += took * NS_PER_MS
            yield event, at


def _ms(told: Any) -> int | None:
    """-1 and "-" say that it did not come to that."""
    text = str(told)
    return int(text) if text.isdecimal() else None


def _id(text: Any) -> int:
    if not HEX.fullmatch(str(text)):
        raise ValueError(f"no id: {str(text)[:64]!r}")
    return int(str(text), 16)


def _name(method: str, path: str) -> str:
    return f"{method} {path}" if FIXED_PATH.fullmatch(path) else method
