"""When a failed call is repeated at the same provider, and after which pause."""

from __future__ import annotations

import random
import threading
import time

from goblin_assistant.config import Config
from goblin_assistant.providers.base import Call, ProviderError
from goblin_assistant.routing.circuit_breaker import CircuitBreaker
from goblin_assistant.routing.retry_rules import TOO_LONG, rule_of

_BACKOFF_BASE = 0.25
_BACKOFF_CAP = 4.0
_START = 5.0
_MOST = 20.0
_TRICKLE_PER_SECOND = 0.2
"""So that a provider with few calls can be retried at all."""


class Retries:
    """The retries of one provider: a share of its calls.

    A token bucket: each call adds GOBLIN_RETRY_BUDGET_RATIO tokens, a retry takes one.
    """

    def __init__(self, config: Config, breaker: CircuitBreaker) -> None:
        ratio = config.retry_budget_ratio
        self._config = config
        self._breaker = breaker
        self._ratio = ratio
        self._trickle = _TRICKLE_PER_SECOND if ratio > 0 else 0.0
        self._tokens = _START if ratio > 0 else 0.0
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def deposit(self) -> None:
        """Count a call."""
        # Without the lock: a lost update costs a fraction of a retry.
        self._tokens = min(_MOST, self._tokens + self._ratio)

    def pause_before(
        self, error: ProviderError, made: int, call: Call, *, further: bool
    ) -> float | None:
        """What follows a failure: a retry after so many seconds, or None: the next target.

        `made` retries were made. `further`: another target is available. Raises `error` when no
        target can do better.
        """
        rule = rule_of(error)
        if not rule.further or (rule is TOO_LONG and not further):
            raise error
        if further or not rule.same or made >= self._config.retries:
            return None
        pause = error.retry_after
        if pause is None:
            pause = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2**made))
        elif pause > self._config.retry_after_cap:
            return None
        if pause >= call.remaining():
            return None
        # Last, because it takes from the budget.
        return pause if self._breaker.available() and self._take() else None

    def _take(self) -> bool:
        """Take a retry; False when there is none."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(_MOST, self._tokens + (now - self._at) * self._trickle)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
