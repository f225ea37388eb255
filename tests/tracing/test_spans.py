"""The spans of one request: when they are handed over, and what a fault in making them costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from goblin_assistant.tracing.context import TraceContext, context_from
from goblin_assistant.tracing.spans import Clock, Moment, RequestSpans, Span


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.taken: list[Sequence[Span]] = []

    def take(self, context: TraceContext, spans: Sequence[Span], clock: Clock) -> None:
        self.taken.append(spans)


def one_span(name: str, span_id: str = "") -> Callable[[TraceContext], list[Span]]:
    """Makes a span; the request's own without an id."""
    return lambda context: [Span(name, "server", span_id or context.span_id, "", 1.0, 2.0, {})]


def test_spans_are_handed_over_together_after_the_last_part() -> None:
    sink = Sink()
    spans = RequestSpans(context_from(None), sink)
    spans.expect_part()
    spans.add_part(one_span("chat", "1" * 16), keep=False, events=lambda: [Moment("retry", 1.5)])
    assert sink.taken == []
    spans.add_part(one_span("request"), keep=False)
    [taken] = sink.taken
    assert [(span.name, [event.name for event in span.events]) for span in taken] == [
        ("chat", []),
        ("request", ["retry"]),
    ]


def test_a_span_that_cannot_be_made_is_logged_and_breaks_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(context: TraceContext) -> list[Span]:
        raise KeyError("at_ms")

    sink = Sink()
    RequestSpans(context_from(None), sink).add_part(broken, keep=True)
    assert sink.taken == []
    said = [one.message for one in caplog.records if one.name == "goblin_assistant.tracing"]
    assert said == ["span_failed"]
