"""Idempotency keys in this process, bounded by bytes and time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from goblin_assistant.calls.idempotency import Holder, IdempotencyStore, StoredResponse

ENTRY_BYTES = 600
"""What an entry takes beside its texts: two hashes of 64 letters and their objects (measured)."""
_HEADER_BYTES = 100


class MemoryIdempotencyStore(IdempotencyStore):
    """At most `max_bytes` of responses: the oldest ones go first. Requests in flight stay."""

    def __init__(self, seconds: int, in_flight_seconds: float, max_bytes: int) -> None:
        super().__init__(seconds, in_flight_seconds)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # In order of arrival. All entries of one dict live equally long: the next to go is first.
        self._claims: OrderedDict[str, tuple[float, Holder]] = OrderedDict()
        self._responses: OrderedDict[str, tuple[float, str, StoredResponse]] = OrderedDict()
        self._bytes = 0

    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        now = time.monotonic()
        with self._lock:
            self._expire(now)
            if (kept := self._responses.get(holder.name)) is not None:
                return kept[1], kept[2]
            if (claimed := self._claims.get(holder.name)) is not None:
                return claimed[1].fingerprint, None
            self._claims[holder.name] = (now + self._in_flight_seconds, holder)
            return None

    def _put(self, holder: Holder, response: StoredResponse) -> None:
        size = _size(response)
        with self._lock:
            claimed = self._claims.get(holder.name)
            if claimed is not None:
                if claimed[1] is not holder:
                    return
                del self._claims[holder.name]
            if size > self._max_bytes or holder.name in self._responses:
                return
            until = time.monotonic() + self._seconds
            self._responses[holder.name] = (until, holder.fingerprint, response)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove_oldest()

    def _drop(self, holder: Holder) -> None:
        with self._lock:
            claimed = self._claims.get(holder.name)
            if claimed is not None and claimed[1] is holder:
                del self._claims[holder.name]

    def _expire(self, now: float) -> None:
        while self._claims and next(iter(self._claims.values()))[0] <= now:
            self._claims.popitem(last=False)
        while self._responses and next(iter(self._responses.values()))[0] <= now:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        _, (_, _, response) = self._responses.popitem(last=False)
        self._bytes -= _size(response)


def _size(response: StoredResponse) -> int:
    headers = sum(
        len(name) + len(value) + _HEADER_BYTES for name, value in response.headers.items()
    )
    return ENTRY_BYTES + len(response.content_type) + len(response.body) + headers
