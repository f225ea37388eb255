"""The database tables.

Times are whole milliseconds since 1970, UTC (`*_at`), money is whole micro-dollars (`*_microusd`): integers mean the same in SQLite and PostgreSQL
and add up exactly. Flags that happened at a time are that time (`disabled_at`), so the log of who did what needs no second column.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class Base(DeclarativeBase):
    """Named constraints, so that migrations can drop them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


# SQLite only gives an INTEGER PRIMARY KEY its own values.
BigId = BigInteger().with_variant(Integer, "sqlite")


class User(Base):
    """An account. `settings` holds the user's chat defaults: model, temperature, max_tokens, system_prompt."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)  # lower case
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16), default="user")  # user, admin
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    token_version: Mapped[int] = mapped_column(Integer, default=0)  # raised: every access token of the user is void
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms)
    disabled_at: Mapped[int | None] = mapped_column(BigInteger)


class RefreshToken(Base):
    """One refresh token, hashed. All descendants of one login share `family_id`."""

    __tablename__ = "refresh_tokens"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str] = mapped_column(String(32), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)  # sha256, hex
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
    used_at: Mapped[int | None] = mapped_column(BigInteger)  # rotated; a second use is theft
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)


class ApiKey(Base):
    """An API key, hashed; `prefix` is what lists show. Null limits mean: the instance's."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)  # sha256, hex
    scopes: Mapped[list[str]] = mapped_column(JSON, default=list)  # chat, embeddings, admin
    allowed_models: Mapped[list[str] | None] = mapped_column(JSON)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    max_concurrency: Mapped[int | None] = mapped_column(Integer)
    monthly_budget_microusd: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)
    replaced_by_id: Mapped[int | None] = mapped_column(
        BigInteger
    )  # rotated; expires_at is then the end of the grace time
    # The first of the keys that this one succeeds: they share its rows in budget_periods, so that rotating gives no second budget. Null: itself.
    budget_key_id: Mapped[int | None] = mapped_column(BigInteger)


class BudgetPeriod(Base):
    """What a key has spent and reserved in one calendar month (UTC). Changed by single UPDATE statements only."""

    __tablename__ = "budget_periods"
    key_id: Mapped[int] = mapped_column(BigId, ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True)
    period: Mapped[str] = mapped_column(String(7), primary_key=True)  # 2026-11
    spent_microusd: Mapped[int] = mapped_column(BigInteger, default=0)
    reserved_microusd: Mapped[int] = mapped_column(BigInteger, default=0)


class BudgetReservation(Base):
    """Money held for a chat in flight. A row outlives its chat only when the process was killed; the monitor releases it after `expires_at`."""

    __tablename__ = "budget_reservations"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the usage record's id
    key_id: Mapped[int] = mapped_column(BigId, ForeignKey("api_keys.id", ondelete="CASCADE"))
    period: Mapped[str] = mapped_column(String(7))
    amount_microusd: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)


class UsageRecord(Base):
    """One chat (or embeddings) call, whatever became of it; never its content.

    `id` begins with the time, so that rows are inserted at the end of the primary key's tree and old ones are deleted as a range.
    user_id and key_id are no foreign keys: a record outlives the account it was billed to.
    """

    __tablename__ = "usage_records"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # 12 hex digits of ms, 20 random
    created_at: Mapped[int] = mapped_column(BigInteger)
    correlation_id: Mapped[str] = mapped_column(String(128), index=True)
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    key_id: Mapped[int | None] = mapped_column(BigInteger)
    operation: Mapped[str] = mapped_column(String(24), default="chat_completion")  # chat_completion, embeddings
    provider: Mapped[str] = mapped_column(String(64), default="")
    model_requested: Mapped[str] = mapped_column(String(255), default="")
    model: Mapped[str] = mapped_column(String(255), default="")  # the one that answered
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cached_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    token_source: Mapped[str] = mapped_column(String(16), default="provider")  # provider, estimated, none
    cost_microusd: Mapped[int | None] = mapped_column(BigInteger)  # null: price unknown
    duration_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    queue_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    first_token_ms: Mapped[int | None] = mapped_column(BigInteger)
    status_code: Mapped[int] = mapped_column(Integer, default=200)
    error_type: Mapped[str | None] = mapped_column(String(64))
    error_source: Mapped[str | None] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=1)
    fallback: Mapped[bool] = mapped_column(default=False)
    stream: Mapped[bool] = mapped_column(default=False)
    completed: Mapped[bool] = mapped_column(default=True)  # false: cut by the client, the provider or a shutdown
    timeline: Mapped[str | None] = mapped_column(Text)  # JSON list of attempts, for `goblin-assistant explain`

    __table_args__ = (
        Index("ix_usage_records_user_id_id", "user_id", "id"),
        Index("ix_usage_records_key_id_id", "key_id", "id"),
    )
