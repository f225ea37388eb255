"""What is counted under one key, and the bounded table of such keys. The caller holds the lock."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from itertools import islice
from typing import Generic, TypeVar


class Entry:
    """What is counted under one key. `used` is the time of its last use, by time.monotonic()."""

    __slots__ = ("used",)
    used: float

    def weight(self) -> int:
        """How much is counted in the window."""
        raise NotImplementedError

    def expire(self, until: float) -> None:
        """Drop what is as old as `until`, or older."""
        raise NotImplementedError


E = TypeVar("E", bound=Entry)


class Window(Entry):
    """The times of one key's hits, oldest first. `start` skips the expired ones, so that the rest
    are not moved at each hit."""

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


class Holds(Entry):
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


class Table(Generic[E]):
    """Keys of one kind, least recently used first; at most `capacity`.

    When full, expired keys are dropped first, then the key with the fewest hits among the four
    least recently used. So a flood of new keys evicts its own kind, and a key at its limit stays
    limited: nobody resets a bucket by making others.
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
        """The entry of `key`, without what has left the window. A new key also drops up to two
        expired ones."""
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
        # The others move to the back, or the same three would be compared at every eviction.
        for key in oldest:
            if key != lightest:
                self._entries.move_to_end(key)
