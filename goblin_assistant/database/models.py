"""The database tables, and what a user and an API key are as values.

Times (`*_at`) are whole milliseconds since 1970, UTC; money (`*_microusd`) is whole micro-dollars.
Integers mean the same in SQLite and PostgreSQL, and sums are exact. A flag is the time when it was
set (`disabled_at`).

Not mapped classes: SQLAlchemy's ORM costs 6 MB and 60 ms at the start, for a dozen statements.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from goblin_assistant.database.key_limits import (
    KEY_LIMITS,
    USER_LIMITS,
    KeyLimits,
    Limit,
    UserLimits,
)


def _limit_columns(limits: Sequence[Limit]) -> list[Column[Any]]:
    return [Column(limit.name, BigInteger if limit.is_money else Integer) for limit in limits]


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


metadata = MetaData(
    # With names, so that migrations can drop constraints on every database.
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns values only to an INTEGER PRIMARY KEY.
BigId = BigInteger().with_variant(Integer, "sqlite")

schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1
    Column("revision", String(32), nullable=False),
    Column("serves_from", String(32), nullable=False),
)
"""One row, written by every migration: its revision, and the oldest whose release may serve with
these tables."""

users = Table(
    "users",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("email", String(320), unique=True, nullable=False),  # lower case
    Column("password_hash", String(255), nullable=False),
    Column("role", String(16), default="user", nullable=False),  # user, admin
    Column("settings", JSON, default=dict, nullable=False),
    Column(
        "token_version", Integer, default=0, nullable=False
    ),  # raised: every access token of the user is void
    Column("created_at", BigInteger, default=now_ms, nullable=False),
    Column("disabled_at", BigInteger),
    *_limit_columns(USER_LIMITS),
)
"""An account. `settings` holds the user's chat defaults: model, temperature, max_tokens,
system_prompt."""

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("id", BigId, primary_key=True),
    Column(
        "user_id", BigId, ForeignKey("users.id", ondelete="CASCADE"), index=True, nullable=False
    ),
    Column("family_id", String(32), index=True, nullable=False),
    Column("token_hash", String(64), unique=True, nullable=False),  # sha256, hex
    Column("created_at", BigInteger, default=now_ms, nullable=False),
    Column("expires_at", BigInteger, index=True, nullable=False),
    Column("used_at", BigInteger),  # rotated; a second use is theft
    Column("revoked_at", BigInteger),
)
"""One refresh token, hashed. All descendants of one login share `family_id`."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigId, primary_key=True),
    Column(
        "user_id", BigId, ForeignKey("users.id", ondelete="CASCADE"), index=True, nullable=False
    ),
    Column("name", String(100), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("key_hash", String(64), unique=True, nullable=False),  # sha256, hex
    Column("scopes", JSON, default=list, nullable=False),  # chat, embeddings, admin
    Column("allowed_models", JSON),
    *_limit_columns(KEY_LIMITS),
    Column("created_at", BigInteger, default=now_ms, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    # rotated; expires_at is then the end of the grace time
    Column("replaced_by_id", BigInteger),
    # The first of the keys that this one succeeds: they share its rows in budget_periods, so that
    # rotating gives no second budget. Null: itself.
    Column("budget_key_id", BigInteger),
)
"""An API key, hashed; `prefix` is what lists show. Null limits mean: the instance's."""

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("key_id", BigId, ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("period", String(7), primary_key=True),  # 2026-11
    Column("spent_microusd", BigInteger, default=0, nullable=False),
    Column("reserved_microusd", BigInteger, default=0, nullable=False),
)
"""What a key has spent and reserved in one calendar month (UTC). Changed by single UPDATE
statements only."""

budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("id", String(32), primary_key=True),  # the usage record's id
    Column("key_id", BigId, ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    Column("period", String(7), nullable=False),
    Column("amount_microusd", BigInteger, nullable=False),
    Column("expires_at", BigInteger, index=True, nullable=False),
)
"""Money held for a chat in flight. A row outlives its chat only when the process was killed; the
monitor releases it after `expires_at`."""

usage_records = Table(
    "usage_records",
    metadata,
    Column("id", String(32), primary_key=True),  # 12 hex digits of ms, 20 random
    Column("created_at", BigInteger, nullable=False),
    Column("correlation_id", String(128), index=True, nullable=False),
    Column("user_id", BigInteger),
    Column("key_id", BigInteger),
    Column(
        "operation", String(24), default="chat_completion", nullable=False
    ),  # chat_completion, embeddings
    Column("provider", String(64), default="", nullable=False),
    Column("model_requested", String(255), default="", nullable=False),
    Column("model", String(255), default="", nullable=False),  # the one that answered
    Column("prompt_tokens", BigInteger, default=0, nullable=False),
    Column("completion_tokens", BigInteger, default=0, nullable=False),
    Column("cached_tokens", BigInteger, default=0, nullable=False),
    Column("cache_write_tokens", BigInteger, default=0, nullable=False),
    Column("reasoning_tokens", BigInteger, default=0, nullable=False),
    Column(
        "token_source", String(16), default="provider", nullable=False
    ),  # provider, estimated, none
    Column("cost_microusd", BigInteger),  # null: price unknown
    Column("duration_ms", BigInteger, default=0, nullable=False),
    Column("queue_ms", BigInteger, default=0, nullable=False),
    Column("first_token_ms", BigInteger),
    Column("status_code", Integer, default=200, nullable=False),
    Column("error_type", String(64)),
    Column("error_source", String(16)),
    Column("attempts", Integer, default=1, nullable=False),
    Column("fallback", Boolean, default=False, nullable=False),
    Column("stream", Boolean, default=False, nullable=False),
    Column(
        "completed", Boolean, default=True, nullable=False
    ),  # false: cut by the client, the provider or a shutdown
    Column("timeline", Text),  # JSON list of attempts, for `goblin-assistant explain`
    Column("trace_id", String(32)),  # of W3C Trace Context; null: written by a release before 0.2
    Column("tags", JSON),  # name -> value, by the caller (usage/tags.py); null: none
    Index("ix_usage_records_user_id_id", "user_id", "id"),
    Index("ix_usage_records_key_id_id", "key_id", "id"),
)
"""One chat (or embeddings) call, whatever became of it; never its content.

`id` begins with the time, so that rows are inserted at the end of the primary key's tree and old
ones are deleted as a range. user_id and key_id are not foreign keys: a record outlives its
account.
"""

conversations = Table(
    "conversations",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("user_id", BigId, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("title", String(200), default="", nullable=False),
    Column("settings", JSON, default=dict, nullable=False),
    Column("revision", Integer, default=0, nullable=False),  # raised by every write of messages
    Column("messages", Integer, default=0, nullable=False),
    Column("bytes", BigInteger, default=0, nullable=False),
    Column("created_at", BigInteger, default=now_ms, nullable=False),
    Column("updated_at", BigInteger, default=now_ms, index=True, nullable=False),
    Index("ix_conversations_user_id_updated_at", "user_id", "updated_at"),
    # An address that somebody has kept must not lead to another conversation later.
    sqlite_autoincrement=True,
)
"""A person's conversation. `settings` as in `users`: model, temperature, max_tokens, system_prompt.
`messages` and `bytes` are those of its messages together."""

conversation_messages = Table(
    "conversation_messages",
    metadata,
    Column(
        "conversation_id",
        BigId,
        ForeignKey("conversations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("role", String(16), nullable=False),  # user, assistant
    Column("text", Text, nullable=False),
    Column("attachments", JSON, default=list, nullable=False),  # images as data: addresses
    Column("details", JSON, default=dict, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, default=now_ms, nullable=False),
)
"""One message of a conversation. `details` of an answer: model, provider, tokens, cost, times."""


@dataclass(frozen=True, slots=True)
class User(UserLimits):
    """A row of `users`."""

    id: int
    email: str
    password_hash: str = field(repr=False)
    role: str
    settings: dict[str, Any]
    token_version: int
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class ApiKey(KeyLimits):
    """A row of `api_keys`."""

    id: int
    user_id: int
    name: str
    prefix: str
    key_hash: str = field(repr=False)
    scopes: list[str]
    allowed_models: list[str] | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    replaced_by_id: int | None
    budget_key_id: int | None
