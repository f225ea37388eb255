"""How many chats may run at once: in all, per provider and per API key.

A chat holds a server thread until its answer has ended. There are fewer slots than threads, so that
health, metrics and login always find a thread. All counts are of this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from goblin_assistant.errors import NoFreeSlot, RateLimitExceeded
from goblin_assistant.metrics import (
    chat_slots_in_use,
    chat_slots_max,
    chat_slots_waiting,
    queue_wait_seconds,
    rate_limit_rejections_total,
)
from goblin_assistant.providers.base import CallCancelled
from goblin_assistant.threads.budget import ThreadBudget

_POLL_SECONDS = 0.25


class ChatSlots:
    """A pool of `limit` slots. At most `waiting` chats wait for one, each for `wait` seconds.

    `threads` is the server's thread budget. A chat counts in it while it waits and while it runs.
    """

    def __init__(self, limit: int, wait: float, waiting: int, threads: ThreadBudget) -> None:
        self.limit = limit
        self._wait = wait
        self._most_waiting = waiting
        self._threads = threads
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._waiting = 0
        self._taken = 0
        self._observe_wait = queue_wait_seconds.labels("chat_slot").observe
        chat_slots_max.set(limit)
        chat_slots_in_use.set_function(lambda: self._taken)
        chat_slots_waiting.set_function(lambda: self._waiting)

    def lower(self, limit: int, waiting: int) -> None:
        """Have fewer slots, and fewer chats that wait. For the start, before chats come."""
        self.limit = min(self.limit, limit)
        self._most_waiting = min(self._most_waiting, waiting)
        chat_slots_max.set(self.limit)

    def acquire(self, client_gone: Callable[[], bool] | None = None) -> float:
        """Take a slot and return the seconds waited.

        Raises NoFreeSlot when none becomes free in time or too many wait already, and
        CallCancelled when the client leaves meanwhile.
        """
        # Not a Semaphore: it costs four times as much, and waiting is rare.
        with self._lock:
            if not self._threads.take():
                raise self._refusal("all server threads are busy")
            if self._taken < self.limit:
                self._taken += 1
                self._observe_wait(0.0)
                return 0.0
            if self._waiting >= self._most_waiting or not self._wait:
                self._threads.give_back()
                raise self._refusal(f"all {self.limit} chat slots are busy")
            self._waiting += 1
        got = False
        began = time.monotonic()
        try:
            self._wait_for_slot(client_gone, began)
            got = True
            return time.monotonic() - began
        finally:
            self._observe_wait(time.monotonic() - began)
            with self._lock:
                self._waiting -= 1
                if not got:
                    self._threads.give_back()

    def _wait_for_slot(self, client_gone: Callable[[], bool] | None, began: float) -> None:
        while True:
            left = began + self._wait - time.monotonic()
            if left <= 0:
                raise self._refusal(f"all {self.limit} chat slots are busy")
            with self._lock:
                if self._freed.wait_for(lambda: self._taken < self.limit, min(left, _POLL_SECONDS)):
                    self._taken += 1
                    return
            if client_gone is not None and client_gone():
                raise CallCancelled

    def _refusal(self, why: str) -> NoFreeSlot:
        return NoFreeSlot(f"{why}; try again shortly", retry_after=max(1.0, self._wait))

    @property
    def in_use(self) -> int:
        """How many slots are taken now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many chats wait for a slot now."""
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether every slot is taken now."""
        return self._taken >= self.limit

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            self._taken -= 1
            self._threads.give_back()
            if self._waiting:
                self._freed.notify()


class Caps:
    """Counts places by name; each name has at most its cap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def acquire(self, name: str, cap: int) -> bool:
        """Take one of `cap` places of `name`; False when there is none."""
        with self._lock:
            held = self._held.get(name, 0)
            if held >= cap:
                return False
            self._held[name] = held + 1
            return True

    def release(self, name: str) -> None:
        """Give a place back. A name without places taken uses no memory."""
        with self._lock:
            held = self._held[name] - 1
            if held:
                self._held[name] = held
            else:
                del self._held[name]

    def held(self, name: str) -> int:
        """Places of `name` taken now."""
        return self._held.get(name, 0)


class KeyConcurrency:
    """The cap of an API key on its chats at once, on this instance."""

    def __init__(self) -> None:
        self._caps = Caps()

    def acquire(self, label: str, cap: int) -> None:
        """Take a place for `label`, or raise RateLimitExceeded."""
        if not self._caps.acquire(label, cap):
            rate_limit_rejections_total.labels("concurrency", "key").inc()
            raise RateLimitExceeded(
                f"Concurrency limit exceeded: {cap} at once for this API key",
                retry_after=1,
                param=None,
            )

    def release(self, label: str) -> None:
        """Give the place back."""
        self._caps.release(label)
