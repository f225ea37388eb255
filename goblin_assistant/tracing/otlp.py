"""Sends spans to an OTLP collector with OpenTelemetry's SDK. No other module imports the SDK.

The SDK's batch processor has a bounded queue (OTEL_BSP_MAX_QUEUE_SIZE) and its own thread. If the
collector is slow or gone, spans are lost and counted. Chats are not affected.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from goblin_assistant.metrics import trace_spans_total
from goblin_assistant.tracing.context import TraceContext
from goblin_assistant.tracing.spans import Clock, Span
from goblin_assistant.version import __version__

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_KEPT = TraceFlags(TraceFlags.SAMPLED)
CLOSE_SECONDS = 2.0


class _Counting(SpanExporter):
    """Wraps the exporter: counts the spans in its queue, and those sent and refused."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self.waiting = 0

    def entered(self, spans: int, capacity: int) -> bool:
        """Count spans as queued; False if the queue has no room for all of them."""
        with self._lock:
            if self.waiting + spans > capacity:
                return False
            self.waiting += spans
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self.waiting -= len(spans)
            sent = result is SpanExportResult.SUCCESS
            trace_spans_total.labels("sent" if sent else "refused").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class OtlpSender:
    """Hands spans to the SDK, which reads OTEL_* from the environment. For invalid values the SDK's
    own exceptions are raised."""

    def __init__(self, instance: str) -> None:
        self._exporter = _Counting(OTLPSpanExporter())
        self._processor = BatchSpanProcessor(self._exporter)
        self._capacity = _queue_size()
        self._resource = _resource(instance)
        self._scope = InstrumentationScope("goblin_assistant", __version__)

    def send(self, context: TraceContext, spans: Sequence[Span], clock: Clock) -> None:
        """Queue one request's spans, or count them as dropped."""
        if not self._exporter.entered(len(spans), self._capacity):
            trace_spans_total.labels("dropped").inc(len(spans))
            return
        for span in spans:
            self._processor.on_end(self._readable(context, span, clock))

    def _readable(self, context: TraceContext, span: Span, clock: Clock) -> ReadableSpan:
        trace_id = int(context.trace_id, 16)
        remote = span.parent_id == context.parent_id
        parent = SpanContext(trace_id, int(span.parent_id, 16), remote) if span.parent_id else None
        return ReadableSpan(
            span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, _KEPT),
            parent=parent,
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(one.name, dict(one.attributes), clock.at(one.at)) for one in span.events],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=clock.at(span.started),
            end_time=max(clock.at(span.started), clock.at(span.ended)),
            instrumentation_scope=self._scope,
        )

    def close(self) -> None:
        """Send what is queued, for at most CLOSE_SECONDS, even if the collector hangs."""
        ending = threading.Thread(target=self._processor.shutdown, name="otlp-end", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


def _queue_size() -> int:
    try:
        return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "2048"))
    except ValueError:
        return 2048


def _resource(instance: str) -> Resource:
    ours: dict[str, Any] = {
        "service.version": __version__,
        "service.instance.id": instance,
    }
    given = OTELResourceDetector().detect().attributes
    if SERVICE_NAME not in given:
        ours[SERVICE_NAME] = "goblin-assistant"
    return Resource.create({name: value for name, value in ours.items() if name not in given})
