"""The statements on users and refresh tokens that several modules need."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

from goblin_assistant.accounts.api_keys import MAX_ID
from goblin_assistant.accounts.emails import canonical
from goblin_assistant.database.models import User, now_ms, refresh_tokens, users
from goblin_assistant.errors import NotFound


def user_by_id(connection: Connection, user_id: int) -> User:
    """One user, or NotFound."""
    row = None
    if user_id <= MAX_ID:
        found = connection.execute(select(users).where(users.c.id == user_id))
        row = found.mappings().one_or_none()
    if row is None:
        raise NotFound("there is no such user")
    return User(**row)


def user_by_email(connection: Connection, email: str) -> User | None:
    """One user by any spelling of the address."""
    found = connection.execute(select(users).where(users.c.email == canonical(email)))
    row = found.mappings().one_or_none()
    return None if row is None else User(**row)


def update_user(connection: Connection, user_id: int, **values: Any) -> User:
    """Change columns of one user. Raises NotFound."""
    # Read after the change: `values` may hold SQL expressions.
    if user_id <= MAX_ID:
        connection.execute(update(users).where(users.c.id == user_id).values(**values))
    return user_by_id(connection, user_id)


def find_refresh_token(connection: Connection, condition: ColumnElement[bool]) -> Row[Any] | None:
    """One refresh token."""
    return connection.execute(select(refresh_tokens).where(condition)).one_or_none()


def revoke_tokens(connection: Connection, condition: ColumnElement[bool]) -> int:
    """End the refresh tokens of a session or a user; how many there were."""
    statement = (
        update(refresh_tokens)
        .where(condition, refresh_tokens.c.revoked_at.is_(None))
        .values(revoked_at=now_ms())
    )
    total = 0
    # Until none is left: a renewal that the statement has waited for has added a token that it did
    # not see.
    while ended := connection.execute(statement).rowcount:
        total += ended
    return total
