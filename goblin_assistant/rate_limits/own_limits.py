"""Enforces the limits of its own that an API key or a user has: requests and tokens per minute.

database/key_limits.py defines them. The key's concurrency is enforced in routing/slots.py, its
monthly budget in usage/budgets.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute

from goblin_assistant.rate_limits.counts import Counts
from goblin_assistant.rate_limits.rules import LimitStatus, Rule, count, count_all, refused

if TYPE_CHECKING:
    from goblin_assistant.accounts.principals import Principal

MINUTE = 60


@dataclass(frozen=True, slots=True)
class TokenHold:
    """Tokens taken from the limits per minute of a key and its user, until the real number is
    known."""

    buckets: tuple[str, ...]
    id: str
    amount: int


class OwnLimits:
    """Applies the limits of keys and users on one storage. Shared by all threads."""

    def __init__(self, storage: Counts, instance_rules: tuple[Rule, ...]) -> None:
        """`instance_rules` are the instance's limits on chats."""
        self._storage = storage
        self._instance_rules = instance_rules
        self.chats_per_minute = min(rule.amount * MINUTE // rule.window for rule in instance_rules)
        """The largest limit of a key that does not exceed the instance's. It holds also while
        limits are off: a key made then must not exceed them when they are on again."""

    def count_chat(self, principal: Principal) -> LimitStatus | None:
        """Count a chat in the key's bucket and the user's; None when neither has such a limit.

        A key's own limit narrows the user's, which an admin may have changed. One above the
        instance's, which only an admin can give, counts alone. Raises RateLimitExceeded.
        """
        of_user = principal.user_limits.requests_per_minute
        of_key = principal.requests_per_minute if principal.key_id is not None else None
        if of_user is None and of_key is None:
            return None
        key_rules = () if of_key is None else _own_rules(of_key)
        if of_key is not None and of_key > self.chats_per_minute:
            return count(self._storage, key_rules, principal.shared_label, "key")
        rules = self._instance_rules
        if of_user is not None:
            own = _own_rules(of_user)
            if of_user > self.chats_per_minute:
                rules = own
            elif own[0].prefix not in {rule.prefix for rule in rules}:
                rules = (*rules, *own)
        return count_all(
            self._storage,
            [
                *((rule, principal.shared_label, "key") for rule in key_rules),
                *((rule, principal.user_label, "user") for rule in rules),
            ],
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
                raise refused(
                    "tokens",
                    scope,
                    f"{limit} tokens per 1 minute; this request may need {amount}",
                    MINUTE,
                )
        # Not from os.urandom: it releases the GIL, and the id is no secret.
        hold_id = f"{random.getrandbits(64):016x}"
        hold = TokenHold(tuple(bucket for _, bucket, _ in limits), hold_id, amount)
        for at, (scope, bucket, limit) in enumerate(limits):
            wait = self._storage.reserve(bucket, limit, MINUTE, amount, hold.id)
            if wait > 0:
                for taken in hold.buckets[:at]:
                    self._storage.settle(taken, hold.id, 0)
                raise refused("tokens", scope, f"{limit} tokens per 1 minute", wait)
        return hold

    def settle_tokens(self, hold: TokenHold | None, actual: int) -> None:
        """Replace the estimate by the number of tokens used."""
        if hold is not None and actual != hold.amount:
            for bucket in hold.buckets:
                self._storage.settle(bucket, hold.id, max(0, actual))


@lru_cache(maxsize=1024)
def _own_rules(per_minute: int) -> tuple[Rule, ...]:
    return (Rule(RateLimitItemPerMinute(per_minute), "chat"),)
