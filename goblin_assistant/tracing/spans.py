"""Collects the spans of one request until it ends. Does not use OpenTelemetry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from goblin_assistant.tracing.context import TraceContext

logger = logging.getLogger("goblin_assistant.tracing")

Kind = Literal["server", "internal", "client"]
Value = str | bool | int | float
Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Moment:
    """An event in a span. `at` is on time.perf_counter()'s clock."""

    name: str
    at: float
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span. `started` and `ended` are on time.perf_counter()'s clock. `error` is the type of
    the error, or empty."""

    name: str
    kind: Kind
    span_id: str
    parent_id: str
    started: float
    ended: float
    attributes: Attributes
    events: Sequence[Moment] = ()
    error: str = ""


class SpanSink(Protocol):
    """Receives the spans of requests that are kept."""

    def take(self, context: TraceContext, spans: Sequence[Span], clock: Clock) -> None:
        """Take one request's spans. Never blocks, never raises."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Converts readings of time.perf_counter() to wall-clock time."""

    perf: float = field(default_factory=time.perf_counter)
    epoch_ns: int = field(default_factory=time.time_ns)

    def at(self, reading: float) -> int:
        """Nanoseconds since 1970."""
        return self.epoch_ns + round((reading - self.perf) * 1e9)


class RequestSpans:
    """Waits for all parts of one request: the HTTP part and, for a chat, the chat part. Then all
    spans are kept, or all are dropped.

    They are kept if the trace is sampled, or if any part asks for it. Parts may come from different
    threads.
    """

    __slots__ = ("_clock", "_context", "_events", "_keep", "_lock", "_parts", "_sink", "_waiting")

    def __init__(self, context: TraceContext, sink: SpanSink) -> None:
        self._context = context
        self._sink = sink
        self._clock = Clock()
        self._lock = threading.Lock()
        self._waiting = 1
        self._keep = context.sampled
        self._parts: list[Callable[[TraceContext], list[Span]]] = []
        self._events: Callable[[], list[Moment]] = list

    def exemplar(self) -> dict[str, str] | None:
        """The labels of an exemplar, which links a metric to this trace. None while the trace is
        not going to be kept."""
        return {"trace_id": self._context.trace_id} if self._keep else None

    def expect_part(self) -> None:
        """One more part will come."""
        with self._lock:
            self._waiting += 1

    def add_part(
        self,
        make: Callable[[TraceContext], list[Span]],
        *,
        keep: bool,
        events: Callable[[], list[Moment]] | None = None,
    ) -> None:
        """A part has ended. `make` builds its spans; it is called after the last part, and only if
        the request is kept. `events` are for the request's own span. Never raises: the answer's
        last bytes may not have been sent yet."""
        with self._lock:
            if events is not None:
                self._events = events
            self._waiting -= 1
            self._keep = self._keep or keep
            self._parts.append(make)
            if self._waiting or not self._keep:
                return
            parts, self._parts = self._parts, []
        try:
            spans = self._made_by(parts)
        except Exception:
            logger.exception("span_failed")
            return
        self._sink.take(self._context, spans, self._clock)

    def _made_by(self, parts: list[Callable[[TraceContext], list[Span]]]) -> list[Span]:
        happened = self._events()
        return [
            replace(span, events=happened) if span.span_id == self._context.span_id else span
            for part in parts
            for span in part(self._context)
        ]
