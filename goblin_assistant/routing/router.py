"""Which targets are called for a chat, in which order, how often, and when to give up.

Retries are made here (retry_rules.py says after what, retries.py when) and nowhere below, with one
exception: a reused connection that the provider had already closed (providers/upstream/client.py).
Retry and fallback happen only before the first token has gone to the client.

 * A target whose circuit is open is skipped. When all are, the answer is 503 with the soonest
   Retry-After.
 * With a further target available, the next one is tried at once. The last one is retried with full
   jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), as far as the
   provider's retry budget goes.
 * A provider's Retry-After is honoured up to GOBLIN_RETRY_AFTER_CAP. A longer one is passed on to
   the client.
 * A provider that may be generating already is not asked again, under no name of its models.
 * A request that one provider rejects as invalid is neither retried nor passed to the next. Only a
   prompt that is too long for one model may fit the next one's window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from goblin_assistant.config import Config
from goblin_assistant.errors import AppError, CircuitOpen, NoFreeSlot
from goblin_assistant.metrics import (
    chat_completion_errors_total,
    provider_calls_max,
    provider_retries_total,
)
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import (
    PROVIDER_ERRORS,
    Call,
    CallCancelled,
    ProviderError,
)
from goblin_assistant.routing.attempt import (
    Attempt,
    Guards,
    Outcome,
    Request,
    Skipped,
    Trace,
    judge,
)
from goblin_assistant.routing.circuit_breaker import CircuitBreaker
from goblin_assistant.routing.retries import Retries
from goblin_assistant.routing.retry_rules import rule_of
from goblin_assistant.routing.slots import Caps
from goblin_assistant.routing.targets import Resolver, Target, check_routes

T = TypeVar("T")

_POLL_SECONDS = 0.25
NEVER = 2**31
SLOW_SHARE = 0.75
"""Where no setting says when a call is slow: after this share of its time limit. It follows the
limit, and leaves time to notice a provider that hangs before its calls reach the limit."""


class Router:
    """Makes calls for chats. Shared by all threads."""

    def __init__(self, config: Config, registry: Registry) -> None:
        check_routes(config.file, registry)
        self._config = config
        self.resolver = Resolver(config.file, registry)
        caps = Caps()
        self._guards = {name: _guards(name, config, caps) for name in registry.providers}
        for name, provider in registry.providers.items():
            if provider.max_concurrency is not None:
                provider_calls_max.labels(name).set(provider.max_concurrency)
            for error in PROVIDER_ERRORS:
                chat_completion_errors_total.labels(name, error.code)

    def names(self) -> list[str]:
        """Aliases, chains and weighted groups."""
        return self.resolver.names()

    def resolve(self, model: str) -> list[Target]:
        """The targets of a model, in the order in which they are tried. Raises UnknownModel."""
        return self.resolver.resolve(model)

    def circuits(self) -> dict[str, str]:
        """Provider name -> closed, half_open or open."""
        return {name: guards.breaker.state.name.lower() for name, guards in self._guards.items()}

    def run(
        self,
        targets: Sequence[Target],
        operation: Callable[[Target], T],
        call: Call,
        trace: Trace,
        *,
        streamed: bool = False,
        prepare: Callable[[Target], None] | None = None,
        of_chat: bool = True,
    ) -> Outcome[T]:
        """Make the call at the first target that can, and return what it gave.

        `streamed`: `operation` returns with the first token, and the caller gives the verdict when
        the stream ends. `prepare` raises InvalidRequest or BadRequest for a target that cannot take
        the request's form: it is passed over before it is asked. `of_chat` is False for calls that
        the metrics of chats leave out. Raises the last ProviderError,
        CircuitOpen when every circuit is open, NoFreeSlot when a concurrency cap is reached,
        CallCancelled, or what `prepare` raised when no target can take the request.
        """
        request = Request(operation, call, trace, streamed, prepare, of_chat)
        skipped = busy = False
        for position, target in enumerate(targets):
            if target.provider.name in request.may_bill or not request.fits(target):
                continue
            result = self._try(target, request, targets[position + 1 :])
            if isinstance(result, Outcome):
                return result
            busy = busy or result is Skipped.BUSY
            skipped = skipped or isinstance(result, Skipped)
        if request.failure is not None:
            raise request.failure
        if request.unfit is not None and not skipped:
            raise request.unfit
        raise self._refusal(targets, busy)

    def _try(
        self, target: Target, request: Request[T], later: Sequence[Target]
    ) -> Outcome[T] | Skipped | None:
        """Call one target, with its retries. None: it failed, and the next one is to be tried.

        Raises an error that no `later` target can help with.
        """
        guards = self._of(target)
        retries = 0
        while True:
            result = Attempt(request, target, guards).make()
            if not isinstance(result, ProviderError):
                return result
            request.failure, request.failed_at = result, target
            if rule_of(result).may_bill:
                request.may_bill.add(target.provider.name)
            further = any(
                self._of(other).breaker.available()
                and other.provider.name not in request.may_bill
                and request.fits(other)
                for other in later
            )
            pause = guards.retries.pause_before(result, retries, request.call, further=further)
            if pause is None:
                return None
            retries += 1
            provider_retries_total.labels(target.provider.name, result.code).inc()
            request.trace.add("retry", provider=target.provider.name, after_ms=round(pause * 1000))
            _sleep(pause, request.call)

    def _refusal(self, targets: Sequence[Target], busy: bool) -> AppError:
        """The error when no target was called."""
        if busy:
            return NoFreeSlot(
                "the provider's concurrency limit is reached; try again shortly", retry_after=1
            )
        return CircuitOpen(
            "every provider of this model has been failing and is given a pause; try again later",
            retry_after=min(self._of(target).breaker.retry_after() for target in targets),
        )

    def broke_off(self, error: ProviderError, outcome: Outcome[Any], trace: Trace) -> None:
        """Count a stream that broke after its first token: it is too late for another attempt."""
        name = outcome.target.provider.name
        judge(outcome.ticket, error)
        chat_completion_errors_total.labels(name, error.code).inc()
        trace.add("failed", provider=name, error=error.code, upstream_status=error.upstream_status)

    def _of(self, target: Target) -> Guards:
        return self._guards[target.provider.name]


def _guards(name: str, config: Config, caps: Caps) -> Guards:
    breaker = _breaker(name, config)
    return Guards(breaker, Retries(config, breaker), caps)


def _breaker(name: str, config: Config) -> CircuitBreaker:
    row = config.file.providers.get(name)
    slow_first_token, slow_answer = config.breaker_slow_first_token, config.breaker_slow_answer
    if slow_first_token is None:
        limit = row.timeout_first_token if row is not None else None
        slow_first_token = SLOW_SHARE * (limit or config.timeout_first_token)
    if slow_answer is None:
        limit = row.timeout_answer if row is not None else None
        slow_answer = SLOW_SHARE * (limit or config.longest_answer)
    return CircuitBreaker(
        name,
        window=config.breaker_window,
        # Faults that are rehearsed are no reason to give anybody a pause.
        min_calls=NEVER if config.rehearses(name) else config.breaker_min_calls,
        failure_ratio=config.breaker_failure_ratio,
        open_seconds=config.breaker_open_seconds,
        slow_first_token=slow_first_token,
        slow_answer=slow_answer,
    )


def _sleep(seconds: float, call: Call) -> None:
    """Wait, but no longer than the client does. Raises CallCancelled."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if call.client_gone is not None and call.client_gone():
            raise CallCancelled
        time.sleep(min(left, _POLL_SECONDS))
