"""From a model's name to an answer: which targets, in which order, how often, and when to give up.

One owner of retries: nothing below this module repeats a call (but for a reused connection that the provider had closed already,
see providers/upstream/client.py). Retry and fallback happen only before the first token has gone to the client.

 * A target whose circuit is open is passed over; when all are, the answer is 503 with the soonest Retry-After.
 * With a further target at hand the next one is tried at once. The last one is repeated with full jitter
   (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), as far as the provider's retry budget goes.
 * A provider's Retry-After is honoured up to GOBLIN_RETRY_AFTER_CAP; a longer one is passed on to the client instead.
 * A request that the provider called wrong is wrong everywhere: no retry, no fallback. A prompt too long for one window may fit the next.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from goblin_assistant.config import Config, ConfigError, GoblinFile
from goblin_assistant.errors import CircuitOpen, NoFreeSlot, UnknownModel
from goblin_assistant.metrics import (
    chat_completion_errors_total,
    chat_fallbacks_total,
    provider_calls_max,
    provider_retries_total,
)
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import (
    PROVIDER_ERRORS,
    Call,
    CallCancelled,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Provider,
    ProviderError,
)
from goblin_assistant.routing.circuit_breaker import CircuitBreaker, Ticket
from goblin_assistant.routing.retry_budget import RetryBudget
from goblin_assistant.routing.slots import Caps

logger = logging.getLogger("goblin_assistant.routing")

T = TypeVar("T")

_BACKOFF_BASE = 0.25
_BACKOFF_CAP = 4.0
_POLL_SECONDS = 0.25
SLOW_SHARE = 0.75
"""Where no setting says when a call is slow: after this share of its time limit. Whoever raises the limit for a model
that thinks for long raises this too, and a provider that hangs is seen before its calls run into the limit."""


@dataclass(frozen=True, slots=True)
class Target:
    """One provider and its own name for the model."""

    provider: Provider
    model: str

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.model}"


@dataclass(slots=True)
class Trace:
    """What happened to one chat on its way, for the log, the usage record and `goblin-assistant explain`.

    `events` are dicts with `at_ms` since the request's arrival and `event`.
    """

    started: float
    events: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    fallback: bool = False
    provider_seconds: float = 0.0

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
class Outcome(Generic[T]):
    """A call that worked, and what it holds until `release`: its place at the provider, and for a stream its ticket,
    which waits for the verdict."""

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


class Router:
    """Resolves names and makes calls. Shared by all threads."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self.registry = registry
        self._file = config.file
        self._config = config
        self._caps = Caps()
        self._breakers = {name: _breaker(name, config) for name in registry.providers}
        self._budgets = {
            name: RetryBudget(config.retry_budget_ratio) for name in registry.providers
        }
        for name, provider in registry.providers.items():
            if provider.max_concurrency is not None:
                provider_calls_max.labels(name).set(provider.max_concurrency)
            for error in PROVIDER_ERRORS:
                chat_completion_errors_total.labels(name, error.code)
        check_routes(config.file, registry)

    # -- names --------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """Aliases, chains and weighted groups: the names that are not a provider's own."""
        return sorted({*self._file.aliases, *self._file.chains, *self._file.weighted})

    def resolve(self, model: str) -> list[Target]:
        """The targets for a model, in the order in which they are to be tried. Raises UnknownModel."""
        targets = self._resolve(model)
        if not targets:
            raise UnknownModel(
                f"model {model!r} is not served here; GET /v1/models lists what is", param="model"
            )
        return targets

    def _resolve(self, model: str) -> list[Target]:
        file = self._file
        if model in file.aliases:
            return self._resolve(file.aliases[model])
        if model in file.weighted:
            rows = list(file.weighted[model])
            # A weighted order without replacement: the first is drawn by weight, the others are its fallbacks.
            rows.sort(key=lambda row: random.random() ** (1.0 / row.weight), reverse=True)
            return _unique([target for row in rows for target in self._resolve(row.model)])
        if model in file.chains:
            return _unique(
                [target for name in file.chains[model] for target in self._resolve(name)]
            )
        found = self.registry.find(model)
        return [Target(*found[0])] if found else []

    # -- state --------------------------------------------------------------------------------
    def circuits(self) -> dict[str, str]:
        """Provider name -> closed, half_open or open."""
        return {name: breaker.state.name.lower() for name, breaker in self._breakers.items()}

    # -- calls --------------------------------------------------------------------------------
    def run(
        self,
        targets: Sequence[Target],
        operation: Callable[[Target], T],
        call: Call,
        trace: Trace,
        *,
        streamed: bool = False,
    ) -> Outcome[T]:
        """Make the call at the first target that can, and return what it gave.

        `streamed`: `operation` returns with the first token, and the caller gives the verdict when the stream ends.
        Raises the last ProviderError, CircuitOpen when no target may be called, NoFreeSlot when their caps are full,
        or CallCancelled.
        """
        last: ProviderError | None = None
        capped = False
        previous: Target | None = None
        for position, target in enumerate(targets):
            name = target.provider.name
            breaker = self._breakers[name]
            further = any(
                self._breakers[later.provider.name].available() for later in targets[position + 1 :]
            )
            repeats = 0
            while True:
                got = self._ask(target, operation, call, trace, previous, streamed)
                if isinstance(got, Outcome):
                    return got
                if isinstance(got, str):
                    capped = capped or got == "busy"
                    break
                last, previous = got, target
                if isinstance(last, InvalidRequest) and not (
                    isinstance(last, ContextLengthExceeded) and further
                ):
                    raise last
                if further or not last.retryable or repeats >= self._config.retries:
                    break
                pause = self._pause(last, repeats, call)
                if pause is None or not breaker.available() or not self._budgets[name].take():
                    break
                repeats += 1
                provider_retries_total.labels(name, last.code).inc()
                trace.add("retry", provider=name, after_ms=round(pause * 1000))
                _sleep(pause, call)
        if last is not None:
            raise last
        if capped:
            raise NoFreeSlot(
                "the provider's concurrency limit is reached; try again shortly", retry_after=1
            )
        soonest = min(self._breakers[target.provider.name].retry_after() for target in targets)
        raise CircuitOpen(
            "every provider of this model has been failing and is given a pause; try again later",
            retry_after=soonest,
        )

    def broke_off(self, error: ProviderError, outcome: Outcome[Any], trace: Trace) -> None:
        """A stream broke after its first token: too late for another attempt, not for the books."""
        name = outcome.target.provider.name
        _judge(outcome.ticket, error)
        chat_completion_errors_total.labels(name, error.code).inc()
        trace.add("failed", provider=name, error=error.code, upstream_status=error.upstream_status)

    def _ask(
        self,
        target: Target,
        operation: Callable[[Target], T],
        call: Call,
        trace: Trace,
        previous: Target | None,
        streamed: bool,
    ) -> Outcome[T] | ProviderError | Literal["open", "busy"]:
        """One attempt. Whatever it takes is given back unless it is returned in an Outcome."""
        name = target.provider.name
        caps: Caps | None = None
        outcome: Outcome[T] | None = None
        ticket = self._breakers[name].acquire(streamed=streamed)
        try:
            if ticket is None:
                trace.add("circuit_open", provider=name)
                return "open"
            cap = target.provider.max_concurrency
            if cap is not None:
                if not self._caps.acquire(name, cap):
                    trace.add("provider_busy", provider=name, cap=cap)
                    return "busy"
                caps = self._caps
            if previous is not None and previous is not target:
                trace.fallback = True
                chat_fallbacks_total.labels(previous.provider.name, name).inc()
                trace.add("fallback", from_provider=previous.provider.name, to_provider=name)
            self._budgets[name].deposit()
            trace.attempts += 1
            call.alive = ticket.alive
            began = time.perf_counter()
            try:
                value = operation(target)
            except ProviderError as error:
                _judge(ticket, error)
                self._failed(error, target, trace, time.perf_counter() - began)
                return error
            finally:
                trace.provider_seconds += time.perf_counter() - began
            if streamed:
                ticket.first_token()
            else:
                ticket.success()
            outcome = Outcome(value, target, ticket, caps)
            return outcome
        finally:
            if outcome is None and ticket is not None:
                ticket.abandon()
                if caps is not None:
                    caps.release(name)

    @staticmethod
    def _failed(error: ProviderError, target: Target, trace: Trace, seconds: float) -> None:
        chat_completion_errors_total.labels(target.provider.name, error.code).inc()
        trace.add(
            "failed",
            provider=target.provider.name,
            model=target.model,
            error=error.code,
            upstream_status=error.upstream_status,
            took_ms=round(seconds * 1000, 1),
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

    def _pause(self, error: ProviderError, repeats: int, call: Call) -> float | None:
        if error.retry_after is not None:
            pause = error.retry_after
            if pause > self._config.retry_after_cap:
                return None
        else:
            pause = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2**repeats))
        return pause if pause < call.remaining() else None


