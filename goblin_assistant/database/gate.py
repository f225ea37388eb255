"""After a failure the database is not asked for a moment, so that not every thread waits for it."""

from __future__ import annotations

import threading
import time

PAUSE_SECONDS = 1.0
TRIAL_SECONDS = 10.0  # longer than any attempt, so that only one caller tries at a time


class Gate:
    """Open, or closed after a failure. After the pause one caller at a time may try."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause = pause_seconds
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self.failures = 0
        """The number of failures: a caller that waited can see that one happened."""

    def enter(self) -> bool:
        """Whether the caller may ask the database. It then calls `succeeded`, `failed` or
        `undecided`."""
        if not self._closed_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._closed_until:
                return False
            if self._closed_until:
                self._closed_until = now + TRIAL_SECONDS
            return True

    def failed(self) -> None:
        """The database did not answer."""
        with self._lock:
            self.failures += 1
            self._closed_until = time.monotonic() + self._pause

    def undecided(self) -> None:
        """The attempt says nothing about the database: the next caller may try at once."""
        if self._closed_until:
            with self._lock:
                self._closed_until = min(self._closed_until, time.monotonic())

    def succeeded(self) -> None:
        """The database answered."""
        if self._closed_until:
            with self._lock:
                self._closed_until = 0.0
