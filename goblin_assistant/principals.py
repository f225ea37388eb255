"""Who a request comes from, read from the database with every request.

One prepared SELECT per request, straight on the driver: a revoked key, a disabled user or a changed limit counts from the next request on, on every
instance, and that costs less than 100 us. When the database is away, a caller seen within the last minute is let through: nobody could have
been revoked meanwhile. It is then asked again once a second, and not by every request: connecting to a host that is gone takes seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Engine, PoolProxiedConnection, Select, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.errors import Unauthorized, Unavailable
from goblin_assistant.metrics import auth_failures_total
from goblin_assistant.models import api_keys, now_ms, users
from goblin_assistant.tokens import Claims, digest

STALE_SECONDS = 60.0
KEPT_CONNECTIONS = 2
"""Of each query. A checkout costs four times the SELECT (with PostgreSQL a round trip, its ping), and few threads are
inside at once."""
AWAY_SECONDS = 1.0
MAX_SEEN = 20_000
SCOPES = frozenset({"chat", "embeddings", "admin"})
_USER_SCOPES = frozenset({"chat", "embeddings"})

FAILURES = (
    "bad_credentials", "bad_token", "expired_token", "disabled", "bad_key", "revoked_key", "expired_key",
    "refresh_unknown", "refresh_expired", "refresh_reused", "bad_metrics_token",
)  # fmt: skip
"""Values of auth_failures_total's label."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: a user by access token, or an API key of a user. Limits that are None are the instance's.

    `settings` are the user's chat defaults: model, temperature, max_tokens, system_prompt. `monthly_budget_microusd` is in micro-dollars.
    """

    user_id: int
    role: str
    key_id: int | None = None
    scopes: frozenset[str] = _USER_SCOPES
    allowed_models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    monthly_budget_microusd: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """`key:7` or `user:3`: what logs and limits call the caller."""

    @property
    def is_admin(self) -> bool:
        """Whether admin routes are open to the caller."""
        return self.role == "admin" and "admin" in self.scopes


_AWAY = "the database is away; try again shortly"


class _Query:
    """One SELECT, compiled once, for one row."""

    def __init__(self, engine: Engine, statement: Select[*tuple[Any, ...]]) -> None:
        self._engine = engine
        self._away_until = 0.0
        # A file answers within microseconds: queueing for it costs less than a connection more, and 100 KB less memory.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        self._idle: deque[tuple[PoolProxiedConnection, Any]] = deque()  # each with its cursor
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        names = compiled.positiontup
        self._positional = names is not None
        # Without a transaction around it PostgreSQL answers in one round trip instead of three.
        self._autocommit = engine.dialect.name == "postgresql"
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error)  # type: ignore[attr-defined]

    def first(self, value: Any) -> Any:
        """The row as a tuple, or None. Raises Unavailable."""
        if self._away_until and time.monotonic() < self._away_until:
            raise Unavailable(_AWAY, retry_after=2)
        try:
            with self._turn:
                return self._first(value)
        except self._errors as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise Unavailable(_AWAY, retry_after=2) from error

    def _first(self, value: Any) -> Any:
        try:
            return self._ask(*self._idle.pop(), value)
        except IndexError:
            pass
        except self._errors:
            # One that was kept has died meanwhile; so have the others. A new one is asked before anything is said.
            with contextlib.suppress(IndexError):  # until none is left; other threads take some too
                while True:
                    self._idle.pop()[0].invalidate()
        return self._ask(*self._connect(), value)

    def _connect(self) -> tuple[PoolProxiedConnection, Any]:
        connection = self._engine.raw_connection()
        if self._autocommit:
            connection.driver_connection.autocommit = True  # type: ignore[union-attr]
        return connection, connection.cursor()

    def _ask(self, connection: PoolProxiedConnection, cursor: Any, value: Any) -> Any:
        try:
            cursor.execute(self._sql, (value,) if self._positional else {"given": value})
            row = cursor.fetchone()
        except BaseException as error:
            connection.invalidate(error)  # whatever state it is in, nobody else gets it
            raise
        if len(self._idle) < KEPT_CONNECTIONS:
            self._idle.append((connection, cursor))
        else:
            self._give_back(connection)
        return row

    def _give_back(self, connection: PoolProxiedConnection) -> None:
        if self._autocommit:
            connection.driver_connection.autocommit = False  # type: ignore[union-attr]
        connection.close()

    def close(self) -> None:
        """Give the kept connections back to the pool."""
        while self._idle:
            self._give_back(self._idle.pop()[0])


class PrincipalStore:
    """Turns checked token claims and API keys into principals. Shared by all threads."""

    def __init__(self, engine: Engine) -> None:
        given: Any = bindparam("given")
        user, key = users.c, api_keys.c
        self._user = _Query(
            engine,
            select(user.role, user.settings, user.token_version, user.disabled_at).where(user.id == given),
        )
        self._key = _Query(
            engine,
            select(
                key.id, key.user_id, key.scopes, key.allowed_models, key.requests_per_minute, key.tokens_per_minute,
                key.max_concurrency, key.monthly_budget_microusd, key.expires_at, key.revoked_at,
                user.role, user.settings, user.disabled_at,
            )
            .select_from(api_keys.join(users, user.id == key.user_id))
            .where(key.key_hash == given),
        )  # fmt: skip
        # Two generations: when the younger is full it becomes the older. Bounded, and nothing is ever scanned.
        self._seen: dict[str, tuple[float, Principal, Any]] = {}
        self._older: dict[str, tuple[float, Principal, Any]] = {}
        self._used: dict[int, int] = {}
        for reason in FAILURES:
            auth_failures_total.labels(reason)

    def of_token(self, claims: Claims) -> Principal:
        """The user of an access token. Raises Unauthorized, or Unavailable when the database is away."""
        name = f"user:{claims.user_id}:{claims.token_version}"
        try:
            row = self._user.first(claims.user_id)
        except Unavailable:
            return self._recent(name)
        if row is None or row[2] != claims.token_version:
            raise Unauthorized("the access token is no longer valid; log in again", reason="bad_token")
        if row[3] is not None:
            raise Unauthorized("the account is disabled", reason="disabled")
        if (known := self._unchanged(name, row)) is not None:
            return known
        principal = Principal(
            user_id=claims.user_id,
            role=row[0],
            scopes=SCOPES if row[0] == "admin" else _USER_SCOPES,
            settings=_json(row[1]) or {},
            label=f"user:{claims.user_id}",
        )
        self._remember(name, principal, row)
        return principal

    def of_key(self, key: str) -> Principal:
        """The API key's principal. Raises Unauthorized, or Unavailable when the database is away."""
        name = digest(key)
        try:
            row = self._key.first(name)
        except Unavailable:
            return self._recent(name)
        if row is None:
            raise Unauthorized("the API key is not valid", reason="bad_key")
        now = now_ms()
        if row[9] is not None:
            raise Unauthorized("the API key has been revoked", reason="revoked_key")
        if row[8] is not None and row[8] <= now:
            raise Unauthorized("the API key has expired", reason="expired_key")
        if row[12] is not None:
            raise Unauthorized("the account is disabled", reason="disabled")
        self._used[row[0]] = now
        left = STALE_SECONDS if row[8] is None else min(STALE_SECONDS, (row[8] - now) / 1000)
        if (known := self._unchanged(name, row, left)) is not None:
            return known
        allowed = _json(row[3])
        principal = Principal(
            user_id=row[1],
            role=row[10],
            key_id=row[0],
            scopes=frozenset(_json(row[2])),
            allowed_models=None if allowed is None else frozenset(allowed),
            requests_per_minute=row[4],
            tokens_per_minute=row[5],
            max_concurrency=row[6],
            monthly_budget_microusd=row[7],
            settings=_json(row[11]) or {},
            label=f"key:{row[0]}",
        )
        self._remember(name, principal, row, left)
        return principal

    def close(self) -> None:
        """Give kept connections back to the pool."""
        self._user.close()
        self._key.close()

    def take_used(self) -> dict[int, int]:
        """Key id -> when it was last used, since the last call."""
        used, self._used = self._used, {}
        return used

    def put_back_used(self, used: dict[int, int]) -> None:
        """What could not be written, for the next time; later uses win."""
        self._used = {**used, **self._used}

    def _unchanged(self, name: str, row: Any, seconds: float = STALE_SECONDS) -> Principal | None:
        """The principal that was made of the same row before."""
        entry = self._seen.get(name)
        if entry is None or entry[2] != row:
            return None
        self._seen[name] = (time.monotonic() + seconds, entry[1], row)
        return entry[1]

    def _remember(self, name: str, principal: Principal, row: Any, seconds: float = STALE_SECONDS) -> None:
        if len(self._seen) >= MAX_SEEN:
            self._older, self._seen = self._seen, {}
        self._seen[name] = (time.monotonic() + seconds, principal, row)

    def _recent(self, name: str) -> Principal:
        entry = self._seen.get(name) or self._older.get(name)
        if entry is None or entry[0] < time.monotonic():
            raise Unavailable(_AWAY, retry_after=2)
        return entry[1]


def _json(value: Any) -> Any:
    # SQLite gives text, psycopg the parsed value.
    return orjson.loads(value) if isinstance(value, (str, bytes)) else value