def _breaker(name: str, config: Config) -> CircuitBreaker:
    row = config.file.providers.get(name)
    slow_first_token, slow_answer = config.breaker_slow_first_token, config.breaker_slow_answer
    if slow_first_token is None:
        limit = row.timeout_first_token if row is not None else None
        slow_first_token = SLOW_SHARE * (limit or config.timeout_first_token)
    return CircuitBreaker(
        name,
        window=config.breaker_window,
        min_calls=config.breaker_min_calls,
        failure_ratio=config.breaker_failure_ratio,
        open_seconds=config.breaker_open_seconds,
        slow_first_token=slow_first_token,
        slow_answer=SLOW_SHARE * config.timeout_total if slow_answer is None else slow_answer,
    )


def _judge(ticket: Ticket, error: ProviderError) -> None:
    # A refused request is an answer: the provider is well.
    if isinstance(error, (InvalidRequest, ContentFiltered, ModelNotFound)):
        ticket.success()
    else:
        ticket.failure()


def _sleep(seconds: float, call: Call) -> None:
    """Wait, but not for a client that has gone."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if call.client_gone is not None and call.client_gone():
            raise CallCancelled
        time.sleep(min(left, _POLL_SECONDS))


def _unique(targets: list[Target]) -> list[Target]:
    return list({target.name: target for target in targets}.values())


def check_routes(file: GoblinFile, registry: Registry) -> None:
    """Raise ConfigError for a name that leads nowhere or in a circle, before a client finds out."""
    problems: list[str] = []
    kinds: dict[str, Mapping[str, Any]] = {
        "aliases": file.aliases,
        "chains": file.chains,
        "weighted": file.weighted,
    }
    edges: dict[str, list[str]] = {}
    for kind, table in kinds.items():
        for name, value in table.items():
            if name in edges:
                problems.append(f"goblin.toml [{kind}] {name!r}: the name is used twice")
            if isinstance(value, str):
                edges[name] = [value]
            else:
                edges[name] = [item if isinstance(item, str) else item.model for item in value]

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            problems.append("goblin.toml: " + " -> ".join((*path, name)) + " goes in a circle")
            return
        if name in edges:
            for further in edges[name]:
                walk(further, (*path, name))
        elif path and not registry.find(name) and "/" not in name:
            problems.append(
                f"goblin.toml {path[0]!r}: no provider serves {name!r}; write provider/model"
            )
        elif path and not registry.find(name) and name.split("/", 1)[0] not in registry.providers:
            problems.append(
                f"goblin.toml {path[0]!r}: there is no provider {name.split('/', 1)[0]!r} for {name!r}"
            )

    for name in edges:
        walk(name, ())
    if problems:
        raise ConfigError(sorted(set(problems)))
