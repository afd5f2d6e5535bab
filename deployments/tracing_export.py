"""OpenTelemetry's SDK as this project uses it: spans wait in bounded memory and are sent by a thread, or are dropped.

Nobody imports this module where nothing is traced: the SDK takes a third of a second to import.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from requests import Session

from deployments.tracing_config import TracesConfig

log = logging.getLogger("corral.traces")
SEND_EVERY_S = 1.0
BATCH = 512
LONGEST_ATTRIBUTE = 512
NOISY = ("opentelemetry.exporter", "opentelemetry.sdk")
"""They have a line for each batch that is not taken, and for each span that finds no room."""


def provider(
    config: TracesConfig, service: str, attributes: Mapping[str, str], ids: IdGenerator | None = None
) -> TracerProvider:
    """Spans of one process. service: what it is called, as OpenTelemetry's service.name."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    made = TracerProvider(
        resource=Resource.create({"service.name": service, **attributes}),
        sampler=ParentBasedTraceIdRatio(config.sample),
        id_generator=ids,
        span_limits=SpanLimits(max_span_attribute_length=LONGEST_ATTRIBUTE),
        shutdown_on_exit=False,  # a collector that is away would hold up the end of the process
    )
    made.add_span_processor(
        BatchSpanProcessor(
            ToldOnce(exporter(config), config.endpoint),
            max_queue_size=config.queue,
            schedule_delay_millis=SEND_EVERY_S * 1000,
            max_export_batch_size=min(BATCH, config.queue),
        )
    )
    return made


def exporter(config: TracesConfig) -> OTLPSpanExporter:
    """Past the environment's proxies, as everything here that speaks HTTP."""
    session = Session()
    session.trust_env = False
    return OTLPSpanExporter(config.url, headers=config.headers, timeout=config.timeout_s, session=session)


class ToldOnce(SpanExporter):
    """Tells in one line that the collector takes nothing, and in one that it does again."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner, self._endpoint = inner, endpoint
        self._refused = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        refused = result is not SpanExportResult.SUCCESS
        if refused and not self._refused:
            log.warning("the collector at %s takes no spans; they are dropped until it does", self._endpoint)
        elif self._refused and not refused:
            log.warning("the collector at %s takes spans again", self._endpoint)
        self._refused = refused
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
