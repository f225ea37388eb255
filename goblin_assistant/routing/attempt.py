"""One attempt at one target: what it takes and counts, and its verdict for the circuit breaker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from goblin_assistant.errors import AppError, BadRequest
from goblin_assistant.metrics import chat_completion_errors_total, chat_fallbacks_total
from goblin_assistant.providers.base import (
    Call,
    ContentFiltered,
    InvalidRequest,
    ModelNotFound,
    ProviderError,
)
from goblin_assistant.routing.circuit_breaker import CircuitBreaker, Ticket
from goblin_assistant.routing.retries import Retries
from goblin_assistant.routing.retry_rules import rule_of
from goblin_assistant.routing.slots import Caps
from goblin_assistant.routing.targets import Target
from goblin_assistant.tracing.context import new_span_id

logger = logging.getLogger("goblin_assistant.routing")

T = TypeVar("T")


@dataclass(slots=True)
class Trace:
    """The history of one chat, for the log, the usage record and `goblin-assistant explain`.

    `started` is on time.perf_counter()'s clock. `events` are dicts with `event` and `at_ms`, which
    counts from `started`.
    """

    started: float
    events: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    fallback: bool = False
    provider_seconds: float = 0.0
    calls: list[AttemptCall] = field(default_factory=list)

    def add(self, event: str, **details: Any) -> None:
        """Note an event now."""
        self.events.append(
            {
                "at_ms": round((time.perf_counter() - self.started) * 1000, 1),
                "event": event,
                **details,
            }
        )


@dataclass(slots=True)
class AttemptCall:
    """One attempt, for the trace's span of it. Times are on time.perf_counter()'s clock; `ended` is
    None while a stream goes on. `error` is the error's code, or empty."""

    span_id: str
    target: Target
    started: float
    ended: float | None = None
    error: str = ""
    slow: bool = False


class Skipped(Enum):
    """Why a target was not called."""

    OPEN = "its circuit breaker is open"
    BUSY = "its concurrency cap is reached"


@dataclass(frozen=True, slots=True)
class Guards:
    """What bounds the calls to one provider."""

    breaker: CircuitBreaker
    retries: Retries
    caps: Caps


@dataclass(slots=True)
class Request(Generic[T]):
    """What a chat asks of its targets, and the last of them that failed.

    `streamed`: `operation` returns with the first token, and the caller gives the verdict when the
    stream ends.
    """

    operation: Callable[[Target], T]
    call: Call
    trace: Trace
    streamed: bool
    prepare: Callable[[Target], None] | None
    of_chat: bool
    """Whether failures and fallbacks count in the metrics of chats."""
    unfit: ProviderError | AppError | None = None
    """Why the first target that was passed over cannot take the request's form."""
    failure: ProviderError | None = None
    failed_at: Target | None = None
    may_bill: set[str] = field(default_factory=set)
    """Providers that may be generating for this chat: they are not asked again."""
    passed_over: set[str] = field(default_factory=set)

    def fits(self, target: Target) -> bool:
        """Whether a target can take the request's form."""
        if self.prepare is None:
            return True
        if target.name in self.passed_over:
            return False
        try:
            self.prepare(target)
        except (InvalidRequest, BadRequest) as error:
            self.unfit = self.unfit or error
            self.passed_over.add(target.name)
            self.trace.add("unfit", provider=target.provider.name, model=target.model)
            return False
        return True


@dataclass(slots=True)
class Outcome(Generic[T]):
    """A call that worked. Until `release` it holds its place at the provider and, for a stream, a
    ticket without a verdict."""

    value: T
    target: Target
    ticket: Ticket
    _caps: Caps | None = None

    def release(self) -> None:
        """Give everything back; a call without a verdict is abandoned. Later calls do nothing."""
        self.ticket.abandon()
        caps, self._caps = self._caps, None
        if caps is not None:
            caps.release(self.target.provider.name)


