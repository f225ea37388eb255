"""Limits how many server threads slow work may hold at once.

A running chat, a chat that waits for a slot and a request that waits for a password hash each hold
a thread. The budget is smaller than the number of threads, so that health, metrics and refusals
always find one. If no place is free, a request is refused at once: a refusal holds a thread for a
millisecond, waiting would hold it for seconds.
"""

from __future__ import annotations

import threading


class ThreadBudget:
    """Counts held threads, at most `places`."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._lock = threading.Lock()
        self._held = 0

    def take(self) -> bool:
        """Take a place; False when there is none."""
        with self._lock:
            if self._held >= self.places:
                return False
            self._held += 1
            return True

    def give_back(self) -> None:
        """Give a place back."""
        with self._lock:
            self._held -= 1

    @property
    def held(self) -> int:
        """Places taken now."""
        return self._held
