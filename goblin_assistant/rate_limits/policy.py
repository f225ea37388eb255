"""How much a caller may do: requests and tokens per minute, failed logins.

web/rate_limits.py asks for each request, except those of the auth group: flask-limiter counts them,
on the same storage.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from limits import RateLimitItem, RateLimitItemPerMinute, parse_many

from goblin_assistant.errors import RateLimitExceeded
from goblin_assistant.metrics import rate_limit_rejections_total
from goblin_assistant.rate_limits.counts import ADDRESS_MARK, Counts, LimitResult

if TYPE_CHECKING:
    from goblin_assistant.accounts.users import Principal
    from goblin_assistant.config import Config

logger = logging.getLogger("goblin_assistant.limits")

MINUTE = 60

CHAT_ROUTES = frozenset(
    {"/chat/completions", "/v1/chat/completions", "/v1/messages", "/v1/embeddings"}
)
"""The routes of the chat group: those that call a provider."""

SCOPES: dict[str, tuple[str, ...]] = {
    "auth": ("ip",),
    "health": ("ip",),
    "general": ("ip", "user"),
    "chat": ("ip", "user", "key"),
    "tokens": ("key", "user"),
    "login": ("account",),
    "concurrency": ("key",),  # counted by routing/slots.py
}
"""The groups of limits, and what each can be counted by."""


@dataclass(frozen=True, slots=True)
class TokenHold:
    """Tokens taken from the limits per minute of a key and its user, until the real number is
    known."""

    buckets: tuple[str, ...]
    id: str
    amount: int


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit after a counted request, for the X-RateLimit-* headers. `reset_at` is in seconds
    since 1970."""

    limit: int
    remaining: int
    reset_at: int


