"""The log line and the metrics of a chat that is over."""

from __future__ import annotations

import logging
from typing import Any

from goblin_assistant import metrics
from goblin_assistant.logs import json_logging
from goblin_assistant.usage.records import UsageEntry

Exemplar = dict[str, str] | None
"""The labels of an exemplar, which leads from a histogram's bucket to a trace."""

logger = logging.getLogger("goblin_assistant.chat")


class ModelMetrics:
    """The metrics of one provider and (bounded) model label."""

    __slots__ = ("answer", "chat_latency", "completion", "completions", "first_token", "prompt")

    def __init__(self, provider: str, model: str) -> None:
        self.completions = metrics.chat_completions_total.labels(provider, model)
        self.prompt = metrics.chat_completion_tokens_total.labels(provider, model, "prompt")
        self.completion = metrics.chat_completion_tokens_total.labels(provider, model, "completion")
        self.answer = metrics.chat_answer_duration_seconds.labels(provider)
        self.first_token = metrics.chat_time_to_first_token_seconds.labels(provider, model)
        self.chat_latency = metrics.provider_latency_seconds.labels(provider, "chat_completion")


def count_answer(
    entry: UsageEntry, bound: ModelMetrics, provider_seconds: float, exemplar: Exemplar
) -> None:
    """Count a call that a provider answered, or began to."""
    if entry.operation != "chat_completion":
        metrics.provider_latency_seconds.labels(entry.provider, entry.operation).observe(
            provider_seconds
        )
        return
    if entry.completed:
        bound.completions.inc()
    if entry.prompt_tokens:
        bound.prompt.inc(entry.prompt_tokens)
    if entry.completion_tokens:
        bound.completion.inc(entry.completion_tokens)
    bound.chat_latency.observe(provider_seconds, exemplar)
    if entry.stream and entry.first_token_ms is not None:
        bound.first_token.observe(entry.first_token_ms / 1000, exemplar)


def count_complete(
    entry: UsageEntry,
    bound: ModelMetrics,
    total_seconds: float,
    provider_seconds: float,
    exemplar: Exemplar,
) -> None:
    """Count how long a complete chat took, and how much of it beside its provider and the wait for
    a slot."""
    if not entry.stream and entry.operation == "chat_completion":
        bound.answer.observe(total_seconds, exemplar)
    overhead = total_seconds - provider_seconds - entry.queue_ms / 1000
    metrics.chat_gateway_overhead_seconds.observe(max(0.0, overhead))


def log(entry: UsageEntry) -> None:
    """Write `chat_completed` or `chat_failed`."""
    extra: dict[str, Any] = {
        "provider": entry.provider,
        "model": entry.model,
        "model_requested": entry.model_requested,
        "attempts": entry.attempts,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "token_source": entry.token_source,
        "cost_usd": None if entry.cost_microusd is None else entry.cost_microusd / 1_000_000,
        "duration_ms": entry.duration_ms,
        "queue_ms": entry.queue_ms,
        "stream": entry.stream,
    }
    if entry.first_token_ms is not None:
        extra["first_token_ms"] = entry.first_token_ms
    if entry.fallback:
        extra["fallback"] = True
    if entry.completed:
        json_logging.event(logger, logging.INFO, "chat_completed", extra)
        return
    extra["completed"] = False
    extra["error_type"] = entry.error_type
    extra["source"] = entry.error_source
    level = logging.WARNING if entry.error_source in ("provider", "gateway") else logging.INFO
    logger.log(level, "chat_failed", extra=extra)
