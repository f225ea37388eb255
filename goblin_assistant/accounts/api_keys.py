"""API keys: create, list, change, rotate, revoke.

A key is shown once. The database holds its hash and its first characters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, ScalarSelect, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.accounts.principals import SCOPES, PrincipalStore
from goblin_assistant.accounts.tokens import digest, new_api_key
from goblin_assistant.database.engine import insert_row
from goblin_assistant.database.key_limits import KEY_LIMITS, KeyLimits, limit_values
from goblin_assistant.database.models import ApiKey, api_keys, now_ms, users
from goblin_assistant.database.pool import begin, connect
from goblin_assistant.errors import Conflict, Forbidden, NotFound, ValidationFailed

logger = logging.getLogger("goblin_assistant.accounts")

MAX_KEYS_PER_USER = 100
"""The default of GOBLIN_MAX_KEYS_PER_USER. Revoked and expired keys do not count."""
MAX_ID = 2**63 - 1
"""The largest id that a database can hold. Drivers fail on a larger one."""
PREFIX_LENGTH = 12
DEFAULT_GRACE_SECONDS = 86_400
MAX_GRACE_SECONDS = 30 * 86_400


@dataclass(frozen=True, slots=True)
class KeySpec(KeyLimits):
    """What a new key may do. `allowed_models` None: every model. `expires_at` in ms since 1970."""

    name: str
    scopes: Sequence[str] = ("chat", "embeddings")
    allowed_models: Sequence[str] | None = None
    expires_at: int | None = None


CHANGEABLE = frozenset(
    {"name", "scopes", "allowed_models", "expires_at", *(limit.name for limit in KEY_LIMITS)}
)
"""The columns that an admin may change of an existing key."""


@dataclass(slots=True)
class NewKey:
    """A new key. Its secret is known only now."""

    secret: str
    row: ApiKey


class ApiKeys:
    """The keys of all users. Raises AppErrors."""

    def __init__(
        self, engine: Engine, principals: PrincipalStore, *, most: int = MAX_KEYS_PER_USER
    ) -> None:
        """`most` is how many valid keys a user may have, whoever creates them."""
        self._engine = engine
        self._most = most
        self._principals = principals

    def create(self, user_id: int, spec: KeySpec) -> NewKey:
        """Create a key for a user. Only an admin's key may have the scope admin."""
        with begin(self._engine) as connection:
            if user_id <= MAX_ID:
                self._lock_user(connection, user_id)
            role = _role(connection, user_id)
            if role is None:
                raise NotFound("there is no such user")
            unknown = sorted(set(spec.scopes) - SCOPES)
            if unknown or not spec.scopes:
                raise ValidationFailed(
                    f"scopes: one or more of {', '.join(sorted(SCOPES))}", param="scopes"
                )
            if "admin" in spec.scopes and role != "admin":
                raise Forbidden("only an admin's key may have the scope 'admin'")
            if spec.expires_at is not None and spec.expires_at <= now_ms():
                raise ValidationFailed("expires_at: must be in the future", param="expires_at")
            self._check_room(connection, user_id)
            secret = new_api_key()
            row = self._insert(connection, user_id, spec, secret)
        logger.info("api_key_created", extra={"user_id": user_id, "key_id": row.id})
        return NewKey(secret, row)

    def list(self, user_id: int | None = None, *, limit: int = 200, after: int = 0) -> list[ApiKey]:
        """Keys of one user or of all, oldest first, with those revoked or expired."""
        query = select(api_keys).where(api_keys.c.id > after).order_by(api_keys.c.id).limit(limit)
        if user_id is not None:
            query = query.where(api_keys.c.user_id == user_id)
        with connect(self._engine) as connection:
            return [ApiKey(**row) for row in connection.execute(query).mappings()]

    def get(self, key_id: int, user_id: int | None = None) -> ApiKey:
        """One key. Raises NotFound, also for a key of another user than `user_id`."""
        with connect(self._engine) as connection:
            return self._find(connection, key_id, user_id)

    def rotate(
        self, key_id: int, user_id: int | None = None, grace_seconds: int = DEFAULT_GRACE_SECONDS
    ) -> NewKey:
        """Replace a key by a new one with the same limits.

        The old one stays valid for `grace_seconds`. Both share one budget.
        """
        if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
            raise ValidationFailed(
                f"grace_seconds: 0 to {MAX_GRACE_SECONDS}", param="grace_seconds"
            )
        with begin(self._engine) as connection:
            self._lock_user(connection, _owner_of(key_id))
            old = self._find(connection, key_id, user_id)
            now = now_ms()
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict("the key is revoked or has expired; make a new one")
            if old.replaced_by_id is not None:
                raise Conflict("the key has been rotated already; rotate its successor")
            if grace_seconds:
                self._check_room(connection, old.user_id, " (or rotate with grace_seconds 0)")
            spec = KeySpec(
                name=old.name,
                scopes=old.scopes,
                allowed_models=old.allowed_models,
                expires_at=old.expires_at,
                **limit_values(old),
            )
            secret = new_api_key()
            row = self._insert(
                connection, old.user_id, spec, secret, budget_key_id=old.budget_key_id or old.id
            )
            # Of two concurrent rotations, the second finds the key replaced.
            current = (api_keys.c.replaced_by_id.is_(None), api_keys.c.revoked_at.is_(None))
            changed = connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, *current)
                .values(
                    replaced_by_id=row.id,
                    expires_at=_earlier(old.expires_at, now + grace_seconds * 1000),
                )
            )
            if changed.rowcount != 1:
                raise Conflict("the key has been rotated already; rotate its successor")
        logger.info(
            "api_key_rotated",
            extra={"key_id": key_id, "new_key_id": row.id, "grace_seconds": grace_seconds},
        )
        return NewKey(secret, row)

    def revoke(self, key_id: int, user_id: int | None = None) -> None:
        """Revoke a key now. Revoking it again changes nothing."""
        with begin(self._engine) as connection:
            row = self._find(connection, key_id, user_id)
            if row.revoked_at is None:
                connection.execute(
                    update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=now_ms())
                )
        if row.revoked_at is None:
            logger.info("api_key_revoked", extra={"key_id": key_id})

    def revoke_all(self, user_id: int) -> int:
        """Revoke every live key of a user; how many there were."""
        mine = (api_keys.c.user_id == user_id, api_keys.c.revoked_at.is_(None), _live())
        with begin(self._engine) as connection:
            self._lock_user(connection, user_id)
            revoked = connection.execute(
                update(api_keys).where(*mine).values(revoked_at=now_ms())
            ).rowcount
        logger.info("api_keys_revoked", extra={"user_id": user_id, "keys": revoked})
        return revoked

    def count_live(self, user_id: int) -> int:
        """How many good keys a user has."""
        mine = (api_keys.c.user_id == user_id, api_keys.c.revoked_at.is_(None), _live())
        with connect(self._engine) as connection:
            return connection.scalar(select(func.count()).select_from(api_keys).where(*mine)) or 0

    def change(self, key_id: int, changes: dict[str, Any]) -> ApiKey:
        """Change some columns of a key (CHANGEABLE)."""
        assert set(changes) <= CHANGEABLE, changes
        values = {k: sorted(set(v)) if isinstance(v, list) else v for k, v in changes.items()}
        with begin(self._engine) as connection:
            row = self._find(connection, key_id, None)
            if "admin" in changes.get("scopes", ()) and _role(connection, row.user_id) != "admin":
                raise Forbidden("only an admin's key may have the scope 'admin'")
            if values:
                connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(**values))
                row = self._find(connection, key_id, None)
        logger.info("api_key_changed", extra={"key_id": key_id, "changed": sorted(changes)})
        return row

    def flush_last_used(self) -> None:
        """Write when keys were last used. Called once a minute, so that requests do not write."""
        used = self._principals.take_used()
        if not used:
            return
        try:
            with begin(self._engine) as connection:
                # Every instance writes in the order of ids: no deadlock.
                for key_id, at in sorted(used.items()):
                    newer = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at)
                    connection.execute(
                        update(api_keys)
                        .where(api_keys.c.id == key_id, newer)
                        .values(last_used_at=at)
                    )
        except SQLAlchemyError:
            self._principals.put_back_used(used)
            logger.warning("last_used_not_written", extra={"keys": len(used)})

    @staticmethod
    def _lock_user(connection: Connection, user_id: int | ScalarSelect[Any]) -> None:
        # An update that changes nothing: of two transactions that create keys for one user, the
        # second waits, and counts the key of the first.
        same = {"token_version": users.c.token_version}
        connection.execute(update(users).where(users.c.id == user_id).values(same))

    def _check_room(self, connection: Connection, user_id: int, otherwise: str = "") -> None:
        mine = (api_keys.c.user_id == user_id, api_keys.c.revoked_at.is_(None), _live())
        count = connection.scalar(select(func.count()).select_from(api_keys).where(*mine)) or 0
        if count >= self._most:
            raise Conflict(
                f"there are {count} good keys already, and a user may have {self._most}; "
                f"revoke one first{otherwise}"
            )

    @staticmethod
    def _find(connection: Connection, key_id: int, user_id: int | None) -> ApiKey:
        row = None
        if key_id <= MAX_ID:
            found = connection.execute(select(api_keys).where(api_keys.c.id == key_id))
            row = found.mappings().one_or_none()
        if row is None or (user_id is not None and row["user_id"] != user_id):
            raise NotFound("there is no such API key")
        return ApiKey(**row)

    def _insert(
        self,
        connection: Connection,
        user_id: int,
        spec: KeySpec,
        secret: str,
        *,
        budget_key_id: int | None = None,
    ) -> ApiKey:
        key_id = insert_row(
            connection,
            api_keys,
            user_id=user_id,
            name=spec.name,
            prefix=secret[:PREFIX_LENGTH],
            key_hash=digest(secret),
            scopes=sorted(set(spec.scopes)),
            allowed_models=None
            if spec.allowed_models is None
            else sorted(set(spec.allowed_models)),
            expires_at=spec.expires_at,
            **limit_values(spec),
            budget_key_id=budget_key_id,
        )
        return self._find(connection, key_id, None)


def _owner_of(key_id: int) -> ScalarSelect[Any]:
    return select(api_keys.c.user_id).where(api_keys.c.id == min(key_id, MAX_ID)).scalar_subquery()


def _role(connection: Connection, user_id: int) -> str | None:
    if user_id > MAX_ID:
        return None
    role: str | None = connection.scalar(select(users.c.role).where(users.c.id == user_id))
    return role


def _live() -> ColumnElement[bool]:
    return or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now_ms())


def _earlier(first: int | None, second: int) -> int:
    return second if first is None else min(first, second)
