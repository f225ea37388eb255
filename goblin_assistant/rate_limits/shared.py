"""Limits counted in Redis, shared by all instances, with this process's memory to fall back on.

The scripts run inside Redis, so each count is atomic, and on Redis' clock, so instances with different clocks agree.
Keys say what they hold (`goblin:mw1:` is a moving window, version 1), so that a release that counts otherwise never
meets them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from limits.storage import MovingWindowSupport, Storage
from redis.backoff import NoBackoff
from redis.retry import Retry

from goblin_assistant.metrics import rate_limiter_degraded
from goblin_assistant.rate_limits.memory import Bucket, LimitResult, MemoryStorage

logger = logging.getLogger("goblin_assistant.limits")

RETRY_SECONDS = 2.0
"""How often a lost Redis is tried again, by a thread of its own: no request waits for it."""

TIMEOUT_SECONDS = 0.3
PREFIX = "goblin:mw1:"
MICROSECONDS = 1_000_000

T = TypeVar("T")

# A list of microseconds, oldest first, on Redis' own clock. KEYS: list. ARGV: limit, window (us), amount.
# Answers allowed, remaining, reset_after (us), retry_after (us).
_HIT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
while oldest and oldest <= now - window do
  redis.call('LPOP', KEYS[1])
  oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
end
local used = redis.call('LLEN', KEYS[1])
if used + amount > limit then
  local last = tonumber(redis.call('LINDEX', KEYS[1], math.min(used + amount - limit, used) - 1))
  local wait = last and (last + window - now) or window
  return {0, math.max(0, limit - used), oldest and (oldest + window - now) or 0, wait}
end
for _ = 1, amount do redis.call('RPUSH', KEYS[1], string.format('%.0f', now)) end
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return {1, limit - used - amount, (oldest or now) + window - now, 0}
"""

# KEYS: lists. ARGV: limit and window (us) of each. Counts one in each if it fits into all, else in
# none. Answers four numbers for each, as above; the last is the one that it does not fit into.
_HIT_ALL = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local oldest = tonumber(redis.call('LINDEX', key, 0))
  while oldest and oldest <= now - window do
    redis.call('LPOP', key)
    oldest = tonumber(redis.call('LINDEX', key, 0))
  end
  local used = redis.call('LLEN', key)
  local reset = (oldest or now) + window - now
  if used >= limit then
    local last = tonumber(redis.call('LINDEX', key, used - limit))
    for _, value in ipairs({0, 0, reset, last and (last + window - now) or window}) do
      answer[#answer + 1] = value
    end
    return answer
  end
  for _, value in ipairs({1, limit - used - 1, reset, 0}) do answer[#answer + 1] = value end
end
for i, key in ipairs(KEYS) do
  redis.call('RPUSH', key, string.format('%.0f', now))
  redis.call('PEXPIRE', key, math.ceil(tonumber(ARGV[2 * i]) / 1000))
end
return answer
"""

# KEYS: list. ARGV: window (us). Answers age of the oldest hit (us), number of hits.
_PEEK = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
while oldest and oldest <= now - tonumber(ARGV[1]) do
  redis.call('LPOP', KEYS[1])
  oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
end
return {oldest and (now - oldest) or 0, redis.call('LLEN', KEYS[1])}
"""

# KEYS: sorted set hold -> time, hash hold -> amount with the total under ''. ARGV: limit, window (us), amount, hold.
# Answers 0, or the wait in us.
_RESERVE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- One of the two was evicted: without the other it would count holds that never end, or none.
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 1 then redis.call('DEL', KEYS[1], KEYS[2]) end
for _, hold in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))) do
  redis.call('HINCRBY', KEYS[2], '', -tonumber(redis.call('HGET', KEYS[2], hold) or '0'))
  redis.call('HDEL', KEYS[2], hold)
  redis.call('ZREM', KEYS[1], hold)
