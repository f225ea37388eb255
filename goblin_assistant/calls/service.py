"""complete() and stream(): one chat from its admission to its answer. No Flask in here.

Admission.admit    checks it, and takes what it needs
Admission.reserve  holds its key's money
Router.run         calls a provider, with retries and fallbacks
Settlement         how it ended; gives everything back after the last byte
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from goblin_assistant import metrics
from goblin_assistant.calls.access import ModelAccess
from goblin_assistant.calls.admission import Admission
from goblin_assistant.calls.counting import TokenCounts
from goblin_assistant.calls.request import Chat, ChatResult, name_as_sent
from goblin_assistant.calls.settlement import Books, Settlement
from goblin_assistant.calls.stream import ChatStream, close_events
from goblin_assistant.calls.tables import Tables
from goblin_assistant.calls.telemetry import ModelMetrics
from goblin_assistant.config import Config
from goblin_assistant.errors import UnknownModel
from goblin_assistant.money import from_microusd
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import BadResponse, ChatResponse, ProviderError, StreamEvent
from goblin_assistant.rate_limits.policy import RateLimits
from goblin_assistant.routing.attempt import Outcome
from goblin_assistant.routing.router import Router
from goblin_assistant.routing.slots import ChatSlots
from goblin_assistant.routing.targets import Target
from goblin_assistant.schemas.field_names import listed
from goblin_assistant.threads.budget import ThreadBudget
from goblin_assistant.usage.checks import UsageChecks
from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.records import UsageEntry
from goblin_assistant.usage.store import UsageStore

__all__ = ["Chat", "ChatResult", "ChatService", "ChatStream"]

T = TypeVar("T")


class ChatService:
    """Everything between a checked request and its answer. Shared by all threads."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        router: Router,
        usage: UsageStore,
        limits: RateLimits,
        threads: ThreadBudget,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.router = router
        self.slots = ChatSlots(
            config.slots, config.chat_slot_wait_seconds, config.most_chats_waiting, threads
        )
        self.access = ModelAccess(config)
        model_metrics = metrics.BoundMetrics(ModelMetrics)
        books = Books(usage, registry, UsageChecks(registry), model_metrics, is_draining)
        self.tables = Tables(router, usage)
        self._admission = Admission(
            self.tables,
            books,
            limits,
            self.slots,
            access=self.access,
            timeout=config.timeout_total,
        )
        self.token_counts = TokenCounts(self.tables, router, self.slots, self.access, config)
        for reason in ("client", "provider", "timeout", "shutdown"):
            metrics.stream_incomplete_total.labels(reason)
        for phase in ("waiting", "before_first_token", "streaming"):
            metrics.client_disconnects_total.labels(phase)
        _start_series(router, registry, model_metrics, self.access.default_model)

    def complete(self, chat: Chat) -> ChatResult:
        """Answer in one piece. Raises AppError or ProviderError."""
        settlement = self._admission.admit(chat)
        try:
            outcome = self._call(settlement, _call_whole)
            response, body = outcome.value
            if response.model:
                settlement.entry.model = response.model
            settlement.succeeded(response.usage, response.body)
            headers = {**_headers(settlement, outcome.target), **_cost_headers(settlement.entry)}
            result = ChatResult(body, headers)
        except BaseException as error:
            settlement.ended_by(error, phase="waiting")
            raise
        chat.defer(settlement.settle)
        return result

    def stream(self, chat: Chat) -> ChatStream:
        """Answer in pieces. Raises AppError or ProviderError for a failure before the first one."""
        settlement = self._admission.admit(chat)
        try:
            settlement.entry.stream = True
            settlement.charge.delivered = DeliveredText()
            outcome = self._call(settlement, _call_stream, streamed=True)
            first_token = time.perf_counter() - chat.started
            settlement.entry.first_token_ms = round(first_token * 1000)
            settlement.trace.add("first_token", provider=outcome.target.provider.name)
            headers = _headers(settlement, outcome.target)
            stream = ChatStream(settlement, outcome, self.router, headers)
        except BaseException as error:
            settlement.ended_by(error, phase="before_first_token")
            raise
        return stream

    def _call(
        self,
        settlement: Settlement,
        operation: Callable[[Settlement, Target], T],
        *,
        streamed: bool = False,
    ) -> Outcome[T]:
        self._admission.reserve(settlement)
        attempt = functools.partial(operation, settlement)
        try:
            outcome = self.router.run(
                settlement.targets,
                attempt,
                settlement.call,
                settlement.trace,
                streamed=streamed,
                prepare=settlement.requests.prepare,
            )
        except ProviderError as error:
            name_as_sent(error, settlement.chat)
            raise
        settlement.reached(outcome)
        return outcome


