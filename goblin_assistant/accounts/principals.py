"""Who a request comes from, read from the database with every request.

So a revoked key, a disabled user or a changed limit counts from the next request on, on every
instance. While the database is unavailable, a caller seen within the last minute may go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Engine, bindparam, select

from goblin_assistant.accounts.lookup import UNAVAILABLE, Lookup
from goblin_assistant.accounts.tokens import Claims, digest
from goblin_assistant.database.key_limits import (
    KEY_LIMITS,
    USER_LIMITS,
    KeyLimits,
    UserLimits,
    limit_values,
)
from goblin_assistant.database.models import api_keys, now_ms, users
from goblin_assistant.errors import AuthFailure, Unauthorized, Unavailable
from goblin_assistant.metrics import auth_failures_total

STALE_SECONDS = 60.0
MAX_SEEN = 20_000
SCOPES = frozenset({"chat", "embeddings", "admin"})
_USER_SCOPES = frozenset({"chat", "embeddings"})
_NO_LIMITS = UserLimits()
_OF_USER = "user_"
"""Stands before the user's limits in a row that has the key's as well."""


@dataclass(frozen=True, slots=True)
class Principal(KeyLimits):
    """An authenticated caller: a user with an access token, or an API key of a user.

    `settings` are the user's chat defaults: model, temperature, max_tokens, system_prompt.
    """

    user_id: int
    role: str
    key_id: int | None = None
    scopes: frozenset[str] = _USER_SCOPES
    allowed_models: frozenset[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """The caller's name in logs: `key:7` or `user:3`."""
    budget_key_id: int | None = None
    """The first key of a chain of rotations, whose limits all share. None: this one."""
    user_limits: UserLimits = _NO_LIMITS
    """What an admin has set for the user: for access tokens and all keys together."""

    @property
    def user_label(self) -> str:
        """The name of the user's bucket in limits. All keys of the user share it."""
        return f"user:{self.user_id}"

    @property
    def shared_label(self) -> str:
        """The name of the caller's bucket in limits, shared by a key and its successors."""
        return f"key:{self.budget_key_id}" if self.budget_key_id is not None else self.label

    @property
    def smallest_tokens_per_minute(self) -> int | None:
        """The tighter of the key's and the user's tokens a minute; None: there is no limit."""
        own, of_user = self.tokens_per_minute, self.user_limits.tokens_per_minute
        if own is None or of_user is None:
            return of_user if own is None else own
        return min(own, of_user)

    @property
    def is_admin(self) -> bool:
        """Whether admin routes are open to the caller."""
        return self.role == "admin" and "admin" in self.scopes


@dataclass(slots=True)
class _Seen:
    """A caller as last read from the database."""

    principal: Principal
    row: Any
    expires_at: int | None = None
    """Of a key, in ms since 1970."""
    until: float = 0.0
    """How long the caller may go on without the database, on the monotonic clock."""


