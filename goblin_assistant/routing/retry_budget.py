"""How many retries a provider gets: a share of its calls."""

from __future__ import annotations

import threading
import time


class RetryBudget:
    """A token bucket: each call adds `ratio` tokens, a retry takes one.

    `trickle_per_second` lets a provider with few calls retry at all; `cap` bounds the tokens.
    """

    def __init__(self, ratio: float, *, trickle_per_second: float = 0.2, cap: float = 20.0) -> None:
        self._ratio = ratio
        self._trickle = trickle_per_second if ratio > 0 else 0.0
        self._cap = cap
        self._tokens = 5.0 if ratio > 0 else 0.0
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def deposit(self) -> None:
        """Count a call."""
        # Without the lock: a lost update costs a fraction of a retry.
        self._tokens = min(self._cap, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take a retry; False when there is none."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._cap, self._tokens + (now - self._at) * self._trickle)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