class Attempt(Generic[T]):
    """One call to one target. An attempt without an outcome has given back what it took."""

    __slots__ = ("_guards", "_held", "_request", "_target", "_ticket")

    def __init__(self, request: Request[T], target: Target, guards: Guards) -> None:
        self._request = request
        self._target = target
        self._guards = guards
        self._ticket: Ticket | None = None
        self._held: Caps | None = None

    def make(self) -> Outcome[T] | ProviderError | Skipped:
        """Call the target, if its guards admit the call."""
        outcome: Outcome[T] | None = None
        try:
            ticket = self._enter()
            if isinstance(ticket, Skipped):
                return ticket
            self._count()
            result = self._call(ticket)
            if isinstance(result, ProviderError):
                return result
            outcome = result
            return outcome
        finally:
            if outcome is None:
                self._release()

    def _enter(self) -> Ticket | Skipped:
        """Take a ticket and, where the provider has a cap, a place under it."""
        provider, trace = self._target.provider, self._request.trace
        ticket = self._ticket = self._guards.breaker.acquire(streamed=self._request.streamed)
        if ticket is None:
            trace.add("circuit_open", provider=provider.name)
            return Skipped.OPEN
        cap = provider.max_concurrency
        if cap is not None:
            caps = self._guards.caps
            self._held = caps if caps.acquire(provider.name, cap) else None
            if self._held is None:
                trace.add("provider_busy", provider=provider.name, cap=cap)
                return Skipped.BUSY
        return ticket

    def _count(self) -> None:
        request, name = self._request, self._target.provider.name
        if request.failed_at is not None and request.failed_at is not self._target:
            failed = request.failed_at.provider.name
            request.trace.fallback = True
            if request.of_chat:
                chat_fallbacks_total.labels(failed, name).inc()
            request.trace.add("fallback", from_provider=failed, to_provider=name)
        self._guards.retries.deposit()
        request.trace.attempts += 1

    def _call(self, ticket: Ticket) -> Outcome[T] | ProviderError:
        request = self._request
        request.call.alive = ticket.alive
        call = AttemptCall(new_span_id(), self._target, time.perf_counter())
        request.call.span_id = call.span_id
        request.trace.calls.append(call)
        try:
            value = request.operation(self._target)
        except ProviderError as error:
            judge(ticket, error)
            call.error = error.code
            self._note(error, time.perf_counter() - call.started)
            return error
        finally:
            call.ended = time.perf_counter()
            call.slow = ticket.slow
            request.trace.provider_seconds += call.ended - call.started
        if request.streamed:
            ticket.first_token()
        else:
            ticket.success()
        return Outcome(value, self._target, ticket, self._held)

    def _note(self, error: ProviderError, seconds: float) -> None:
        target, trace = self._target, self._request.trace
        if self._request.of_chat:
            chat_completion_errors_total.labels(target.provider.name, error.code).inc()
        trace.add(
            "failed",
            provider=target.provider.name,
            model=target.model,
            error=error.code,
            upstream_status=error.upstream_status,
            took_ms=round(seconds * 1000, 1),
            **({"may_bill": True} if rule_of(error).may_bill else {}),
        )
        logger.warning(
            "provider_call_failed",
            extra={
                "provider": target.provider.name,
                "model": target.model,
                "error_type": error.code,
                "upstream_status": error.upstream_status,
                "attempt": trace.attempts,
                "duration_ms": round(seconds * 1000, 2),
            },
        )

    def _release(self) -> None:
        if self._ticket is not None:
            self._ticket.abandon()
        if self._held is not None:
            self._held.release(self._target.provider.name)


def judge(ticket: Ticket, error: ProviderError) -> None:
    """Give the verdict that follows from a provider's error."""
    # A provider that rejects a request is well, and so is one whose answer we cannot pass on.
    if error.untranslatable or isinstance(error, (InvalidRequest, ContentFiltered, ModelNotFound)):
        ticket.success()
    else:
        ticket.failure()
