"""The spans of one request, gathered until it is over. No OpenTelemetry in here."""

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
    """One span. `started` and `ended` are on time.perf_counter()'s clock. `error` is empty for one
    that went well, else the kind of failure."""

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
    """Takes the spans of requests that are kept."""

    def take(self, context: TraceContext, spans: Sequence[Span], clock: Clock) -> None:
        """Hand over one request's spans. Never waits, never raises."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Turns readings of time.perf_counter() into times of the day."""

    perf: float = field(default_factory=time.perf_counter)
    epoch_ns: int = field(default_factory=time.time_ns)

    def at(self, reading: float) -> int:
        """Nanoseconds since 1970."""
        return self.epoch_ns + round((reading - self.perf) * 1e9)


class RequestSpans:
    """Waits for the parts of one request: the HTTP part and, for a chat, the chat's. Then it keeps
    the spans or drops them, as one.

    Kept: what its traceparent or its share samples, and whatever a part wants kept. The parts may
    come from different threads.
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
        """The labels of an exemplar, which leads from a metric to this trace; None if it is not
        kept, as far as is known."""
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
        """A part is over. `make` is called only if the request is kept, after the last part.
        `events` are for the request's own span. Never raises: the answer's last bytes may still be
        on their way."""
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