class PrincipalStore:
    """Principals of access tokens and API keys. Shared by all threads."""

    def __init__(self, engine: Engine) -> None:
        given: Any = bindparam("given")
        user, key = users.c, api_keys.c
        of_user = [user[limit.name].label(_OF_USER + limit.name) for limit in USER_LIMITS]
        self._user = Lookup(
            engine,
            select(
                *(user.role, user.settings, user.token_version, user.disabled_at),
                *of_user,
            ).where(user.id == given),
        )
        self._key = Lookup(
            engine,
            select(
                *(key.id, key.user_id, key.scopes, key.allowed_models),
                *(key.expires_at, key.revoked_at, key.budget_key_id),
                *(key[limit.name] for limit in KEY_LIMITS),
                *(user.role, user.settings, user.disabled_at),
                *of_user,
            )
            .select_from(api_keys.join(users, user.id == key.user_id))
            .where(key.key_hash == given),
        )
        # When _seen is full it replaces _older: bounded memory without a scan.
        self._seen: dict[str, _Seen] = {}
        self._older: dict[str, _Seen] = {}
        self._used: dict[int, int] = {}
        for reason in AuthFailure:
            auth_failures_total.labels(reason)

    def of_token(self, claims: Claims) -> Principal:
        """The user of an access token. Raises Unauthorized, or Unavailable without a database."""
        name = f"user:{claims.user_id}:{claims.token_version}"
        try:
            found = self._user.first(claims.user_id)
        except Unavailable:
            return self._recent(name)
        known = self._seen.get(name)
        if known is None or known.row != found:
            known = self._remember(name, _Seen(self._judge_user(found, claims), found))
        known.until = time.monotonic() + STALE_SECONDS
        return known.principal

    def of_key(self, key: str) -> Principal:
        """The API key's principal. Raises Unauthorized, or Unavailable without a database."""
        name = digest(key)
        try:
            found = self._key.first(name)
        except Unavailable:
            return self._recent(name)
        now = now_ms()
        known = self._seen.get(name)
        if known is None or known.row != found or _is_over(known.expires_at, now):
            known = self._remember(name, self._judge_key(found, now))
        principal = known.principal
        assert principal.key_id is not None
        self._used[principal.key_id] = now
        left = STALE_SECONDS
        if known.expires_at is not None:
            left = min(left, (known.expires_at - now) / 1000)
        known.until = time.monotonic() + left
        return principal

    def _judge_user(self, found: Any, claims: Claims) -> Principal:
        row = None if found is None else self._user.named(found)
        if row is None or row.token_version != claims.token_version:
            raise Unauthorized(
                "the access token is no longer valid; log in again", reason=AuthFailure.BAD_TOKEN
            )
        if row.disabled_at is not None:
            raise Unauthorized("the account is disabled", reason=AuthFailure.DISABLED)
        return Principal(
            user_id=claims.user_id,
            role=row.role,
            scopes=SCOPES if row.role == "admin" else _USER_SCOPES,
            settings=_json(row.settings) or {},
            label=f"user:{claims.user_id}",
            user_limits=_user_limits(row),
        )

    def _judge_key(self, found: Any, now: int) -> _Seen:
        if found is None:
            raise Unauthorized("the API key is not valid", reason=AuthFailure.BAD_KEY)
        row = self._key.named(found)
        if row.revoked_at is not None:
            raise Unauthorized("the API key has been revoked", reason=AuthFailure.REVOKED_KEY)
        if _is_over(row.expires_at, now):
            raise Unauthorized("the API key has expired", reason=AuthFailure.EXPIRED_KEY)
        if row.disabled_at is not None:
            raise Unauthorized("the account is disabled", reason=AuthFailure.DISABLED)
        allowed = _json(row.allowed_models)
        principal = Principal(
            user_id=row.user_id,
            role=row.role,
            key_id=row.id,
            scopes=frozenset(_json(row.scopes)),
            allowed_models=None if allowed is None else frozenset(allowed),
            settings=_json(row.settings) or {},
            label=f"key:{row.id}",
            budget_key_id=row.budget_key_id,
            user_limits=_user_limits(row),
            **limit_values(row),
        )
        return _Seen(principal, found, row.expires_at)

    def warm(self) -> None:
        """Open the connections that are kept."""
        self._user.warm()
        self._key.warm()

    def close(self) -> None:
        """Close kept connections."""
        self._user.close()
        self._key.close()

    def take_used(self) -> dict[int, int]:
        """Key id -> when it was last used, since the last call."""
        used, self._used = self._used, {}
        return used

    def put_back_used(self, used: dict[int, int]) -> None:
        """Take back what could not be written. Later uses win."""
        self._used = {**used, **self._used}

    def any_recent(self) -> bool:
        """Whether a caller may go on without the database."""
        now = time.monotonic()
        seen = list(self._seen.values()) + list(self._older.values())
        return any(entry.until >= now for entry in seen)

    def _remember(self, name: str, seen: _Seen) -> _Seen:
        if len(self._seen) >= MAX_SEEN:
            self._older, self._seen = self._seen, {}
        self._seen[name] = seen
        return seen

    def _recent(self, name: str) -> Principal:
        entry = self._seen.get(name) or self._older.get(name)
        if entry is None or entry.until < time.monotonic():
            raise Unavailable(UNAVAILABLE, retry_after=2)
        return entry.principal


def _user_limits(row: Any) -> UserLimits:
    return UserLimits(**limit_values(row, USER_LIMITS, _OF_USER))


def _is_over(expires_at: int | None, now: int) -> bool:
    return expires_at is not None and expires_at <= now


def _json(value: Any) -> Any:
    # SQLite gives text, psycopg the parsed value.
    return orjson.loads(value) if isinstance(value, (str, bytes)) else value
