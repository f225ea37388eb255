"""A circuit breaker for one provider, over a window of time.

    closed ──(enough calls, too many failed)──> open ──(open_seconds later)──> half open
       ^                                          ^                              │
       └────────────(the trial succeeded)─────────┼──────────────────────────────┤
                                                  └────(the trial failed)────────┘

Half open lets one trial through at a time. Failures are counted over a window, not in a row: one
success among many failures says nothing about a provider's health
(https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker).

Each call has a ticket and one verdict, which counts when the call ends. A ticket belongs to the
period, between two changes of the state, in which it was taken. The verdict of an earlier period is
ignored: it says nothing about the provider now.

**Slow calls.** A call without a sign of life for a set time counts as failed while it still waits:
a provider that hangs gives no verdict, and clients leave before the time limits. Slow calls are
detected when a call begins or ends and when the state is read; no thread looks for them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Literal

from goblin_assistant import metrics

logger = logging.getLogger("goblin_assistant.routing")

SLICES = 10

Verdict = Literal["success", "failure", "abandoned"]


class State(Enum):
    """Values of the metric provider_circuit_state."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Ticket:
    """One call. It ends with `success()`, `failure()` or `abandon()`; later calls do nothing."""

    __slots__ = (
        "_breaker",
        "_ended",
        "_limit",
        "answering",
        "period",
        "slow",
        "slow_at",
        "started",
    )

    def __init__(self, breaker: CircuitBreaker, period: int, now: float, limit: float) -> None:
        self._breaker = breaker
        self._ended = False
        self._limit = limit
        self.period = period
        self.started = now
        self.slow_at = now + limit
        """When the call counts as slow, on the breaker's clock."""
        self.slow = False
        self.answering = False

    def alive(self) -> None:
        """The provider sent something, but no token yet. The time for a slow call starts again."""
        if not self._ended:
            self._breaker.heard(self, self._limit)

    def first_token(self) -> None:
        """The answer has begun. A trial makes room for the next one, and gets its verdict at the
        end."""
        if not self._ended:
            self.answering = True
            self._breaker.heard(self, math.inf)

    def success(self) -> None:
        """The provider answered, even if only to reject the request."""
        self._end("success")

    def failure(self) -> None:
        """The provider failed."""
        self._end("failure")

    def abandon(self) -> None:
        """The call ended without a verdict: the client left, or the fault was ours."""
        self._end("abandoned")

    def _end(self, verdict: Verdict) -> None:
        if not self._ended:
            self._ended = True
            self._breaker.ended(self, verdict)


