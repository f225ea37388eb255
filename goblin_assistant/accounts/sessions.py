"""Sessions: login, refresh, logout.

A session is a family of refresh tokens. Each token is valid once, and its use gives the next one. A
second use means that the token was stolen, so the whole family ends
(https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2).
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, select, update

from goblin_assistant.accounts.passwords import Passwords, check_new
from goblin_assistant.accounts.statements import (
    find_refresh_token,
    revoke_tokens,
    update_user,
    user_by_email,
    user_by_id,
)
from goblin_assistant.accounts.tokens import AccessTokens, digest, new_refresh_token
from goblin_assistant.database.engine import insert_row
from goblin_assistant.database.models import User, now_ms, refresh_tokens, users
from goblin_assistant.database.pool import begin, connect
from goblin_assistant.errors import AuthFailure, NotFound, Unauthorized

logger = logging.getLogger("goblin_assistant.accounts")

REPEAT_SECONDS = 10
"""How long a refresh token of the page that has been used gives the same answer again."""

_SESSION_ID = re.compile(r"[0-9a-f]{32}")
_WRONG = "e-mail or password is wrong"
_REUSED = "the refresh token was used before; log in again"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login returns. `expires_in` is of the access token, in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    session_id: str
    token_type: str = "bearer"

    def as_dict(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": self.token_type,
            "expires_in": self.expires_in,
        }


@dataclass(frozen=True, slots=True)
class Session:
    """A session that goes on. Times in ms since 1970; `started_at` is that of its oldest token that
    is still kept."""

    id: str
    started_at: int
    renewed_at: int
    expires_at: int


class Sessions:
    """The sessions of all users. Shared by all threads."""

    def __init__(
        self, engine: Engine, tokens: AccessTokens, passwords: Passwords, refresh_seconds: int
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._passwords = passwords
        self._refresh_ms = refresh_seconds * 1000

    def login(self, email: str, password: str) -> TokenPair:
        """Start a session. Raises Unauthorized.

        An unknown address, a wrong password and a disabled account give the same error after the
        same work.
        """
        with connect(self._engine) as connection:
            user = user_by_email(connection, email)
        good = self._passwords.verify(None if user is None else user.password_hash, password)
        if user is None or not good:
            raise Unauthorized(_WRONG, reason=AuthFailure.BAD_CREDENTIALS)
        if user.disabled_at is not None:
            raise Unauthorized(_WRONG, reason=AuthFailure.DISABLED)
        if self._passwords.needs_rehash(user.password_hash):
            self._rehash(user.id, password)
        return self._start_session(user)

    def refresh(self, token: str) -> TokenPair:
        """Exchange a refresh token for a new pair. Raises Unauthorized; a reuse ends the family."""
        return self._exchange(token, repeatable=False)[0]

    def renew(self, token: str) -> tuple[TokenPair, User]:
        """As `refresh`, but a token that was used less than REPEAT_SECONDS ago gives the same next
        token again.

        For the page: two tabs share one token, and a reload can lose the answer of a renewal.
        """
        return self._exchange(token, repeatable=True)

    def family_of(self, token: str) -> str | None:
        """The session of a refresh token, used or not; None for an unknown one."""
        with connect(self._engine) as connection:
            row = find_refresh_token(connection, refresh_tokens.c.token_hash == digest(token))
        return None if row is None else str(row.family_id)

    def latest(self, user_id: int, limit: int) -> tuple[list[Session], int]:
        """The sessions of a user that go on, the last renewed first, and how many there are."""
        token = refresh_tokens.c
        goes_on = select(token.family_id).where(
            token.user_id == user_id,
            token.used_at.is_(None),
            token.revoked_at.is_(None),
            token.expires_at > now_ms(),
        )
        renewed = func.max(token.created_at)
        query = (
            select(
                *(token.family_id, func.min(token.created_at), renewed),
                *(func.max(token.expires_at), func.count().over()),
            )
            .where(token.user_id == user_id, token.family_id.in_(goes_on))
            .group_by(token.family_id)
            .order_by(renewed.desc(), token.family_id)
            .limit(limit)
        )
        with connect(self._engine) as connection:
            rows = connection.execute(query).all()
        return [Session(*row[:4]) for row in rows], rows[0][4] if rows else 0

    def end_one(self, user_id: int, session_id: str) -> None:
        """End one session of a user. Raises NotFound.

        An access token does not say which session it belongs to, so all of the user end: those of
        the other sessions are renewed.
        """
        if _SESSION_ID.fullmatch(session_id) is None:  # PostgreSQL takes not every text
            raise NotFound("there is no such session")
        token = refresh_tokens.c
        mine = (token.user_id == user_id) & (token.family_id == session_id)
        with begin(self._engine) as connection:
            if not revoke_tokens(connection, mine):
                raise NotFound("there is no such session")
            update_user(connection, user_id, token_version=users.c.token_version + 1)
        logger.info("logged_out", extra={"user_id": user_id, "everywhere": False})

    def end(self, token: str) -> None:
        """End the session of a refresh token. An unknown one is none of ours to end."""
        with begin(self._engine) as connection:
            row = find_refresh_token(connection, refresh_tokens.c.token_hash == digest(token))
            if row is None:
                return
            revoke_tokens(connection, refresh_tokens.c.family_id == row.family_id)
        logger.info("logged_out", extra={"user_id": row.user_id, "everywhere": False})

    def _exchange(self, token: str, *, repeatable: bool) -> tuple[TokenPair, User]:
        with connect(self._engine) as connection:
            row = find_refresh_token(connection, refresh_tokens.c.token_hash == digest(token))
            now = now_ms()
            if row is None:
                raise Unauthorized(
                    "the refresh token is not valid; log in again",
                    reason=AuthFailure.REFRESH_UNKNOWN,
                )
            if row.used_at is not None:
                given = self._given_before(connection, token, row, now) if repeatable else None
                if given is None:
                    if row.revoked_at is None:
                        # Only once: an old token must not log its owner out again and again.
                        self._end_family(connection, row)
                    raise Unauthorized(_REUSED, reason=AuthFailure.REFRESH_REUSED)
                user = self._user_of(connection, row)
                return self._pair(user, given, row.family_id), user
            if row.revoked_at is not None or row.expires_at <= now:
                raise Unauthorized(
                    "the refresh token has expired; log in again",
                    reason=AuthFailure.REFRESH_EXPIRED,
                )
            user = self._user_of(connection, row)
            # Of two concurrent uses, only one finds the token unused.
            unused = (refresh_tokens.c.used_at.is_(None), refresh_tokens.c.revoked_at.is_(None))
            taken = connection.execute(
                update(refresh_tokens)
                .where(refresh_tokens.c.id == row.id, *unused)
                .values(used_at=now)
            )
            if taken.rowcount == 1:
                new = self._tokens.successors(token)[0] if repeatable else new_refresh_token()
                self._store(connection, user, row.family_id, new)
                connection.commit()
                return self._pair(user, new, row.family_id), user
            connection.rollback()
            if not repeatable:
                self._end_family(connection, row)
                raise Unauthorized(_REUSED, reason=AuthFailure.REFRESH_REUSED)
        return self._exchange(token, repeatable=True)  # the token has been used by now

    def _given_before(
        self, connection: Connection, token: str, row: Row[Any], now: int
    ) -> str | None:
        """What a used token was exchanged for, or what followed that, if each step was made less
        than REPEAT_SECONDS ago."""
        while row.used_at is not None and row.revoked_at is None:
            if now - row.used_at > REPEAT_SECONDS * 1000:
                return None
            hashes = {digest(after): after for after in self._tokens.successors(token)}
            found = find_refresh_token(connection, refresh_tokens.c.token_hash.in_(hashes))
            if found is None:  # it was exchanged by `refresh`, for a random one
                return None
            row, token = found, hashes[found.token_hash]
        return None if row.revoked_at is not None else token

    def _user_of(self, connection: Connection, row: Row[Any]) -> User:
        user = user_by_id(connection, row.user_id)
        if user.disabled_at is not None:
            raise Unauthorized("the account is disabled", reason=AuthFailure.DISABLED)
        return user

    def logout(self, user_id: int, refresh_token: str | None = None) -> None:
        """End the refresh token's session; without a token, all sessions and access tokens."""
        mine = refresh_tokens.c.user_id == user_id
        with begin(self._engine) as connection:
            if refresh_token is not None:
                row = find_refresh_token(
                    connection, mine & (refresh_tokens.c.token_hash == digest(refresh_token))
                )
                if row is not None:
                    revoke_tokens(connection, refresh_tokens.c.family_id == row.family_id)
            else:
                revoke_tokens(connection, mine)
                update_user(connection, user_id, token_version=users.c.token_version + 1)
        logger.info("logged_out", extra={"user_id": user_id, "everywhere": refresh_token is None})

    def change_password(self, user_id: int, current: str, new: str) -> TokenPair:
        """Change the password, end every session of the user, and start a new one."""
        with connect(self._engine) as connection:
            user = user_by_id(connection, user_id)
        if not self._passwords.verify(user.password_hash, current):
            raise Unauthorized("the current password is wrong", reason=AuthFailure.BAD_CREDENTIALS)
        check_new(new, user.email)
        return self._start_session(self.new_password(user_id, new, "password_changed"))

    def delete_expired_tokens(self) -> None:
        """Delete refresh tokens a day after they expire. Until then a reuse is noticed."""
        with begin(self._engine) as connection:
            connection.execute(
                delete(refresh_tokens).where(refresh_tokens.c.expires_at < now_ms() - 86_400_000)
            )

    def new_password(self, user_id: int, password: str, event: str) -> User:
        """Set a password and end every session of the user. `event` is the name of the log line."""
        encoded = self._passwords.hash(password)
        with begin(self._engine) as connection:
            user = update_user(
                connection, user_id, password_hash=encoded, token_version=users.c.token_version + 1
            )
            revoke_tokens(connection, refresh_tokens.c.user_id == user_id)
        logger.info(event, extra={"user_id": user_id})
        return user

    def _rehash(self, user_id: int, password: str) -> None:
        encoded = self._passwords.hash(password)
        with begin(self._engine) as connection:
            update_user(connection, user_id, password_hash=encoded)
        logger.info("password_rehashed", extra={"user_id": user_id})

    def _start_session(self, user: User) -> TokenPair:
        with begin(self._engine) as connection:
            return self._issue(connection, user, secrets.token_hex(16))

    def _issue(self, connection: Connection, user: User, family: str) -> TokenPair:
        token = new_refresh_token()
        self._store(connection, user, family, token)
        return self._pair(user, token, family)

    def _store(self, connection: Connection, user: User, family: str, token: str) -> None:
        insert_row(
            connection,
            refresh_tokens,
            user_id=user.id,
            family_id=family,
            token_hash=digest(token),
            expires_at=now_ms() + self._refresh_ms,
        )

    def _pair(self, user: User, token: str, family: str) -> TokenPair:
        access = self._tokens.issue(user.id, user.token_version)
        return TokenPair(access, token, self._tokens.seconds, family)

    def _end_family(self, connection: Connection, row: Row[Any]) -> None:
        revoke_tokens(connection, refresh_tokens.c.family_id == row.family_id)
        # Access tokens end as well: the thief may hold one.
        update_user(connection, row.user_id, token_version=users.c.token_version + 1)
        connection.commit()
        logger.warning(
            "refresh_token_reused", extra={"user_id": row.user_id, "family": row.family_id[:8]}
        )