end
local total = tonumber(redis.call('HGET', KEYS[2], '') or '0')
local excess = total + amount - limit
if excess > 0 then
  local held = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
  for i = 1, #held, 2 do
    excess = excess - tonumber(redis.call('HGET', KEYS[2], held[i]) or '0')
    if excess <= 0 then return math.max(1, tonumber(held[i + 1]) + window - now) end
  end
  return window
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[4])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[3])
redis.call('HINCRBY', KEYS[2], '', ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
redis.call('PEXPIRE', KEYS[2], math.ceil(window / 1000))
return 0
"""

# KEYS: as above. ARGV: hold, amount.
_SETTLE = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  redis.call('HINCRBY', KEYS[2], '', tonumber(ARGV[2]) - tonumber(held))
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return 0
"""


class SharedStorage(Storage, MovingWindowSupport):
    """Redis, or memory at `limit / instances` while Redis does not answer. `uri` is Redis' with `goblin+` in front."""

    STORAGE_SCHEME = ["goblin+redis", "goblin+rediss", "goblin+redis+unix", "goblin+unix"]

    def __init__(
        self, uri: str, wrap_exceptions: bool = False, instances: int = 1, **_: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._instances = instances
        self._memory = MemoryStorage()
        self._redis = redis.Redis.from_url(
            uri.removeprefix("goblin+").replace("redis+unix://", "unix://"),
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            protocol=2,  # version 3 only adds a handshake, and notices of a cluster's maintenance that nobody reads
            # Once more for a connection that the server closed while it idled; never for a timeout, which would double
            # the wait.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._hit = self._redis.register_script(_HIT)
        self._hit_all = self._redis.register_script(_HIT_ALL)
        self._peek = self._redis.register_script(_PEEK)
        self._reserve = self._redis.register_script(_RESERVE)
        self._settle = self._redis.register_script(_SETTLE)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.degraded = False
        rate_limiter_degraded.set(0)

    def close(self) -> None:
        """End the connections, and the thread that waits for Redis."""
        self._closed.set()
        self._redis.close()

    def hit(self, key: str, limit: int, window: int, amount: int = 1) -> LimitResult:
        """See limit_storage.Counts."""

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
        """See limit_storage.Counts."""

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
        """See limit_storage.Counts."""
        return self._either(
            _pair(key),
            lambda: (
                int(self._reserve(_pair(key), [limit, window * MICROSECONDS, amount, hold]))
                / MICROSECONDS
            ),
            lambda: self._memory.reserve(key, self._share(limit), window, amount, hold),
        )

    def settle(self, key: str, hold: str, amount: int) -> None:
        """See limit_storage.Counts."""
        self._memory.settle(key, hold, amount)  # taken while Redis was away
        self._either(_pair(key), lambda: self._settle(_pair(key), [hold, amount]), lambda: None)

    def forget(self, key: str) -> None:
        """See limit_storage.Counts."""
        self._memory.forget(key)
        names = [PREFIX + key, *_pair(key)]
        self._either(names, lambda: self._redis.delete(*names), lambda: None)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._instances)

    def _either(self, names: Sequence[str], shared: Callable[[], T], local: Callable[[], T]) -> T:
        if not self.degraded:
            try:
                return shared()
            except redis.ResponseError as error:
                self._refused(names, error)
            except (redis.RedisError, OSError) as error:
                self._lost(error)
        return local()

    def _refused(self, names: Sequence[str], error: redis.ResponseError) -> None:
        """An error as an answer is a damaged key's or the server's (read-only, full): writing tells them apart.

        The damaged keys go, so that the next request counts in Redis again.
        """
        try:
            self._probe()
            self._redis.delete(*names)
        except (redis.RedisError, OSError) as lost:
            self._lost(lost)
            return
        logger.warning("rate_limit_key_damaged", extra={"error_type": type(error).__name__})

    def _probe(self) -> None:
        # A write: a replica or a full Redis answers PING and still cannot count.
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
        threading.Thread(target=self._return, name="limits-redis", daemon=True).start()

    def _return(self) -> None:
        while not self._closed.wait(RETRY_SECONDS):
            try:
                self._probe()
            except (redis.RedisError, OSError):
                continue
            self.degraded = False
            rate_limiter_degraded.set(0)
            logger.info("rate_limiter_recovered")
            return

    # -- limits' interface, for flask-limiter
    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What Redis raises."""
        return redis.RedisError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether `amount` hits fit."""
        return self.hit(key, limit, expiry, amount).allowed

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(time of the oldest hit in the window on time.time()'s clock, number of hits)."""

        def shared() -> tuple[float, int]:
            age, count = self._peek([PREFIX + key], [expiry * MICROSECONDS])
            return time.time() - int(age) / MICROSECONDS, int(count)

        return self._either(
            [PREFIX + key],
            shared,
            lambda: self._memory.get_moving_window(key, self._share(limit), expiry),
        )

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
        """Whether counts are shared now."""
        return not self.degraded

    def clear(self, key: str) -> None:
        """As `forget`."""
        self.forget(key)

    def reset(self) -> int | None:
        """Not offered: other instances count there too."""
        raise NotImplementedError


def _pair(key: str) -> list[str]:
    # The braces keep both on one node of a cluster.
    return [f"{PREFIX}{{{key}}}:holds", f"{PREFIX}{{{key}}}:amounts"]
