"""A circuit breaker over a window of time, one per provider.

    closed ──(enough calls, too many failed)──> open ──(open_seconds later)──> half open
       ^                                          ^                              │
       └────────────(the trial succeeded)─────────┼──────────────────────────────┤
                                                  └────(the trial failed)────────┘

Half open lets one call through at a time. Counting is by time and not by consecutive failures: one success among many failures
says nothing about a provider's health (https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from goblin_assistant.metrics import provider_circuit_state

logger = logging.getLogger("goblin_assistant.routing")

SLICES = 10


class State(IntEnum):
    """Values of the metric provider_circuit_state."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Says whether a provider may be called. Every `acquire()` that returned True is followed by exactly one of
    `success()`, `failure()` or `abandon()`.

    `window` and `open_seconds` are in seconds; `failure_ratio` is a share, 0 to 1. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        provider: str,
        *,
        window: float,
        min_calls: int,
        failure_ratio: float,
        open_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider = provider
        self._slice_seconds = window / SLICES
        self._min_calls = min_calls
        self._failure_ratio = failure_ratio
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._slices: list[tuple[int, list[int]]] = []  # (slice number, [calls, failures]), oldest first
        self._state = State.CLOSED
        self._opened_at = 0.0
        self._trial_running = False
        self._gauge = provider_circuit_state.labels(provider)
        self._gauge.set(State.CLOSED)

    @property
    def state(self) -> State:
        """The state now; an open breaker whose time is over still says OPEN until somebody tries."""
        return self._state

    def retry_after(self) -> float:
        """Seconds until a call may be let through, 0 when it may now."""
        with self._lock:
            if self._state is State.CLOSED:
                return 0.0
            if self._state is State.HALF_OPEN:
                return 1.0 if self._trial_running else 0.0
            return max(0.0, self._opened_at + self._open_seconds - self._clock())

    def available(self) -> bool:
        """Whether `acquire()` would succeed now; takes nothing."""
        return self._state is State.CLOSED or self.retry_after() == 0.0

    def acquire(self) -> bool:
        """Ask to make a call."""
        if self._state is State.CLOSED:  # the common case takes no lock: a stale read lets one more call through
            return True
        with self._lock:
            state = State(self._state.value)  # read again: it may have changed before the lock was had
            if state is State.CLOSED:
                return True
            if state is State.OPEN:
                if self._clock() < self._opened_at + self._open_seconds:
                    return False
                self._change(State.HALF_OPEN)
            if self._trial_running:
                return False
            self._trial_running = True
            return True

    def success(self) -> None:
        """The provider answered, be it that the request was wrong."""
        with self._lock:
            if self._state is State.HALF_OPEN:
                self._trial_running = False
                self._slices.clear()
                self._change(State.CLOSED)
            else:
                self._count(failed=False)

    def failure(self) -> None:
        """The provider failed."""
        with self._lock:
            if self._state is State.HALF_OPEN:
                self._trial_running = False
                self._open()
                return
            calls, failures = self._count(failed=True)
            if self._state is State.CLOSED and calls >= self._min_calls and failures >= self._failure_ratio * calls:
                self._open()

    def abandon(self) -> None:
        """The call ended without a verdict: its client has gone."""
        with self._lock:
            self._trial_running = False

    def _open(self) -> None:
        self._opened_at = self._clock()
        self._slices.clear()
        self._change(State.OPEN)

    def _count(self, *, failed: bool) -> tuple[int, int]:
        number = int(self._clock() / self._slice_seconds)
        slices = self._slices
        while slices and slices[0][0] <= number - SLICES:
            slices.pop(0)
        if not slices or slices[-1][0] != number:
            slices.append((number, [0, 0]))
        slices[-1][1][0] += 1
        slices[-1][1][1] += failed
        if not failed:
            return 0, 0
        return sum(counts[0] for _, counts in slices), sum(counts[1] for _, counts in slices)

    def _change(self, state: State) -> None:
        before, self._state = self._state, state
        self._gauge.set(state)
        logger.log(
            logging.WARNING if state is State.OPEN else logging.INFO,
            "circuit_state_changed",
            extra={"provider": self.provider, "from_state": before.name.lower(), "to_state": state.name.lower()},
        )