class CircuitBreaker:
    """Says whether a provider may be called, and keeps the calls that are in flight.

    Times are in seconds; `failure_ratio` is 0 to 1. A streamed call counts as slow after
    `slow_first_token`, another one after `slow_answer`; 0: never. `clock` is monotonic.
    """

    def __init__(
        self,
        provider: str,
        *,
        window: float,
        min_calls: int,
        failure_ratio: float,
        open_seconds: float,
        slow_first_token: float = 0.0,
        slow_answer: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider = provider
        self._slice_seconds = window / SLICES
        self._min_calls = min_calls
        self._failure_ratio = failure_ratio
        self._open_seconds = open_seconds
        self._slow_first_token = slow_first_token or math.inf
        self._slow_answer = slow_answer or math.inf
        self._clock = clock
        # A plain lock, because no finaliser takes it: the reaper ends streams that nobody closed
        # (threads/reaper.py).
        self._lock = threading.Lock()
        # (slice number, [calls, failures]), oldest first
        self._slices: list[tuple[int, list[int]]] = []
        self._state = State.CLOSED
        self._period = 0
        self._opened_at = 0.0
        self._trial: Ticket | None = None
        # Oldest first. Single operations on a dict are atomic.
        self._in_flight: dict[Ticket, None] = {}
        self._next_check = clock() + min(self._slow_first_token, self._slow_answer)
        metrics.provider_circuit_state.labels(provider).set_function(lambda: self.state.value)
        metrics.provider_calls_in_flight.labels(provider).set_function(self.in_flight)
        metrics.provider_oldest_call_age_seconds.labels(provider).set_function(self.oldest_age)
        self._slow_calls = metrics.provider_slow_calls_total.labels(provider)

    @property
    def state(self) -> State:
        """The state now. An open breaker is half open after its time, even without a call."""
        with self._lock:
            return self._now(self._clock())

    def retry_after(self) -> float:
        """Seconds until a call may be made; 0: now."""
        with self._lock:
            now = self._clock()
            state = self._now(now)
            if state is State.CLOSED:
                return 0.0
            if state is State.HALF_OPEN:
                return 0.0 if self._trial is None else 1.0
            return self._opened_at + self._open_seconds - now

    def available(self) -> bool:
        """Whether `acquire()` would succeed now. Takes nothing."""
        # As in acquire(), the common case takes no lock.
        return (
            self._state is State.CLOSED and self._clock() < self._next_check
        ) or self.retry_after() == 0.0

    def in_flight(self) -> int:
        """Calls in flight now."""
        return len(self._in_flight)

    def oldest_age(self) -> float:
        """Age in seconds of the oldest call without a first token or an answer; 0 without one."""
        waiting = [ticket.started for ticket in list(self._in_flight) if not ticket.answering]
        return self._clock() - waiting[0] if waiting else 0.0

    def acquire(self, *, streamed: bool) -> Ticket | None:
        """A ticket for a call, or None when none may be made now."""
        now = self._clock()
        limit = self._slow_first_token if streamed else self._slow_answer
        # The common case takes no lock. A stale read lets one more call through, whose verdict is
        # ignored: the period is read before the state, and `_next_period` writes it after.
        period = self._period
        if self._state is State.CLOSED and now < self._next_check:
            ticket = Ticket(self, period, now, limit)
            self._in_flight[ticket] = None
            return ticket
        with self._lock:
            state = self._now(now)
            if state is State.OPEN or (state is State.HALF_OPEN and self._trial is not None):
                return None
            ticket = Ticket(self, self._period, now, limit)
            self._in_flight[ticket] = None
            if state is State.HALF_OPEN:
                self._trial = ticket
            return ticket

    # -- for tickets --------------------------------------------------------------------------
    def heard(self, ticket: Ticket, limit: float) -> None:
        """A call showed a sign of life; it counts as slow `limit` seconds from now."""
        now = self._clock()
        if now < ticket.slow_at and self._trial is not ticket:
            ticket.slow_at = now + limit
            return
        with self._lock:
            self._count_if_slow(ticket, now)
            ticket.slow_at = now + limit
            if ticket.answering and self._trial is ticket:
                self._trial = None

    def ended(self, ticket: Ticket, verdict: Verdict) -> None:
        """A call has ended."""
        self._in_flight.pop(ticket, None)
        with self._lock:
            now = self._clock()
            self._count_if_slow(ticket, now)
            if self._trial is ticket:
                self._trial = None
            # A slow call has been counted already.
            if ticket.slow or ticket.period != self._period:
                return
            if verdict == "success":
                self._succeeded(now)
            elif verdict == "failure":
                self._failed(now)

    # -- with the lock held -------------------------------------------------------------------
    def _now(self, now: float) -> State:
        if now >= self._next_check:
            # Set first: a ticket that is taken meanwhile is due later than this.
            self._next_check = now + min(self._slow_first_token, self._slow_answer)
            for ticket in list(self._in_flight):
                self._count_if_slow(ticket, now)
                if not ticket.slow:
                    self._next_check = min(self._next_check, ticket.slow_at)
        if self._state is State.OPEN and now >= self._opened_at + self._open_seconds:
            self._change(State.HALF_OPEN)
        return self._state

    def _count_if_slow(self, ticket: Ticket, now: float) -> None:
        if ticket.slow or now < ticket.slow_at:
            return
        ticket.slow = True
        self._slow_calls.inc()
        if ticket.period == self._period:
            self._failed(now)

    def _succeeded(self, now: float) -> None:
        if self._state is State.CLOSED:
            self._count(now, failed=False)
        elif self._state is State.HALF_OPEN:
            self._next_period(State.CLOSED)

    def _failed(self, now: float) -> None:
        if self._state is State.CLOSED:
            self._count(now, failed=True)
            calls = sum(counts[0] for _, counts in self._slices)
            failures = sum(counts[1] for _, counts in self._slices)
            if calls < self._min_calls or failures < self._failure_ratio * calls:
                return
        self._opened_at = now
        self._next_period(State.OPEN)

    def _next_period(self, state: State) -> None:
        self._trial = None
        self._slices.clear()
        self._change(state)
        self._period += 1

    def _count(self, now: float, *, failed: bool) -> None:
        number = int(now / self._slice_seconds)
        slices = self._slices
        while slices and slices[0][0] <= number - SLICES:
            slices.pop(0)
        if not slices or slices[-1][0] != number:
            slices.append((number, [0, 0]))
        slices[-1][1][0] += 1
        slices[-1][1][1] += failed

    def _change(self, state: State) -> None:
        before, self._state = self._state, state
        logger.log(
            logging.WARNING if state is State.OPEN else logging.INFO,
            "circuit_state_changed",
            extra={
                "provider": self.provider,
                "from_state": before.name.lower(),
                "to_state": state.name.lower(),
            },
        )
