"""Tests that the key's request limit is exact over all instances."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import requests

from goblin_assistant.commands.prove.deployment import KEY_COMMAND, Deployment, at_once
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen

PROMISE = "A key's limit on requests is exact, over all instances"
CALLERS = 16
MOST = 600
_MARGIN_SECONDS = 15.0
"""The burst must end before the oldest counted request leaves the window."""
_WINDOW_SECONDS = 61.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Window:
    """What the headers say after a request. `fresh_until` is on time.monotonic()'s clock: until
    then no counted request leaves the window."""

    limit: int
    remaining: int
    fresh_until: float


def limits(deployment: Deployment) -> Seen:
    """Send more requests than remain, all at once. Exactly as many as remained may pass.

    The window slides: a minute after a request, there is room for another. So the burst starts when
    no counted request is about to leave the window. A burst that took too long is repeated.
    """
    for _ in range(_TRIES):
        window = _fresh_window(deployment)
        extra = max(10, window.remaining // 5)
        began = time.monotonic()
        statuses = _burst(deployment, window.remaining + extra)
        ended = time.monotonic()
        admitted, refused = statuses["200"], statuses["429"]
        text = (
            f"{window.remaining} of {window.limit} a minute remained; of "
            f"{window.remaining + extra} requests within {ended - began:.1f} s {admitted} were "
            f"admitted and {refused} refused"
        )
        if admitted + refused != window.remaining + extra:
            raise Broken(f"{text}; by status: {dict(statuses)}")
        if admitted == window.remaining:
            return Seen(
                text, {"limit": window.limit, "remained": window.remaining, "admitted": admitted}
            )
        if ended < window.fresh_until:
            raise Broken(
                f"{text}: do all instances have the same REDIS_URL, and is Redis up? "
                "(rate_limiter_degraded)"
            )
    raise NotTried(f"{text}, but that took so long that earlier requests left the window")


def _burst(deployment: Deployment, count: int) -> Counter[str]:
    """Send `count` requests; return the number of answers by status."""
    each, more = divmod(count, CALLERS)

    def caller(number: int) -> Counter[str]:
        found: Counter[str] = Counter()
        with deployment.session() as session:
            for _ in range(each + (number < more)):
                answer = deployment.post(session, max_tokens=1)
                if answer.status_code == 429 and "Retry-After" not in answer.headers:
                    raise Broken("a 429 came without Retry-After")
                found[str(answer.status_code)] += 1
        return found

    return sum(at_once(CALLERS, caller), Counter())


def _fresh_window(deployment: Deployment) -> _Window:
    """The window, if enough of the limit is free and no request is about to leave it. Otherwise
    waits for a whole window before it looks again, because each look is counted too."""
    for _ in range(_TRIES):
        with deployment.session() as session:
            answer = deployment.post(session, max_tokens=1)
        if answer.status_code != 429:
            window = _window_of(deployment.good(answer))
            fresh = window.fresh_until - time.monotonic()
            if window.remaining >= window.limit // 4 and fresh > _MARGIN_SECONDS:
                return window
        time.sleep(_WINDOW_SECONDS)
    raise NotTried(f"somebody else uses the key: make one of its own with: {KEY_COMMAND}")


def _window_of(answer: requests.Response) -> _Window:
    now = time.monotonic()
    try:
        limit, remaining, reset = (
            int(answer.headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset")
        )
        # The server's clock, because this machine's may differ.
        clock = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        raise NotTried(
            "chats carry no X-RateLimit-* headers: limits are off (RATELIMIT_ENABLED), or the "
            "proxy drops them"
        ) from None
    if limit > MOST:
        raise NotTried(
            f"the limit is {limit} a minute, more than {MOST}: make a key with: {KEY_COMMAND}"
        )
    # Reset and Date are each rounded by up to a second.
    return _Window(limit, remaining, now + reset - clock - 2)
