"""A database that does not answer is left alone for a moment, so that not every thread finds out by waiting."""

from __future__ import annotations

import threading
import time

PAUSE_SECONDS = 1.0
TRIAL_SECONDS = 10.0  # longer than any attempt: while one tries, nobody else does


class Gate:
    """Open, or closed after a failure; when the pause is over, one caller at a time may try."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause = pause_seconds
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self.failures = 0
        """How often it failed: whoever waited meanwhile sees that it did."""

    def enter(self) -> bool:
        """Whether the caller may ask the database. It reports with `succeeded` or `failed`."""
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
        """The trial said nothing about the database: the next caller may try at once."""
        if self._closed_until:
            with self._lock:
                self._closed_until = min(self._closed_until, time.monotonic())

    def succeeded(self) -> None:
        """The database answered."""
        if self._closed_until:
            with self._lock:
                self._closed_until = 0.0
