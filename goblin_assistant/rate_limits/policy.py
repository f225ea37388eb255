"""The instance's limits: requests by group, user and address, and failed logins.

web/rate_limits.py asks for each request, except those of the auth group: flask-limiter counts them,
on the same storage. Limits of an API key or a user are in own_limits.py.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from limits import parse_many

from goblin_assistant.errors import RateLimitExceeded
from goblin_assistant.metrics import rate_limit_rejections_total
from goblin_assistant.rate_limits.counts import ADDRESS_MARK, Counts
from goblin_assistant.rate_limits.own_limits import OwnLimits
from goblin_assistant.rate_limits.rules import LimitStatus, Rule, count

if TYPE_CHECKING:
    from goblin_assistant.accounts.users import Principal
    from goblin_assistant.config import Config

logger = logging.getLogger("goblin_assistant.limits")

AUTH_ROUTES = frozenset(
    f"/auth/{name}" for name in ("register", "login", "refresh", "logout", "password")
)
"""The routes of the auth group: those that take a password or a refresh token."""

CHAT_ROUTES = frozenset(
    {
        "/chat/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages",
        "/v1/embeddings",
    }
)  # fmt: skip
"""The routes of the chat group: those that call a provider, and cost."""

COUNT_ROUTE = "/v1/messages/count_tokens"
"""Takes a chat's body and calls a provider, but costs nothing: it is of the general group."""

PROVIDER_ROUTES = CHAT_ROUTES | {COUNT_ROUTE}
"""The routes that take a chat's body and call a provider."""

SCOPES: dict[str, tuple[str, ...]] = {
    "auth": ("ip",),
    "health": ("ip",),
    "general": ("ip", "user", "session"),
    "chat": ("ip", "user", "key"),
    "tokens": ("key", "user"),
    "login": ("account",),
    "concurrency": ("key",),  # counted by routing/slots.py
}
"""The groups of limits, and what each can be counted by."""


class RateLimits:
    """Applies the configured limits on one storage. Shared by all threads."""

    def __init__(self, config: Config, storage: Counts) -> None:
        self.storage = storage
        self.enabled = config.ratelimit_enabled
        self.use(config)
        for group, scopes in SCOPES.items():
            for scope in scopes:
                rate_limit_rejections_total.labels(group, scope)

    def use(self, config: Config) -> None:
        """Apply these limits from the next request on. One that is new counts from 0."""
        rules = {
            group: tuple(Rule(item, group) for item in parse_many(text))
            for group, text in (
                ("chat", config.ratelimit_chat),
                ("health", config.ratelimit_health),
                ("general", config.ratelimit_default),
                ("login", config.ratelimit_login_account),
            )
        }
        self.own = OwnLimits(self.storage, rules["chat"])
        """The limits of API keys and users. Their tokens count also while `enabled` is false."""
        self.auth = config.ratelimit_auth
        """The limit of the auth group, which flask-limiter counts."""
        self._rules = rules

    def close(self) -> None:
        """Close the storage's connections."""
        self.storage.close()

    def check(self, group: str, principal: Principal | None, ip: str | None) -> LimitStatus | None:
        """Count one request of the chat, health or general group, by user and API key, or (without
        a principal) by address.

        A user's keys share the user's bucket. A chat counts by the limits of key and user, where
        they have some. Raises RateLimitExceeded. None when limits are off.
        """
        if not self.enabled:
            return None
        rules = self._rules[group]
        if principal is None:
            return count(self.storage, rules, address_key(ip), "ip")
        if group == "chat":
            status = self.own.count_chat(principal)
            if status is not None:
                return status
        return count(self.storage, rules, principal.user_label, "user")

    def check_session(self, session: str | None, ip: str | None) -> LimitStatus | None:
        """Count a request with the page's cookie by its session; without a good cookie, by address.

        Many people behind one address renew their sessions. Raises RateLimitExceeded.
        """
        if not self.enabled:
            return None
        rules = self._rules["general"]
        if session is None:
            return count(self.storage, rules, address_key(ip), "ip")
        return count(self.storage, rules, f"session:{session}", "session")

    def login_attempt(self, email: str, ip: str | None = None) -> None:
        """Count a login before its password is checked. Raises RateLimitExceeded.

        Counting first makes the limit exact: of 32 attempts at once, none passes because the others
        have not failed yet. `login_succeeded` clears the count.
        """
        if not self.enabled:
            return
        account = account_key(email)
        try:
            count(self.storage, self._rules["login"], account, "account")
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
