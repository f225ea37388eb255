"""API keys: made, listed, rotated, revoked. A key is shown once; the database holds its hash and its first characters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from goblin_assistant.errors import Conflict, Forbidden, NotFound, ValidationFailed
from goblin_assistant.models import ApiKey, User, now_ms
from goblin_assistant.principals import SCOPES, PrincipalStore
from goblin_assistant.tokens import digest, new_api_key

logger = logging.getLogger("goblin_assistant.accounts")

MAX_KEYS_PER_USER = 100
"""Of those that are good; revoked and expired ones do not count."""
MAX_ID = 2**63 - 1
"""The largest id that a database can hold: beyond it there is nothing to find, and the driver would fail."""
PREFIX_LENGTH = 12
DEFAULT_GRACE_SECONDS = 86_400
MAX_GRACE_SECONDS = 30 * 86_400


@dataclass(slots=True)
class KeySpec:
    """What a new key may do. None: the instance's limit, or none. Money in micro-dollars, times in ms since 1970."""

    name: str
    scopes: Sequence[str] = ("chat", "embeddings")
    allowed_models: Sequence[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    monthly_budget_microusd: int | None = None
    expires_at: int | None = None


LIMIT_FIELDS = (
    "scopes", "allowed_models", "requests_per_minute", "tokens_per_minute", "max_concurrency",
    "monthly_budget_microusd", "expires_at", "name",
)  # fmt: skip
"""What an admin may change of a key that exists."""


@dataclass(slots=True)
class NewKey:
    """A key just made: the only time its secret is known."""

    secret: str
    row: ApiKey


class ApiKeys:
    """The keys of all users. Raises AppErrors."""

    def __init__(self, engine: Engine, principals: PrincipalStore) -> None:
        self._engine = engine
        self._principals = principals

    def create(self, user_id: int, spec: KeySpec) -> NewKey:
        """Make a key for a user. Only an admin's key may have the scope admin."""
        with Session(self._engine, expire_on_commit=False) as session:
            user = session.get(User, user_id) if user_id <= MAX_ID else None
            if user is None:
                raise NotFound("there is no such user")
            unknown = sorted(set(spec.scopes) - SCOPES)
            if unknown or not spec.scopes:
                raise ValidationFailed(f"scopes: one or more of {', '.join(sorted(SCOPES))}", param="scopes")
            if "admin" in spec.scopes and user.role != "admin":
                raise Forbidden("only an admin's key may have the scope 'admin'")
            if spec.expires_at is not None and spec.expires_at <= now_ms():
                raise ValidationFailed("expires_at: must be in the future", param="expires_at")
            mine = select(func.count()).where(ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None), _live())
            count = session.scalar(mine) or 0
            if count >= MAX_KEYS_PER_USER:
                raise Conflict(f"there are {count} keys already; revoke one first")
            secret = new_api_key()
            row = self._row(user_id, spec, secret)
            session.add(row)
            session.commit()
        logger.info("api_key_created", extra={"user_id": user_id, "key_id": row.id})
        return NewKey(secret, row)

    def list(self, user_id: int | None = None, *, limit: int = 200, after: int = 0) -> list[ApiKey]:
        """Keys in the order of their making, of one user or of all; those revoked or expired too."""
        query = select(ApiKey).where(ApiKey.id > after).order_by(ApiKey.id).limit(limit)
        if user_id is not None:
            query = query.where(ApiKey.user_id == user_id)
        with Session(self._engine) as session:
            return list(session.scalars(query))

    def get(self, key_id: int, user_id: int | None = None) -> ApiKey:
        """One key; of another user's it says that there is none."""
        with Session(self._engine, expire_on_commit=False) as session:
            return self._find(session, key_id, user_id)

    def rotate(self, key_id: int, user_id: int | None = None, grace_seconds: int = DEFAULT_GRACE_SECONDS) -> NewKey:
        """Replace a key by a new one with the same limits; the old one is good for `grace_seconds` more.

        They share one budget: what either spends counts for both.
        """
        if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
            raise ValidationFailed(f"grace_seconds: 0 to {MAX_GRACE_SECONDS}", param="grace_seconds")
        with Session(self._engine, expire_on_commit=False) as session:
            old = self._find(session, key_id, user_id)
            now = now_ms()
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict("the key is revoked or has expired; make a new one")
            if old.replaced_by_id is not None:
                raise Conflict("the key has been rotated already; rotate its successor")
            spec = KeySpec(
                old.name, old.scopes, old.allowed_models, old.requests_per_minute, old.tokens_per_minute,
                old.max_concurrency, old.monthly_budget_microusd, old.expires_at,
            )  # fmt: skip
            secret = new_api_key()
            row = self._row(old.user_id, spec, secret)
            row.budget_key_id = old.budget_key_id or old.id
            session.add(row)
            session.flush()
            # Of two rotations at once one finds the key replaced.
            changed = session.execute(
                update(ApiKey)
                .where(ApiKey.id == key_id, ApiKey.replaced_by_id.is_(None), ApiKey.revoked_at.is_(None))
                .values(replaced_by_id=row.id, expires_at=_earlier(old.expires_at, now + grace_seconds * 1000))
            )
            if changed.rowcount != 1:  # type: ignore[attr-defined]
                session.rollback()
                raise Conflict("the key has been rotated already; rotate its successor")
            session.commit()
        logger.info("api_key_rotated", extra={"key_id": key_id, "new_key_id": row.id, "grace_seconds": grace_seconds})
        return NewKey(secret, row)

    def revoke(self, key_id: int, user_id: int | None = None) -> None:
        """End a key now; revoking it again changes nothing."""
        with Session(self._engine) as session:
            row = self._find(session, key_id, user_id)
            if row.revoked_at is None:
                row.revoked_at = now_ms()
                session.commit()
                logger.info("api_key_revoked", extra={"key_id": key_id})

    def change(self, key_id: int, changes: dict[str, Any]) -> ApiKey:
        """Change the limits of a key (LIMIT_FIELDS)."""
        with Session(self._engine, expire_on_commit=False) as session:
            row = self._find(session, key_id, None)
            if "scopes" in changes:
                owner = session.get(User, row.user_id)
                if "admin" in changes["scopes"] and (owner is None or owner.role != "admin"):
                    raise Forbidden("only an admin's key may have the scope 'admin'")
            for name, value in changes.items():
                assert name in LIMIT_FIELDS, name
                setattr(row, name, sorted(set(value)) if isinstance(value, list) else value)
            session.commit()
        logger.info("api_key_changed", extra={"key_id": key_id, "changed": sorted(changes)})
        return row

    def flush_last_used(self) -> None:
        """Write when keys were last used: gathered in memory, written once a minute and not once a request."""
        used = self._principals.take_used()
        if not used:
            return
        try:
            with self._engine.begin() as connection:
                # In the order of ids, as every instance does it: two never wait for each other crosswise.
                for key_id, at in sorted(used.items()):
                    newer = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < at)
                    connection.execute(update(ApiKey).where(ApiKey.id == key_id, newer).values(last_used_at=at))
        except SQLAlchemyError:
            self._principals.put_back_used(used)
            logger.warning("last_used_not_written", extra={"keys": len(used)})

    @staticmethod
    def _find(session: Session, key_id: int, user_id: int | None) -> ApiKey:
        row = session.get(ApiKey, key_id) if key_id <= MAX_ID else None
        if row is None or (user_id is not None and row.user_id != user_id):
            raise NotFound("there is no such API key")
        return row

    @staticmethod
    def _row(user_id: int, spec: KeySpec, secret: str) -> ApiKey:
        return ApiKey(
            user_id=user_id,
            name=spec.name,
            prefix=secret[:PREFIX_LENGTH],
            key_hash=digest(secret),
            scopes=sorted(set(spec.scopes)),
            allowed_models=None if spec.allowed_models is None else sorted(set(spec.allowed_models)),
            requests_per_minute=spec.requests_per_minute,
            tokens_per_minute=spec.tokens_per_minute,
            max_concurrency=spec.max_concurrency,
            monthly_budget_microusd=spec.monthly_budget_microusd,
            expires_at=spec.expires_at,
        )


def _live() -> ColumnElement[bool]:
    return or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now_ms())


def _earlier(first: int | None, second: int) -> int:
    return second if first is None else min(first, second)
