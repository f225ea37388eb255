"""What a place to count limits offers, and the one in this process's memory.

A moving window: never more than `limit` hits in any `window` seconds, unlike a fixed window, which lets up to twice
as many through around its edge. Registered with the limits library as `goblin+memory://`, so that flask-limiter counts
here too. limits' own memory storage starts timer threads and scans every key: measured, 0.7 of a core at 500 hits a
second and 100,000 keys.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from limits.storage import MovingWindowSupport, Storage

MAX_KEYS = 120_000
"""Keys held at once per kind (addresses; accounts and API keys) and window: about 400 bytes each."""

ADDRESS_MARK = "ip:"
"""Keys that hold this are addresses. They are kept apart: a flood of addresses pushes out addresses, never an account
or a key."""


class LimitResult(NamedTuple):
    """The outcome of one count. `retry_after` is in seconds, 0 when allowed; `reset_after` is when the oldest hit
    leaves the window."""

    allowed: bool
    remaining: int
    reset_after: float
    retry_after: float


Bucket = tuple[str, int, int]
"""A key, its limit, and the window in seconds."""


class Counts(Protocol):
    """What the policy needs of a storage."""

    def hit_all(self, buckets: Sequence[Bucket]) -> list[LimitResult]:
        """Count one in each, if it fits into all of them; else in none, and the last of the list is
        the one that it does not fit into. Atomic."""

    def hit(self, key: str, limit: int, window: int) -> LimitResult:
        """Count one, if that stays within `limit` in `window` seconds. Atomic."""

    def reserve(self, key: str, limit: int, window: int, amount: int, hold: str) -> float:
        """Take `amount` under the name `hold`; 0.0, or the seconds after which it could fit. Atomic."""

    def settle(self, key: str, hold: str, amount: int) -> None:
        """Correct what `hold` took. Does nothing once it has left the window."""

    def forget(self, key: str) -> None:
        """Drop everything counted under `key`."""

    def close(self) -> None:
        """End connections."""


class _Entry:
    """What is counted under one key. `used` is when it was last touched, on time.monotonic()'s clock."""

    __slots__ = ("used",)
    used: float

    def weight(self) -> int:
        """How much is in the window."""
        raise NotImplementedError

    def expire(self, until: float) -> None:
        """Take out what is as old as `until` or older."""
        raise NotImplementedError


E = TypeVar("E", bound=_Entry)


class _Window(_Entry):
    """The times of one key's hits, oldest first, as plain doubles; `start` skips those that left without moving the
    rest each time."""

    __slots__ = ("start", "times")

    def __init__(self) -> None:
        self.times = array("d")
        self.start = 0

    def weight(self) -> int:
        return len(self.times) - self.start

    def expire(self, until: float) -> None:
        self.start = bisect_right(self.times, until, self.start)
        if self.start * 2 > len(self.times):
            del self.times[: self.start]
            self.start = 0


class _Holds(_Entry):
    """Amounts taken within the window: hold -> [time, amount], oldest first."""

    __slots__ = ("entries", "total")

    def __init__(self) -> None:
        self.entries: OrderedDict[str, list[float]] = OrderedDict()
        self.total = 0

    def weight(self) -> int:
        return self.total

    def expire(self, until: float) -> None:
        while self.entries:
            first = next(iter(self.entries))
            at, amount = self.entries[first]
            if at > until:
                return
            del self.entries[first]
            self.total -= int(amount)


class _Table(Generic[E]):
    """Keys of one kind in the order of their last use, at most `capacity`.

    When full: what has expired goes first, then of the four least recently used the one with the fewest hits. So a
    flood of new keys pushes out its own kind, and a key that is at its limit stays limited: nobody resets a bucket by
    making others.
    """

    def __init__(self, make: type[E], capacity: int) -> None:
        self._make = make
        self._capacity = capacity
        self._entries: OrderedDict[str, E] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> E | None:
        return self._entries.get(key)

    def use(self, key: str, now: float, window: int) -> E:
        """The entry of `key`, made if need be, with what left the window taken out. Two keys that have expired go on
        the way."""
        entries = self._entries
        entry = entries.get(key)
        if entry is None:
            self._expire(now - window, 2)
            if len(entries) >= self._capacity:
                self._evict()
            entry = entries[key] = self._make()
        else:
            entries.move_to_end(key)
            entry.expire(now - window)
        entry.used = now
        return entry

    def drop(self, key: str) -> None:
        self._entries.pop(key, None)

    def _expire(self, until: float, count: int) -> None:
        for key in list(islice(self._entries, count)):
            if self._entries[key].used > until:
                return
            self.drop(key)

    def _evict(self) -> None:
        oldest = list(islice(self._entries, 4))
        lightest = min(oldest, key=lambda key: self._entries[key].weight())
        self.drop(lightest)
        # The others have had their turn at the front: else four busy keys that idle would be weighed again and again.
        for key in oldest:
            if key != lightest:
                self._entries.move_to_end(key)


class MemoryStorage(Storage, MovingWindowSupport):
    """Counts in this process: bounded, no threads, no scans; a hit costs the same with one key and with all of them."""

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
        self._windows: dict[tuple[int, bool], _Table[_Window]] = {}
        self._holds: dict[int, _Table[_Holds]] = {}

    def __len__(self) -> int:
        return sum(len(table) for table in self._windows.values()) + sum(
            len(table) for table in self._holds.values()
        )

    def __bool__(self) -> bool:
        return (
            True  # flask-limiter asks whether there is a storage by its truth; an empty one is one
        )

    def _table(self, key: str, window: int) -> _Table[_Window]:
        kind = (window, ADDRESS_MARK in key)
        table = self._windows.get(kind)
        if table is None:
            table = self._windows[kind] = _Table(_Window, self._max_keys)
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
                table = self._holds[window] = _Table(_Holds, self._max_keys)
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
        """Nothing to end."""

    # -- limits' interface, for flask-limiter
    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """None of ours are expected."""
        return ValueError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` hits fit."""
        return self.hit(key, limit, expiry, amount).allowed

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(time of the oldest hit in the window on time.time()'s clock, number of hits)."""
        with self._lock:
            now = time.monotonic()
            entry = self._table(key, expiry).get(key)
            if entry is None:
                return time.time(), 0
            entry.expire(now - expiry)
            if not entry.weight():
                return time.time(), 0
            return time.time() - (now - entry.times[entry.start]), entry.weight()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError

    def check(self) -> bool:
        """Memory is there."""
        return True

    def clear(self, key: str) -> None:
        """As `forget`."""
        self.forget(key)

    def reset(self) -> int | None:
        """Forget everything."""
        with self._lock:
            count = len(self)
            self._windows.clear()
            self._holds.clear()
            return count
