"""How many server threads may be held at once by work that takes a while or waits for its turn.

Running chats, chats that wait for a slot and requests that wait for a password hash each hold a thread, and each
counts here. The budget is smaller than the number of threads, so that health, metrics and refusals find one at any
time. Whoever finds no place is refused at once: a refusal takes a thread for a millisecond, a wait for seconds.
"""

from __future__ import annotations

import threading


class ThreadBudget:
    """Counts held threads; at most `places`."""

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
