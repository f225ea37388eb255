"""The memory and temporary files that request bodies take, bounded over all connections.

A body is held from its first bytes until its request is answered or its connection closes. At the
bound, the requests that have been arriving for longest are refused: an honest client sends its
body within seconds.
"""

from __future__ import annotations

import threading
from typing import Protocol

COUNTED_BYTES = 16 * 1024
"""Smaller bodies are not counted, so that most chats cost nothing here. All connections together
can hold 128 MiB of them."""

ROOM = 8
"""Shedding frees an eighth of the bound, so that a flood does not cause it at every read."""


class Held(Protocol):
    """A request with a body."""

    held_bytes: int

    def shed(self) -> None:
        """Refuse the request and close its body."""


class PendingBodies:
    """What is held now, and which requests are still arriving.

    The main thread calls `add`, `complete` and `to_shed`; any thread calls `release`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._arriving: dict[Held, None] = {}
        self._lock = threading.Lock()

    def add(self, request: Held, size: int) -> bool:
        """`request` holds `size` bytes now. False when the bound is exceeded and no request has
        been arriving for longer: then `request` itself is refused."""
        with self._lock:
            self.held += size - request.held_bytes
            request.held_bytes = size
            self._arriving.setdefault(request)
            return self.held <= self.limit or next(iter(self._arriving)) is not request

    def complete(self, request: Held) -> None:
        """The body has arrived; it stays counted."""
        with self._lock:
            self._arriving.pop(request, None)

    def release(self, request: Held) -> None:
        """The body has been closed."""
        with self._lock:
            self._arriving.pop(request, None)
            self.held -= request.held_bytes
            request.held_bytes = 0

    def to_shed(self) -> list[Held]:
        """The requests to refuse so that the bound holds again, the oldest first."""
        if self.held <= self.limit:
            return []
        with self._lock:
            excess = self.held - self.limit + self.limit // ROOM
            chosen = []
            for request in self._arriving:
                if excess <= 0:
                    break
                chosen.append(request)
                excess -= request.held_bytes
            return chosen
