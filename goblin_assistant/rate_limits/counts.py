"""What the policy needs of a storage, and what the limits library needs of one besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

ADDRESS_MARK = "ip:"
"""Keys that contain this are addresses. They are stored apart: a flood of addresses evicts
addresses, never an account or an API key."""

Bucket = tuple[str, int, int]
"""A key, its limit, and the window in seconds."""


class LimitResult(NamedTuple):
    """The outcome of one count, in seconds. `reset_after` is when the oldest hit leaves the window;
    `retry_after` is 0 when allowed."""

    allowed: bool
    remaining: int
    reset_after: float
    retry_after: float


class Counts(Protocol):
    """A storage, as the policy sees it. Each call is atomic."""

    def hit_all(self, buckets: Sequence[Bucket]) -> list[LimitResult]:
        """Count one hit in every bucket if it fits into all of them, else in none: then the last
        result is that of the bucket which is full."""

    def hit(self, key: str, limit: int, window: int, amount: int = 1) -> LimitResult:
        """Count `amount` hits, if that stays within `limit` in `window` seconds."""

    def reserve(self, key: str, limit: int, window: int, amount: int, hold: str) -> float:
        """Take `amount` under the name `hold`; 0.0, or the seconds after which it could fit."""

    def settle(self, key: str, hold: str, amount: int) -> None:
        """Correct what `hold` took. Does nothing once it has left the window."""

    def forget(self, key: str) -> None:
        """Drop everything counted under `key`."""

    def close(self) -> None:
        """End connections."""


class ForLimitsLibrary:
    """What both storages answer the limits library, through which flask-limiter counts."""

    def acquire_entry(self: Counts, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` hits fit."""
        return self.hit(key, limit, expiry, amount).allowed

    def clear(self: Counts, key: str) -> None:
        """As `forget`."""
        self.forget(key)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not offered: fixed windows are not used."""
        raise NotImplementedError
