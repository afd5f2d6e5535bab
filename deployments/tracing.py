"""Traces: spans of what this process does for a request, under the span that asked for it.

Where a request stands in its trace goes with its principal, as W3C's traceparent: from the edge in a header, between
deployments with each call. Where the profile names no collector a span costs one `if`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from starlette.types import Scope

from deployments.chat import Usage
from deployments.principal import CURRENT, Principal
from deployments.tracing_config import TracesConfig

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer

Value = str | int | float | bool | list[str]
Attributes: TypeAlias = Mapping[str, Value | None]
"""Those that are None are left out."""
Kind = Literal["server", "internal"]
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
REQUEST_ID, KEY_ID, MODEL = "corral.request_id", "corral.key_id", "gen_ai.request.model"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
NO_ATTRIBUTES: Mapping[str, Value] = MappingProxyType({})
LAST_BIT = frozenset("13579bdf")


class Told(Protocol):
    """What may be said of a span while it is open: never a text of a client's or a model's."""

    def say(self, attributes: Attributes) -> None: ...

    def rename(self, name: str) -> None: ...

    def fail(self) -> None: ...


def is_sampled(traceparent: str) -> bool:
    return traceparent[-1:] in LAST_BIT


def _known(principal: Principal, attributes: Attributes) -> dict[str, Value]:
    """What every span says, and these."""
    every = {REQUEST_ID: principal.label or principal.request, KEY_ID: principal.key}
    return {**every, **{name: value for name, value in attributes.items() if value is not None}}


def tokens(usage: Usage) -> dict[str, Value]:
    """What was used, by OpenTelemetry's names."""
    return {"gen_ai.usage.input_tokens": usage.prompt_tokens, "gen_ai.usage.output_tokens": usage.completion_tokens}


def named(principal: Principal, scope: Scope) -> Principal:
    """With the request's id and its place in its trace, which the edge tells in headers."""
    label = trace = ""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            label = value.decode("latin-1")
        elif name == b"traceparent":
            trace = value.decode("latin-1")
    label = label if SANE_ID.fullmatch(label) else principal.request
    trace = trace if trace and TRACEPARENT.fullmatch(trace) else ""
    return replace(principal, label=label, trace=trace) if label or trace else principal


class Traces:
    """The spans of one process."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None
        self._roots = False

    @property
    def on(self) -> bool:
        return self._tracer is not None

    def start(
        self, config: TracesConfig | None, service: str, *, roots: bool = False, model: str | None = None
    ) -> None:
        """Have spans sent from now on; once for a process.

        service: what the process is called. roots: also of requests that come without a trace. model: all are of this.
        """
        if config is None or self._tracer is not None:
            return
        from deployments.tracing_export import provider

        about = {MODEL: model} if model else {}
        self._tracer, self._roots = provider(config, service, about).get_tracer("corral"), roots

    def span(
        self, name: str, attributes: Attributes = NO_ATTRIBUTES, kind: Kind = "internal"
    ) -> AbstractContextManager[Told]:
        """A span under that of the request at hand, which is the parent of what is done within it.

        It is open as long as the context; what ends it by an error marks it with the error's type.
        """
        if self._tracer is None:
            return NOTHING
        trace = CURRENT.get().trace
        if is_sampled(trace) or (self._roots and not trace):
            return self._open(self._tracer, name, attributes, kind)
        return NOTHING

    @contextmanager
    def _open(self, tracer: Tracer, name: str, attributes: Attributes, kind: Kind) -> Iterator[Told]:
        principal = CURRENT.get()
        span = tracer.start_span(name, _context(principal.trace), _kind(kind), _known(principal, attributes))
        told = _Told(span)
        CURRENT.set(replace(principal, trace=traceparent(span)))
        try:
            yield told
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                told.fail()
            told.say({"error.type": type(error).__name__})
            raise
        finally:
            CURRENT.set(principal)  # a token could not be given back by a generator that another task closes
            span.end()

    def past(
        self, name: str, principal: Principal, began_ns: int, ended_ns: int, attributes: Attributes,
        events: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """A span of what is over, under the principal's. events: of what happened within it -> when."""
        if self._tracer is None or not is_sampled(principal.trace):
            return
        said = _known(principal, attributes)
        span = self._tracer.start_span(name, _context(principal.trace), _kind("internal"), said, start_time=began_ns)
        for event, when in (events or {}).items():
            span.add_event(event, timestamp=when)
        span.end(ended_ns)


class _Nothing:
    """In the place of a span where nothing is traced."""

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None: ...

    def say(self, attributes: Attributes) -> None: ...

    def rename(self, name: str) -> None: ...

    def fail(self) -> None: ...


class _Told:
    def __init__(self, span: Span) -> None:
        self._span = span

    def say(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)


def traceparent(span: Span) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"


def _context(trace: str) -> Context | None:
    """The span that this traceparent names, as a parent; an empty context where there is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": trace}, Context())


def _kind(kind: Kind) -> SpanKind:
    from opentelemetry.trace import SpanKind

    return SpanKind.SERVER if kind == "server" else SpanKind.INTERNAL


NOTHING = _Nothing()
TRACES = Traces()
"""Of this process; off until it is started."""
