"""Limits counted in this process's memory.

A moving window never admits more than `limit` hits in any `window` seconds. A fixed window would
admit up to twice as many around its edge.

Registered with the limits library as `goblin+memory://`, so that flask-limiter counts here too. Not
the library's own memory storage: it starts timer threads and scans every key, and took 0.7 of a
core at 500 hits a second and 100,000 keys (benchmarks/limit_storage.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from limits.storage import MovingWindowSupport, Storage

from goblin_assistant.rate_limits.counts import (
    ADDRESS_MARK,
    Bucket,
    ForLimitsLibrary,
    LimitResult,
)
from goblin_assistant.rate_limits.windows import Holds, Table, Window

MAX_KEYS = 120_000
"""Keys held at once per window and kind (addresses; accounts and API keys): about 400 bytes
each."""


class MemoryStorage(ForLimitsLibrary, Storage, MovingWindowSupport):
    """Counts in this process, bounded, without threads or scans. A hit costs the same however many
    keys there are."""

    STORAGE_SCHEME = ["goblin+memory"]

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        max_keys: int = MAX_KEYS,
        **_: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._windows: dict[tuple[int, bool], Table[Window]] = {}
        self._holds: dict[int, Table[Holds]] = {}

    def __len__(self) -> int:
        return sum(len(table) for table in self._windows.values()) + sum(
            len(table) for table in self._holds.values()
        )

    def __bool__(self) -> bool:
        # flask-limiter tests a storage for truth; by its length an empty one would be false.
        return True

    def _table(self, key: str, window: int) -> Table[Window]:
        kind = (window, ADDRESS_MARK in key)
        table = self._windows.get(kind)
        if table is None:
            table = self._windows[kind] = Table(Window, self._max_keys)
        return table

    def hit(self, key: str, limit: int, window: int, amount: int = 1) -> LimitResult:
        """See Counts."""
        with self._lock:
            now = time.monotonic()
            entry = self._table(key, window).use(key, now, window)
            times, used = entry.times, entry.weight()
            if used + amount > limit:
                if used == 0:
                    return LimitResult(False, 0, 0.0, float(window))
                first = times[entry.start]
                must_go = times[min(entry.start + used + amount - limit, len(times)) - 1]
                return LimitResult(
                    False, max(0, limit - used), first + window - now, must_go + window - now
                )
            for _ in range(amount):
                times.append(now)
            return LimitResult(True, limit - used - amount, times[entry.start] + window - now, 0.0)

    def hit_all(self, buckets: Sequence[Bucket]) -> list[LimitResult]:
        """See Counts."""
        with self._lock:
            now = time.monotonic()
            entries = [self._table(key, window).use(key, now, window) for key, _, window in buckets]
            results = []
            for entry, (_, limit, window) in zip(entries, buckets, strict=True):
                used = entry.weight()
                first = entry.times[entry.start] if used else now
                if used >= limit:
                    must_go = entry.times[entry.start + used - limit] if used else now
                    results.append(
                        LimitResult(False, 0, first + window - now, must_go + window - now)
                    )
                    return results
                results.append(LimitResult(True, limit - used - 1, first + window - now, 0.0))
            for entry in entries:
                entry.times.append(now)
            return results

    def reserve(self, key: str, limit: int, window: int, amount: int, hold: str) -> float:
        """See Counts."""
        with self._lock:
            now = time.monotonic()
            table = self._holds.get(window)
            if table is None:
                table = self._holds[window] = Table(Holds, self._max_keys)
            entry = table.use(key, now, window)
            too_much = entry.total + amount - limit
            if too_much <= 0:
                entry.entries[hold] = [now, amount]
                entry.total += amount
                return 0.0
            for at, held in entry.entries.values():
                too_much -= int(held)
                if too_much <= 0:
                    return max(0.001, at + window - now)
            return float(window)

    def settle(self, key: str, hold: str, amount: int) -> None:
        """See Counts."""
        with self._lock:
            for table in self._holds.values():
                entry = table.get(key)
                if entry is not None and (held := entry.entries.get(hold)) is not None:
                    entry.total += amount - int(held[1])
                    held[1] = amount

    def forget(self, key: str) -> None:
        """See Counts."""
        with self._lock:
            for windows in self._windows.values():
                windows.drop(key)
            for holds in self._holds.values():
                holds.drop(key)

    def close(self) -> None:
        """Nothing to close."""

    # -- limits' interface, for flask-limiter
    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What a storage may raise; this one raises nothing."""
        return ValueError

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(time.time() of the oldest hit in the window, number of hits)."""
        with self._lock:
            now = time.monotonic()
            entry = self._table(key, expiry).get(key)
            if entry is None:
                return time.time(), 0
            entry.expire(now - expiry)
            if not entry.weight():
                return time.time(), 0
            return time.time() - (now - entry.times[entry.start]), entry.weight()

    def check(self) -> bool:
        """Always available."""
        return True

    def reset(self) -> int | None:
        """Forget everything; returns the number of keys."""
        with self._lock:
            count = len(self)
            self._windows.clear()
            self._holds.clear()
            return count
