"""complete() and stream(): choose, call, record. No Flask in here.

What a chat takes, in this order, and gives back in the reverse order: its key's place, a chat slot, its key's tokens per minute, its key's money.
The cheap refusals come first. A chat that got a slot leaves a usage record, whatever becomes of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

from goblin_assistant import metrics
from goblin_assistant.calls.request import (
    Chat,
    ChatResult,
    TargetRequests,
    apply_defaults,
    check_allowed,
    may_use,
)
from goblin_assistant.calls.settlement import ModelMetrics, Settlement, counted, requested_tier
from goblin_assistant.calls.stream import ChatStream, close_events
from goblin_assistant.config import Config
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import AppError, ClientGone
from goblin_assistant.providers import Registry
from goblin_assistant.providers.answer_limits import LIMIT_FIELDS, choices, completion_limit
from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ChatResponse,
    ProviderError,
    StreamEvent,
)
from goblin_assistant.rate_limits.policy import RateLimits
from goblin_assistant.routing.attempt import Outcome, Trace
from goblin_assistant.routing.router import Router
from goblin_assistant.routing.slots import ChatSlots, KeyConcurrency
from goblin_assistant.routing.targets import Target
from goblin_assistant.threads.budget import ThreadBudget
from goblin_assistant.usage.checks import UsageChecks
from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.estimates import prediction_tokens
from goblin_assistant.usage.store import (
    UsageEntry,
    UsageStore,
    estimate_prompt_tokens,
    max_completion_tokens,
    most_prompt_tokens,
    new_record_id,
)

__all__ = ["Chat", "ChatResult", "ChatService", "ChatStream", "may_use"]


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
        self._registry = registry
        self._usage = usage
        self._limits = limits
        self._timeout = config.timeout_total
        self.default_model = config.default_model or "echo"
        self._keys = KeyConcurrency()
        self._model_metrics = metrics.BoundMetrics(ModelMetrics)
        self._checks = UsageChecks(registry)
        self._is_draining = is_draining
        for reason in ("client", "provider", "timeout", "shutdown"):
            metrics.stream_incomplete_total.labels(reason)
        for phase in ("waiting", "before_first_token", "streaming"):
            metrics.client_disconnects_total.labels(phase)
        for name in registry.providers:
            for model in [*(m.id for m in registry.get(name).models()), metrics.OTHER_MODEL]:
                self._model_metrics.of(name, registry.label(name, model))

    def complete(self, chat: Chat) -> ChatResult:
        """Answer in one piece. Raises AppError or ProviderError."""
        settlement, targets, call = self._begin(chat)
        try:
            requests = TargetRequests(chat, call)

            def attempt(target: Target) -> tuple[ChatResponse, bytes]:
                settlement.trying(target)
                request = requests.for_target(target)
                if chat.operation == "embeddings":
                    response = target.provider.embed(request)
                else:
                    response = target.provider.complete(request)
                # Within the attempt: an answer that makes no sense is the provider's failure, and the next target may do better.
                return response, requests.answer(target, response)

            outcome = self._attempt(settlement, targets, attempt, call)
            response, body = outcome.value
            if response.model:
                settlement.entry.model = response.model
            settlement.succeeded(response.usage, response.body)
            result = ChatResult(body, self._headers(settlement, outcome.target))
        except BaseException as error:
            self._ended_by(error, chat, settlement, targets, phase="waiting")
            raise
        chat.defer(settlement.settle)
        return result

    def stream(self, chat: Chat) -> ChatStream:
        """Answer in pieces. Raises AppError or ProviderError for whatever fails before the first one."""
        settlement, targets, call = self._begin(chat)
        try:
            settlement.entry.stream = True
            settlement.delivered = DeliveredText()
            requests = TargetRequests(chat, call)

            def attempt(target: Target) -> tuple[StreamEvent, Iterator[StreamEvent]]:
                settlement.trying(target)
                request = requests.for_target(target)
                settlement.progress = request.progress
                events = target.provider.stream(request)
                settlement.hold(functools.partial(close_events, events))
                try:
                    return next(events), events
                except StopIteration:
                    raise BadResponse(
                        "the provider's stream was empty", provider=target.provider.name
                    ) from None

            outcome = self._attempt(settlement, targets, attempt, call, streamed=True)
            settlement.entry.first_token_ms = round((time.perf_counter() - chat.started) * 1000)
            settlement.trace.add("first_token", provider=outcome.target.provider.name)
            translation = requests.translation_for(outcome.target)
            translator = None if translation is None else translation.stream(settlement.entry.model)
            stream = ChatStream(
                chat, settlement, outcome, self.router, translator, self._is_draining
            )
            stream.headers = self._headers(settlement, outcome.target)
        except BaseException as error:
            self._ended_by(error, chat, settlement, targets, phase="before_first_token")
            raise
        return stream

    # -- parts --------------------------------------------------------------------------------
    def _begin(self, chat: Chat) -> tuple[Settlement, list[Target], Call]:
        principal = chat.principal
        requested = apply_defaults(chat, self.default_model)
        targets = self.router.resolve(requested)
        check_allowed(principal, requested, targets)
        if principal.tokens_per_minute is not None or principal.monthly_budget_microusd is not None:
            self._limit_answer(chat)

        trace = Trace(chat.started)
        if chat.limit is not None:
            trace.add("limit", limit=chat.limit[0], remaining=chat.limit[1])
        entry = UsageEntry(
            id=new_record_id(),
            created_at=now_ms(),
            correlation_id=chat.correlation_id,
            user_id=principal.user_id,
            key_id=principal.key_id,
            operation=chat.operation,
            model_requested=requested[:255],
        )
        settlement = Settlement(
            entry,
            trace,
            chat.body,
            chat.dialect,
            usage=self._usage,
            registry=self._registry,
            limits=self._limits,
            model_metrics=self._model_metrics,
            checks=self._checks,
        )
        call = Call(chat.correlation_id, time.monotonic() + self._timeout, chat.client_gone)
        try:
            if principal.max_concurrency is not None:
                label = principal.shared_label
                self._keys.acquire(label, principal.max_concurrency)
                settlement.hold(functools.partial(self._keys.release, label))
            waited = self.slots.acquire(chat.client_gone)
            settlement.hold(self.slots.release)
            if waited:
                entry.queue_ms = round(waited * 1000)
                trace.add("slot", waited_ms=entry.queue_ms)
            if principal.tokens_per_minute is not None:
                estimate = estimate_prompt_tokens(chat.body) + self._most_completion_tokens(chat)
                settlement.token_hold = self._limits.take_tokens(principal, estimate)
        except CallCancelled:
            settlement.give_back()
            metrics.client_disconnects_total.labels("waiting").inc()
            raise ClientGone("the client has gone") from None
        except BaseException:
            settlement.give_back()
            raise
        try:
            if principal.monthly_budget_microusd is not None:
                settlement.reservation = self._usage.reserve(
                    entry.id,
                    principal,
                    [(target.provider.name, target.model) for target in targets],
                    _most_prompt_tokens(chat, targets),
                    self._most_completion_tokens(chat),
                    requested_tier(chat.body) if chat.operation == "chat_completion" else "",
                )
        except BaseException as error:
            self._ended_by(error, chat, settlement, targets, phase="waiting")
            raise
        return settlement, targets, call

    def _attempt(
        self,
        settlement: Settlement,
        targets: list[Target],
        attempt: Callable[[Target], Any],
        call: Call,
        *,
        streamed: bool = False,
    ) -> Outcome[Any]:
        outcome = self.router.run(targets, attempt, call, settlement.trace, streamed=streamed)
        settlement.reached(outcome)
        return outcome

    def _ended_by(
        self,
        error: BaseException,
        chat: Chat,
        settlement: Settlement,
        targets: list[Target],
        *,
        phase: str,
    ) -> None:
        """Note how a chat ended that got no answer, and have it settled. Raises ClientGone for CallCancelled."""
        try:
            if isinstance(error, CallCancelled):
                settlement.cut("shutdown" if self._is_draining() else "client", phase)
                raise ClientGone("the client has gone") from None
            if isinstance(error, ProviderError) and not error.provider:
                error.provider = settlement.entry.provider or targets[-1].provider.name
            settlement.failed(
                error
                if isinstance(error, ProviderError | AppError)
                else AppError(type(error).__name__)
            )
        finally:
            chat.defer(settlement.settle)

    def _most_completion_tokens(self, chat: Chat) -> int:
        """What is held for the answers, in money and in tokens a minute. Embeddings have none,
        whatever their body says."""
        if chat.operation != "chat_completion":
            return 0
        body = chat.body
        return max_completion_tokens(body, self._usage.default_max_tokens) + prediction_tokens(body)

    def _limit_answer(self, chat: Chat) -> None:
        """Send a limit where the request has none and its caller is held to money or tokens: what
        is held for the answer is then the most that the provider may write."""
        body, principal = chat.body, chat.principal
        if chat.operation != "chat_completion" or completion_limit(body) is not None:
            return
        limit = self._usage.default_max_tokens
        if principal.tokens_per_minute is not None:
            room = (
                principal.tokens_per_minute - estimate_prompt_tokens(body) - prediction_tokens(body)
            )
            limit = max(1, min(limit, room // choices(body)))
        for name in LIMIT_FIELDS:  # -1 and other ways to say "no limit"
            body.pop(name, None)
        body["max_tokens"] = limit
        chat.raw = b""

    @staticmethod
    def _headers(settlement: Settlement, target: Target) -> dict[str, str]:
        elapsed = (time.perf_counter() - settlement.trace.started) * 1000
        provider = settlement.trace.provider_seconds * 1000
        queue = settlement.entry.queue_ms
        timing = f"queue;dur={queue}, overhead;dur={max(0.0, elapsed - provider - queue):.2f}, provider;dur={provider:.2f}"
        if settlement.entry.first_token_ms is not None:
            timing += f", first_token;dur={settlement.entry.first_token_ms}"
        return {
            "Server-Timing": timing,
            "X-Goblin-Provider": target.provider.name,
            "X-Goblin-Attempts": str(settlement.trace.attempts),
        }


def _most_prompt_tokens(chat: Chat, targets: list[Target]) -> int:
    most = most_prompt_tokens(chat.body, [target.model for target in targets])
    if chat.operation != "chat_completion":
        return most
    # Exact where every provider that may be asked can count beforehand.
    counts = [counted(target, chat.body, chat.dialect) for target in targets]
    exact = [count for count in counts if count is not None]
    return max(exact) if len(exact) == len(counts) else max([most, *exact])
