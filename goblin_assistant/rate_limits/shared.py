"""Limits counted in Redis, shared by all instances; in this process's memory while Redis is lost.

Keys name their format (`goblin:mw1:` is a moving window, version 1), so that a release that counts
differently uses other keys.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from limits.storage import MovingWindowSupport, Storage

from goblin_assistant.database.redis_client import close, redis_client
from goblin_assistant.metrics import rate_limiter_degraded, rate_limiter_storage_seconds
from goblin_assistant.rate_limits import scripts
from goblin_assistant.rate_limits.counts import Bucket, ForLimitsLibrary, LimitResult
from goblin_assistant.rate_limits.memory import MemoryStorage

logger = logging.getLogger("goblin_assistant.limits")

RETRY_SECONDS = 2.0
"""How often a thread of its own retries a lost Redis. No request waits for it."""

TIMEOUT_SECONDS = 0.3
PREFIX = "goblin:mw1:"
MICROSECONDS = 1_000_000

T = TypeVar("T")


class SharedStorage(ForLimitsLibrary, Storage, MovingWindowSupport):
    """Counts in Redis, or in memory with `limit / instances` while Redis does not answer.

    `uri` is Redis's with `goblin+` in front.
    """

    STORAGE_SCHEME = [
        "goblin+redis",
        "goblin+rediss",
        "goblin+redis+unix",
        "goblin+unix",
        "goblin+redis+sentinel",
    ]

    def __init__(
        self, uri: str, wrap_exceptions: bool = False, instances: int = 1, **_: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._instances = instances
        self._memory = MemoryStorage()
        self._redis = redis_client(
            uri.removeprefix("goblin+"),
            connect_seconds=TIMEOUT_SECONDS,
            answer_seconds=TIMEOUT_SECONDS,
            retries=1,
            protocol=2,  # version 3 adds a handshake and notices that nobody reads
        )
        self._hit = self._redis.register_script(scripts.HIT)
        self._hit_all = self._redis.register_script(scripts.HIT_ALL)
        self._peek = self._redis.register_script(scripts.PEEK)
        self._reserve = self._redis.register_script(scripts.RESERVE)
        self._settle = self._redis.register_script(scripts.SETTLE)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.degraded = False
        rate_limiter_degraded.set(0)

    def close(self) -> None:
        """Close the connections and end the thread that retries Redis."""
        self._closed.set()
        close(self._redis)
        rate_limiter_degraded.set(0)  # the metric is the process's and outlives this storage

    def hit(self, key: str, limit: int, window: int, amount: int = 1) -> LimitResult:
        """See Counts."""

        def shared() -> LimitResult:
            allowed, remaining, reset, retry = self._hit(
                [PREFIX + key], [limit, window * MICROSECONDS, amount]
            )
            return LimitResult(
                bool(allowed), int(remaining), int(reset) / MICROSECONDS, int(retry) / MICROSECONDS
            )

        return self._either(
            [PREFIX + key],
            shared,
            lambda: self._memory.hit(key, self._share(limit), window, amount),
        )

    def hit_all(self, buckets: Sequence[Bucket]) -> list[LimitResult]:
        """See Counts."""

        def shared() -> list[LimitResult]:
            limits = [
                value for _, limit, window in buckets for value in (limit, window * MICROSECONDS)
            ]
            found = self._hit_all(names, limits)
            return [
                LimitResult(
                    bool(found[at]),
                    found[at + 1],
                    found[at + 2] / MICROSECONDS,
                    found[at + 3] / MICROSECONDS,
                )
                for at in range(0, len(found), 4)
            ]

        names = [PREFIX + key for key, _, _ in buckets]
        local = [(key, self._share(limit), window) for key, limit, window in buckets]
        return self._either(names, shared, lambda: self._memory.hit_all(local))

    def reserve(self, key: str, limit: int, window: int, amount: int, hold: str) -> float:
        """See Counts."""
        return self._either(
            _pair(key),
            lambda: (
                int(self._reserve(_pair(key), [limit, window * MICROSECONDS, amount, hold]))
                / MICROSECONDS
            ),
            lambda: self._memory.reserve(key, self._share(limit), window, amount, hold),
        )

    def settle(self, key: str, hold: str, amount: int) -> None:
        """See Counts."""
        self._memory.settle(key, hold, amount)  # a hold from while Redis was lost
        self._either(_pair(key), lambda: self._settle(_pair(key), [hold, amount]), lambda: None)

    def forget(self, key: str) -> None:
        """See Counts."""
        self._memory.forget(key)
        names = [PREFIX + key, *_pair(key)]
        self._either(names, lambda: self._redis.delete(*names), lambda: None)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._instances)

    def _either(self, names: Sequence[str], shared: Callable[[], T], local: Callable[[], T]) -> T:
        if not self.degraded:
            try:
                with rate_limiter_storage_seconds.time():
                    return shared()
            except redis.ResponseError as error:
                self._refused(names, error)
            except (redis.RedisError, OSError) as error:
                self._lost(error)
        return local()

    def _refused(self, names: Sequence[str], error: redis.ResponseError) -> None:
        """Redis answered with an error. Either a key is damaged, or the server cannot write
        (read-only, full): a write tells which.

        Damaged keys are deleted, so that the next request counts in Redis again.
        """
        try:
            self._probe()
            self._redis.delete(*names)
        except (redis.RedisError, OSError) as lost:
            self._lost(lost)
            return
        logger.warning("rate_limit_key_damaged", extra={"error_type": type(error).__name__})

    def _probe(self) -> None:
        # A write, because a replica or a full Redis answers PING but cannot count.
        self._redis.set(PREFIX + "probe", 1, px=1000)

    def _lost(self, error: Exception) -> None:
        with self._lock:
            if self.degraded:
                return
            self.degraded = True
        rate_limiter_degraded.set(1)
        logger.error(
            "rate_limiter_degraded",
            extra={
                "error": str(error),
                "instances": self._instances,
                "retry_seconds": RETRY_SECONDS,
            },
        )
        threading.Thread(target=self._retry_until_back, name="limits-redis", daemon=True).start()

    def _retry_until_back(self) -> None:
        while not self._closed.wait(RETRY_SECONDS):
            try:
                self._probe()
            except (redis.RedisError, OSError):
                continue
            rate_limiter_degraded.set(0)
            logger.info("rate_limiter_recovered")
            # Last: the metric of a loss that follows at once would be set to 0.
            self.degraded = False
            return

    # -- limits' interface, for flask-limiter
    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """The base class of what Redis's client raises."""
        return redis.RedisError

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(time.time() of the oldest hit in the window, number of hits)."""

        def shared() -> tuple[float, int]:
            age, count = self._peek([PREFIX + key], [expiry * MICROSECONDS])
            return time.time() - int(age) / MICROSECONDS, int(count)

        return self._either(
            [PREFIX + key],
            shared,
            lambda: self._memory.get_moving_window(key, self._share(limit), expiry),
        )

    def check(self) -> bool:
        """Whether Redis counts now."""
        return not self.degraded

    def reset(self) -> int | None:
        """Not offered: other instances count there too."""
        raise NotImplementedError


def _pair(key: str) -> list[str]:
    # The braces put both on the same node of a Redis cluster.
    return [f"{PREFIX}{{{key}}}:holds", f"{PREFIX}{{{key}}}:amounts"]
