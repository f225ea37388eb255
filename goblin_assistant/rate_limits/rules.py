"""One limit, and counting a request against some of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from limits import RateLimitItem

from goblin_assistant.errors import RateLimitExceeded
from goblin_assistant.metrics import rate_limit_rejections_total
from goblin_assistant.rate_limits.counts import Counts, LimitResult


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit after a counted request, for the X-RateLimit-* headers. `reset_at` is in seconds
    since 1970."""

    limit: int
    remaining: int
    reset_at: int


class Rule:
    """One limit of a group, with the texts and numbers that follow from it."""

    __slots__ = ("amount", "group", "prefix", "text", "window")

    def __init__(self, item: RateLimitItem, group: str) -> None:
        self.group = group
        self.amount = item.amount
        self.window = item.get_expiry()
        self.text = str(item)
        self.prefix = f"{group}/{self.amount}/{self.window}/"


def count(storage: Counts, rules: Sequence[Rule], caller: str, scope: str) -> LimitStatus:
    """Count a request of one caller. Returns the status of the tightest limit; raises
    RateLimitExceeded."""
    status: LimitStatus | None = None
    for rule in rules:
        result = storage.hit(rule.prefix + caller, rule.amount, rule.window)
        if not result.allowed:
            raise refused(
                rule.group, scope, rule.text, result.retry_after, status_of(rule.amount, result)
            )
        if status is None or result.remaining < status.remaining:
            status = status_of(rule.amount, result)
    assert status is not None
    return status


def count_all(storage: Counts, counted: Sequence[tuple[Rule, str, str]]) -> LimitStatus:
    """Count a request in several buckets, as (rule, caller, scope), or in none of them."""
    results = storage.hit_all(
        [(rule.prefix + name, rule.amount, rule.window) for rule, name, _ in counted]
    )
    tightest = 0
    for at, result in enumerate(results):
        rule, _, scope = counted[at]
        if not result.allowed:
            raise refused(
                rule.group, scope, rule.text, result.retry_after, status_of(rule.amount, result)
            )
        if result.remaining < results[tightest].remaining:
            tightest = at
    return status_of(counted[tightest][0].amount, results[tightest])


def refused(
    group: str,
    scope: str,
    text: str,
    retry_after: float,
    status: LimitStatus | None = None,
) -> RateLimitExceeded:
    """The error for a limit that is reached; counts it. `text` is like "10 per 1 minute"."""
    rate_limit_rejections_total.labels(group, scope).inc()
    headers = {} if status is None else headers_of(status)
    return RateLimitExceeded(
        f"Rate limit exceeded: {text}",
        retry_after=retry_after,
        reason=f"{group}_{scope}",
        headers=headers,
    )


def status_of(limit: int, result: LimitResult) -> LimitStatus:
    """The status that follows from one count."""
    return LimitStatus(limit, result.remaining, int(time.time() + result.reset_after) + 1)


def headers_of(status: LimitStatus) -> dict[str, str]:
    """The X-RateLimit-* headers, named as flask-limiter does; Reset is in seconds since 1970."""
    return {
        "X-RateLimit-Limit": str(status.limit),
        "X-RateLimit-Remaining": str(status.remaining),
        "X-RateLimit-Reset": str(status.reset_at),
    }
