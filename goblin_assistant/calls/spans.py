"""Builds the spans of a chat, by OpenTelemetry's conventions for generative AI. No content.

https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

from typing import Any, TypeGuard

from goblin_assistant.routing.attempt import AttemptCall, Trace
from goblin_assistant.tracing.context import TraceContext, new_span_id
from goblin_assistant.tracing.spans import Moment, Span, Value
from goblin_assistant.usage.records import UsageEntry

EVENTS = frozenset({"first_token", "retry", "fallback", "disconnected"})
"""Events of a chat that become events of the request's span."""
_OUR_FAULT = ("provider", "gateway")

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""Presets whose names differ in the conventions."""

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""The dialects' names for the limit on an answer's tokens."""


def wants_keeping(entry: UsageEntry, trace: Trace) -> bool:
    """Whether a chat's trace is kept even if it is not sampled: the gateway or a provider failed, a
    retry or a fallback was needed, or a call was slow."""
    failed = not entry.completed and entry.error_source in _OUR_FAULT
    return failed or trace.fallback or trace.attempts > 1 or any(call.slow for call in trace.calls)


def chat_spans(
    entry: UsageEntry, trace: Trace, body: dict[str, Any], context: TraceContext
) -> list[Span]:
    """One span for the wait for a chat slot, if the chat waited, and one for each attempt."""
    spans = [_wait(event, trace, context) for event in trace.events if event["event"] == "slot"]
    for call in trace.calls:
        spans.append(_attempt(call, entry, trace, body, context))
    return spans


def count_spans(trace: Trace, context: TraceContext) -> list[Span]:
    """One span for each attempt to count a request's tokens. The conventions have no name for this
    operation."""
    return [
        Span(
            f"count_tokens {call.target.model}",
            "client",
            call.span_id,
            context.span_id,
            call.started,
            call.ended if call.ended is not None else call.started,
            {
                "gen_ai.operation.name": "count_tokens",
                "gen_ai.provider.name": _provider_name(call),
                "gen_ai.request.model": call.target.model,
                "goblin.provider": call.target.provider.name,
                **({"error.type": call.error} if call.error else {}),
            },
            error=call.error,
        )
        for call in trace.calls
    ]


def _provider_name(call: AttemptCall) -> str:
    name = call.target.provider.name
    return _PROVIDERS.get(name, name)


def moments(trace: Trace) -> list[Moment]:
    """The events of the request's span."""
    return [
        Moment(
            event["event"],
            trace.started + event["at_ms"] / 1000,
            {
                f"goblin.{name}": value
                for name, value in event.items()
                if name not in ("event", "at_ms") and value is not None
            },
        )
        for event in trace.events
        if event["event"] in EVENTS
    ]


def _wait(event: dict[str, Any], trace: Trace, context: TraceContext) -> Span:
    ended = trace.started + event["at_ms"] / 1000
    started = ended - event["waited_ms"] / 1000
    return Span(
        "wait for a chat slot", "internal", new_span_id(), context.span_id, started, ended, {}
    )


def _attempt(
    call: AttemptCall,
    entry: UsageEntry,
    trace: Trace,
    body: dict[str, Any],
    context: TraceContext,
) -> Span:
    provider = call.target.provider
    operation = "embeddings" if entry.operation == "embeddings" else "chat"
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider_name(call),
        "gen_ai.request.model": call.target.model,
        "gen_ai.request.stream": entry.stream,
        "goblin.provider": provider.name,
    }
    if provider.address is not None:
        attributes["server.address"], attributes["server.port"] = provider.address
    limit = next((body[name] for name in _LIMITS if body.get(name)), None)
    for name, value in (("max_tokens", limit), ("temperature", body.get("temperature"))):
        if _is_number(value):
            attributes[f"gen_ai.request.{name}"] = value
    error = call.error
    if call is trace.calls[-1]:
        _add_answer(attributes, entry, trace, call)
        if not error and not entry.completed:
            error = entry.error_type or "error"
    if error:
        attributes["error.type"] = error
    return Span(
        f"{operation} {call.target.model}",
        "client",
        call.span_id,
        context.span_id,
        call.started,
        call.ended if call.ended is not None else call.started,
        attributes,
        error=error,
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    # OTLP integers have 64 bits with a sign. The exporter logs an error for a larger one, and a
    # caller could send many.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _add_answer(
    attributes: dict[str, Value], entry: UsageEntry, trace: Trace, call: AttemptCall
) -> None:
    """Add what the last attempt returned."""
    if entry.model:
        attributes["gen_ai.response.model"] = entry.model
    attributes["gen_ai.usage.input_tokens"] = entry.prompt_tokens
    attributes["gen_ai.usage.output_tokens"] = entry.completion_tokens
    for name, value in (
        ("cache_read.input_tokens", entry.cached_tokens),
        ("cache_write.input_tokens", entry.cache_write_tokens),
        ("reasoning.output_tokens", entry.reasoning_tokens),
    ):
        if value:
            attributes[f"gen_ai.usage.{name}"] = value
    if entry.first_token_ms is not None:
        first = trace.started + entry.first_token_ms / 1000
        attributes["gen_ai.response.time_to_first_chunk"] = round(first - call.started, 4)