def _start_series(
    router: Router,
    registry: Registry,
    model_metrics: metrics.BoundMetrics[ModelMetrics],
    default_model: str,
) -> None:
    """Start the series of every provider, and of the models that chats get by default or by
    goblin.toml's names, at 0. Other models have 21 series each once they are used."""
    for name in registry.providers:
        metrics.chat_completions_total.labels(name, metrics.OTHER_MODEL)
        metrics.chat_answer_duration_seconds.labels(name)
        metrics.provider_latency_seconds.labels(name, "chat_completion")
    for name in (default_model, *router.names()):
        try:
            targets = router.resolve(name)
        except UnknownModel:  # no default, or one that nobody serves: each chat says so
            continue
        for target in targets:
            provider = target.provider.name
            model_metrics.of(provider, registry.label(provider, target.model))


def _call_whole(settlement: Settlement, target: Target) -> tuple[ChatResponse, bytes]:
    """A provider's answer, and the same in the chat's dialect."""
    settlement.trying(target)
    request = settlement.requests.for_target(target)
    settlement.charge.progress = request.progress
    if settlement.chat.operation == "embeddings":
        response = target.provider.embed(request)
    else:
        response = target.provider.complete(request)
    settlement.answered(response)
    # Within the attempt: after an answer that cannot be translated the next target is tried.
    return response, settlement.requests.answer(target, response)


def _call_stream(
    settlement: Settlement, target: Target
) -> tuple[StreamEvent, Iterator[StreamEvent]]:
    """The first event of a provider's stream, and the stream."""
    settlement.trying(target)
    request = settlement.requests.for_target(target)
    settlement.charge.progress = request.progress
    events = target.provider.stream(request)
    settlement.held.callback(close_events, events)
    try:
        return next(events), events
    except StopIteration:
        raise BadResponse(
            "the provider's stream was empty", provider=target.provider.name
        ) from None


def _headers(settlement: Settlement, target: Target) -> dict[str, str]:
    trace, entry = settlement.trace, settlement.entry
    elapsed = (time.perf_counter() - trace.started) * 1000
    provider = trace.provider_seconds * 1000
    overhead = max(0.0, elapsed - provider - entry.queue_ms)
    timing = f"queue;dur={entry.queue_ms}, overhead;dur={overhead:.2f}, provider;dur={provider:.2f}"
    if entry.first_token_ms is not None:
        timing += f", first_token;dur={entry.first_token_ms}"
    headers = {
        "Server-Timing": timing,
        "X-Goblin-Provider": target.provider.name,
        "X-Goblin-Attempts": str(trace.attempts),
    }
    if ignored := settlement.requests.ignored:
        headers["X-Goblin-Ignored"] = listed(ignored)
    return headers


def _cost_headers(entry: UsageEntry) -> dict[str, str]:
    """What a whole answer took and cost. A cost that is not known is left out."""
    headers = {
        "X-Goblin-Prompt-Tokens": str(entry.prompt_tokens),
        "X-Goblin-Completion-Tokens": str(entry.completion_tokens),
        "X-Goblin-Token-Source": entry.token_source,
    }
    if entry.cost_microusd is not None:
        headers["X-Goblin-Cost"] = from_microusd(entry.cost_microusd)
    return headers
