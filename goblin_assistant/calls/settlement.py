"""The books of one chat: what it holds while it runs, and what is written of it when it has ended.

However a chat ends (answered, failed, cut), its run is settled once: one usage record, one `chat_completed` line, the metrics, and every
hold given back in the reverse order of its taking. Settling waits until the last byte has gone; only the journal line is written before.

Who pays for a chat that was cut: the tokens that the provider reported, but at least a quarter of
the bytes of the text that was delivered; and an estimate of the prompt where nothing was reported
(docs/usage.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from goblin_assistant import metrics
from goblin_assistant.errors import AppError, source_of
from goblin_assistant.logs import json_logging
from goblin_assistant.metrics import BoundMetrics
from goblin_assistant.providers import Registry
from goblin_assistant.providers.answer_limits import choices
from goblin_assistant.providers.base import Dialect, Progress, ProviderError, Usage, tier_of
from goblin_assistant.rate_limits.policy import RateLimits, TokenHold
from goblin_assistant.routing.attempt import Outcome, Trace
from goblin_assistant.routing.targets import Target
from goblin_assistant.usage.checks import UsageChecks, is_plain
from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.store import (
    Reservation,
    UsageEntry,
    UsageStore,
    estimate_completion_tokens,
    estimate_prompt_tokens,
    max_completion_tokens,
)

logger = logging.getLogger("goblin_assistant.chat")


class Settlement:
    """One chat from its slot to its record. Not shared between threads."""

    def __init__(
        self,
        entry: UsageEntry,
        trace: Trace,
        body: Mapping[str, Any],
        dialect: Dialect,
        *,
        usage: UsageStore,
        registry: Registry,
        limits: RateLimits,
        model_metrics: BoundMetrics[ModelMetrics],
        checks: UsageChecks,
    ) -> None:
        self.entry = entry
        self.trace = trace
        self.usage: Usage | None = None
        self.delivered: DeliveredText | None = None
        self.progress: Progress | None = None
        self.reservation: Reservation | None = None
        self.token_hold: TokenHold | None = None
        self.error: BaseException | None = None
        self.answered_at: float | None = None
        self._body = body
        self._dialect = dialect
        self._store = usage
        self._registry = registry
        self._limits = limits
        self._model_metrics = model_metrics
        self._checks = checks
        self._answer = b""
        self._holds: list[Callable[[], None]] = []
        self._settled = False
        self._outcome: Outcome[Any] | None = None
        self._target: Target | None = None

    def hold(self, release: Callable[[], None]) -> None:
        """Remember to give something back."""
        self._holds.append(release)

    def trying(self, target: Target) -> None:
        """A provider is asked: from now on it may cost something, whatever becomes of the call."""
        self._target = target
        self.entry.provider = target.provider.name
        self.entry.model = target.model

    def reached(self, outcome: Outcome[Any]) -> None:
        """A provider has answered, or begun to."""
        self._holds.append(outcome.release)
        self._outcome = outcome
        self.entry.provider = outcome.target.provider.name
        self.entry.model = outcome.target.model

    def succeeded(self, usage: Usage | None, answer: bytes = b"") -> None:
        """The answer is whole. `answer` is its body where it was not streamed. Writes the journal
        line, so that nothing is lost should the process be killed from here on."""
        self._answer = answer
        progress = self.progress
        if usage is None:
            self.usage = self._estimate()
        elif progress is not None and progress.usage is not None and not progress.final:
            self.usage = self._usage_so_far()  # more was said after the last report
        else:
            self.usage = self._checked(usage)
        self.answered_at = time.perf_counter()
        self._close_entry(completed=True)
        self._store.journal(self.entry)

    def failed(self, error: ProviderError | AppError) -> None:
        """The provider failed, before or after the first byte."""
        self.error = error
        self.answered_at = time.perf_counter()
        entry = self.entry
        entry.status_code = error.status if self._outcome is None or not entry.stream else 200
        entry.error_type = error.code
        entry.error_source = source_of(error)
        if isinstance(error, ProviderError) and not entry.provider:
            entry.provider = error.provider
        reported = self.progress is not None and self.progress.usage is not None
        if self.usage is None and entry.stream and (self._outcome is not None or reported):
            self.usage = self._usage_so_far()
        self._close_entry(completed=False)

    def cut(self, reason: str, phase: str) -> None:
        """The client has gone, or the server is going. `reason` is client or shutdown; `phase` as in client_disconnects_total."""
        self.answered_at = time.perf_counter()
        entry = self.entry
        if reason == "client":
            metrics.client_disconnects_total.labels(phase).inc()
        entry.status_code = 499
        entry.error_type = "client_closed_request" if reason == "client" else "shutdown"
        entry.error_source = "client" if reason == "client" else "gateway"
        self.trace.add("disconnected" if reason == "client" else "shutdown", phase=phase)
        if self.usage is None and self.trace.attempts:
            # The provider was at work on it: the prompt was read, and what was streamed was paid for.
            self.usage = self._usage_so_far()
        self._close_entry(completed=False)

    @property
    def settled(self) -> bool:
        """Whether everything was given back."""
        return self._settled

    def settle(self) -> None:
        """Write the record, the log line and the metrics, and give everything back. Later calls do nothing."""
        if self._settled:
            return
        self._settled = True
        entry = self.entry
        try:
            try:
                label = self._label()
            except Exception:  # the record matters more than its label
                logger.exception("label_failed", extra={"correlation_id": entry.correlation_id})
                label = metrics.OTHER_MODEL
            self._store.finish(entry, self.reservation, model_label=label)
            self._count(label)
            self._log()
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Give back everything that is held. Without settle() before it: nothing is recorded."""
        for release in (self._settle_tokens, *reversed(self._holds)):
            try:
                release()
            except Exception:  # one that fails costs none of the others
                logger.exception(
                    "release_failed", extra={"correlation_id": self.entry.correlation_id}
                )
        self._holds.clear()

    def _settle_tokens(self) -> None:
        hold, self.token_hold = self.token_hold, None
        if hold is not None:
            self._limits.settle_tokens(
                hold, self.entry.prompt_tokens + self.entry.completion_tokens
            )

    def _label(self) -> str:
        """The model's label in metrics. `gpt-4o` answers as `gpt-4o-2024-08-06`, which may be in no catalogue: then it is
        the name that it was called by."""
        entry = self.entry
        if not entry.provider:
            return metrics.OTHER_MODEL
        label = self._registry.label(entry.provider, entry.model)
        if label == metrics.OTHER_MODEL and self._target is not None:
            label = self._registry.label(entry.provider, self._target.model)
        return label

    def _checked(self, usage: Usage) -> Usage:
        answered = self.entry.operation == "chat_completion"
        if self._target is None or is_plain(usage, answered=answered):
            return usage
        answers = choices(self._body) if answered else 0
        return self._checks.checked(
            usage, self._target.provider, self._target.model, answers, self._estimate
        )

    def _usage_so_far(self) -> Usage:
        """Of an answer that was cut: what was reported until then, and at least what was
        delivered."""
        estimate = self._estimate()
        reported = self.progress.usage if self.progress is not None else None
        if reported is None:
            return estimate
        reported = self._checked(reported)
        if reported.completion_tokens < estimate.completion_tokens:
            reported = replace(
                reported, completion_tokens=estimate.completion_tokens, source="estimated"
            )
        return reported

    def _estimate(self) -> Usage:
        prompt = None
        if self._target is not None and self.entry.operation == "chat_completion":
            prompt = counted(self._target, self._body, self._dialect)
        return Usage(
            prompt_tokens=prompt if prompt is not None else estimate_prompt_tokens(self._body),
            completion_tokens=self._said(),
            source="estimated",
            tier=requested_tier(self._body),
        )

    def _said(self) -> int:
        if self.entry.operation != "chat_completion":
            return 0
        delivered = self.delivered
        if delivered is None:
            return estimate_completion_tokens(self._answer) if self._answer else 0
        events = delivered.events
        # Events without text are counted too, so not more of them than the request allows; text is
        # never cut down: a provider that wrote more than it was asked for is paid for it.
        return max(min(events, max_completion_tokens(self._body, events)), delivered.tokens)

    def _close_entry(self, *, completed: bool) -> None:
        entry, trace = self.entry, self.trace
        entry.completed = completed
        entry.attempts = trace.attempts
        entry.fallback = trace.fallback
        entry.duration_ms = round((time.perf_counter() - trace.started) * 1000)
        if trace.events:
            entry.timeline = orjson.dumps(trace.events).decode()
        usage = self.usage
        if usage is None:
            entry.token_source = "none"
            entry.cost_microusd = 0
            return
        entry.prompt_tokens = usage.prompt_tokens
        entry.completion_tokens = usage.completion_tokens
        entry.cached_tokens = usage.cached_tokens
        entry.cache_write_tokens = usage.cache_write_tokens
        entry.reasoning_tokens = usage.reasoning_tokens
        entry.token_source = usage.source
        called = self._target.model if self._target is not None else None
        entry.cost_microusd = self._store.prices.cost_microusd(
            entry.provider, entry.model, usage, called
        )

    def _count(self, label: str) -> None:
        entry, trace = self.entry, self.trace
        if not entry.provider:
            return
        bound = self._model_metrics.of(entry.provider, label)
        if self._outcome is not None:
            if entry.operation == "chat_completion":
                if entry.completed:
                    bound.completions.inc()
                if entry.prompt_tokens:
                    bound.prompt.inc(entry.prompt_tokens)
                if entry.completion_tokens:
                    bound.completion.inc(entry.completion_tokens)
                bound.chat_latency.observe(trace.provider_seconds)
                if entry.stream and entry.first_token_ms is not None:
                    bound.first_token.observe(entry.first_token_ms / 1000)
            else:
                metrics.provider_latency_seconds.labels(entry.provider, entry.operation).observe(
                    trace.provider_seconds
                )
        if entry.completed and self.answered_at is not None:
            total = self.answered_at - trace.started
            metrics.chat_gateway_overhead_seconds.observe(
                max(0.0, total - trace.provider_seconds - entry.queue_ms / 1000)
            )

    def _log(self) -> None:
        entry = self.entry
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


def counted(target: Target, body: Mapping[str, Any], dialect: Dialect) -> int | None:
    """The prompt's tokens as the target's provider will count them; None: it cannot tell, or will see a translation."""
    return target.provider.count_tokens(body) if dialect in target.provider.dialects else None


def requested_tier(body: Mapping[str, Any]) -> str:
    """The service tier that a request asks for; it may be charged for less, never for more."""
    return tier_of(body.get("service_tier")) or tier_of(body.get("speed"))


class ModelMetrics:
    """The metrics of one provider and (bounded) model label."""

    __slots__ = ("chat_latency", "completion", "completions", "first_token", "prompt")

    def __init__(self, provider: str, model: str) -> None:
        self.completions = metrics.chat_completions_total.labels(provider, model)
        self.prompt = metrics.chat_completion_tokens_total.labels(provider, model, "prompt")
        self.completion = metrics.chat_completion_tokens_total.labels(provider, model, "completion")
        self.first_token = metrics.chat_time_to_first_token_seconds.labels(provider, model)
        self.chat_latency = metrics.provider_latency_seconds.labels(provider, "chat_completion")