class RateLimits:
    """Applies the configured limits on one storage. Shared by all threads."""

    def __init__(self, config: Config, storage: Counts) -> None:
        self.storage = storage
        self.enabled = config.ratelimit_enabled
        self._rules = {
            group: tuple(_Rule(item, group) for item in parse_many(text))
            for group, text in (
                ("chat", config.ratelimit_chat),
                ("health", config.ratelimit_health),
                ("general", config.ratelimit_default),
                ("login", config.ratelimit_login_account),
            )
        }
        self.chats_per_minute = min(
            rule.amount * MINUTE // rule.window for rule in self._rules["chat"]
        )
        """The largest limit of a key that does not exceed the instance's. It holds also while
        limits are off: a key made then must not exceed them when they are on again."""
        for group, scopes in SCOPES.items():
            for scope in scopes:
                rate_limit_rejections_total.labels(group, scope)

    def close(self) -> None:
        """Close the storage's connections."""
        self.storage.close()

    def check(self, group: str, principal: Principal | None, ip: str | None) -> LimitStatus | None:
        """Count one request of the chat, health or general group, by user and API key, or (without
        a principal) by address.

        A user's keys share the user's bucket, whose size an admin may have changed. A key's own
        requests per minute narrow that further; those above the instance's limit, which only an
        admin can give, count alone. Raises RateLimitExceeded. None when limits are off.
        """
        if not self.enabled:
            return None
        rules = self._rules[group]
        if principal is None:
            return self._count(rules, address_key(ip), "ip")
        if group == "chat":
            of_user = principal.user_limits.requests_per_minute
            of_key = principal.requests_per_minute if principal.key_id is not None else None
            if of_user is not None or of_key is not None:
                return self._count_own(principal, of_user, of_key)
        return self._count(rules, principal.user_label, "user")

    def _count_own(
        self, principal: Principal, of_user: int | None, of_key: int | None
    ) -> LimitStatus:
        """Count a chat of a caller with limits of their own, in the key's bucket and the user's."""
        key_rules = () if of_key is None else _own_rules(of_key)
        if of_key is not None and of_key > self.chats_per_minute:
            return self._count(key_rules, principal.shared_label, "key")
        rules = self._rules["chat"]
        if of_user is not None:
            own = _own_rules(of_user)
            if of_user > self.chats_per_minute:
                rules = own
            elif own[0].prefix not in {rule.prefix for rule in rules}:
                rules = (*rules, *own)
        return self._count_all(
            [
                *((rule, principal.shared_label, "key") for rule in key_rules),
                *((rule, principal.user_label, "user") for rule in rules),
            ]
        )

    def _count_all(self, counted: list[tuple[_Rule, str, str]]) -> LimitStatus:
        """Count a request in several buckets, as (rule, caller, scope), or in none of them."""
        results = self.storage.hit_all(
            [(rule.prefix + name, rule.amount, rule.window) for rule, name, _ in counted]
        )
        tightest = 0
        for at, result in enumerate(results):
            rule, _, scope = counted[at]
            if not result.allowed:
                raise self.refused(
                    rule.group, scope, rule.text, result.retry_after, status_of(rule.amount, result)
                )
            if result.remaining < results[tightest].remaining:
                tightest = at
        return status_of(counted[tightest][0].amount, results[tightest])

    def _count(self, rules: tuple[_Rule, ...], caller: str, scope: str) -> LimitStatus:
        status: LimitStatus | None = None
        for rule in rules:
            result = self.storage.hit(rule.prefix + caller, rule.amount, rule.window)
            if not result.allowed:
                raise self.refused(
                    rule.group, scope, rule.text, result.retry_after, status_of(rule.amount, result)
                )
            if status is None or result.remaining < status.remaining:
                status = status_of(rule.amount, result)
        assert status is not None
        return status

    def refused(
        self,
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

    def take_tokens(self, principal: Principal, amount: int) -> TokenHold | None:
        """Take the tokens that a chat may use from the limits of its key and its user; None when
        neither has such a limit.

        The estimates of all chats stay within each limit over any 60 seconds, on all instances that
        share a Redis. Raises RateLimitExceeded.
        """
        limits = [
            (scope, "tokens/" + label, limit)
            for scope, label, limit in (
                ("key", principal.shared_label, principal.tokens_per_minute),
                ("user", principal.user_label, principal.user_limits.tokens_per_minute),
            )
            if limit is not None
        ]
        if not limits:
            return None
        for scope, _, limit in limits:
            if amount > limit:
                raise self.refused(
                    "tokens",
                    scope,
                    f"{limit} tokens per 1 minute; this request may need {amount}",
                    MINUTE,
                )
        hold = TokenHold(tuple(bucket for _, bucket, _ in limits), os.urandom(8).hex(), amount)
        for at, (scope, bucket, limit) in enumerate(limits):
            wait = self.storage.reserve(bucket, limit, MINUTE, amount, hold.id)
            if wait > 0:
                for taken in hold.buckets[:at]:
                    self.storage.settle(taken, hold.id, 0)
                raise self.refused("tokens", scope, f"{limit} tokens per 1 minute", wait)
        return hold

    def settle_tokens(self, hold: TokenHold | None, actual: int) -> None:
        """Replace the estimate by the number of tokens used."""
        if hold is not None and actual != hold.amount:
            for bucket in hold.buckets:
                self.storage.settle(bucket, hold.id, max(0, actual))

    def login_attempt(self, email: str, ip: str | None = None) -> None:
        """Count a login before its password is checked. Raises RateLimitExceeded.

        Counting first makes the limit exact: of 32 attempts at once, none passes because the others
        have not failed yet. `login_succeeded` clears the count.
        """
        if not self.enabled:
            return
        account = account_key(email)
        try:
            self._count(self._rules["login"], account, "account")
        except RateLimitExceeded as refusal:
            logger.warning(
                "login_locked",
                extra={
                    "account": account,
                    "client": ip,
                    "retry_after": round(refusal.retry_after or 0.0, 1),
                },
            )
            raise

    def login_succeeded(self, email: str) -> None:
        """Forget earlier failures, because the right password was given."""
        if self.enabled:
            for rule in self._rules["login"]:
                self.storage.forget(rule.prefix + account_key(email))


class _Rule:
    """One limit of a group, with the texts and numbers that follow from it."""

    __slots__ = ("amount", "group", "prefix", "text", "window")

    def __init__(self, item: RateLimitItem, group: str) -> None:
        self.group = group
        self.amount = item.amount
        self.window = item.get_expiry()
        self.text = str(item)
        self.prefix = f"{group}/{self.amount}/{self.window}/"


@lru_cache(maxsize=1024)
def _own_rules(per_minute: int) -> tuple[_Rule, ...]:
    return (_Rule(RateLimitItemPerMinute(per_minute), "chat"),)


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


def address_key(ip: str | None) -> str:
    """`ip:1.2.3.4`. IPv6 counts by /64, because one customer can use any address in it."""
    if ip is None:
        return ADDRESS_MARK + "unknown"
    return ADDRESS_MARK + ip if ":" not in ip else _ipv6_key(ip)


@lru_cache(maxsize=4096)
def _ipv6_key(ip: str) -> str:
    try:
        address = IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ADDRESS_MARK + ip[:64]
    if address.ipv4_mapped is not None:
        return ADDRESS_MARK + str(address.ipv4_mapped)
    network = IPv6Address(int(address) >> 64 << 64)
    return f"{ADDRESS_MARK}{network}/64"


def account_key(email: str) -> str:
    """A hash of the address: these keys are visible in Redis and in the log."""
    return (
        "account:"
        + hashlib.sha256(email.strip().lower().encode("utf-8", "replace")).hexdigest()[:16]
    )
