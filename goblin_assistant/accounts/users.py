"""Users and their sessions.

A session is a family of refresh tokens. Each token is valid once, and its use gives the next one. A
second use means that the token was stolen, so the whole family ends
(https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2).
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, select, update
from sqlalchemy.exc import IntegrityError

from goblin_assistant.accounts.api_keys import MAX_ID, ApiKeys
from goblin_assistant.accounts.passwords import Passwords, check_new
from goblin_assistant.accounts.principals import Principal, PrincipalStore
from goblin_assistant.accounts.tokens import AccessTokens, digest, new_refresh_token
from goblin_assistant.config import Config
from goblin_assistant.database.engine import insert_row
from goblin_assistant.database.limits import USER_LIMITS
from goblin_assistant.database.models import User, now_ms, refresh_tokens, users
from goblin_assistant.errors import AuthFailure, Conflict, NotFound, Unauthorized, ValidationFailed
from goblin_assistant.threads.budget import ThreadBudget

__all__ = ["Accounts", "Principal", "TokenPair"]

logger = logging.getLogger("goblin_assistant.accounts")

ROLES = ("user", "admin")
_WRONG = "e-mail or password is wrong"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login returns. `expires_in` is of the access token, in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "bearer"

    def as_dict(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": self.token_type,
            "expires_in": self.expires_in,
        }


class Accounts:
    """Users, their sessions, and their API keys in `keys`. Shared by all threads.

    `threads` is the server's budget of held threads. A command has its own.
    """

    def __init__(self, engine: Engine, config: Config, threads: ThreadBudget | None = None) -> None:
        self._engine = engine
        self._refresh_ms = config.refresh_token_seconds * 1000
        self.tokens = AccessTokens(config.secret, config.access_token_seconds)
        self.passwords = Passwords(
            config.password_hash_concurrency,
            config.most_logins,
            threads or ThreadBudget(config.held_threads),
        )
        self.principals = PrincipalStore(engine)
        self.keys = ApiKeys(engine, self.principals, most=config.max_keys_per_user)

    # -- users --------------------------------------------------------------------------------
    def create(self, email: str, password: str, role: str = "user") -> User:
        """Create an account. Raises ValidationFailed, or Conflict when the address has one."""
        address = normalise(email)
        check_new(password, address)
        if role not in ROLES:
            raise ValidationFailed(f"role: one of {', '.join(ROLES)}", param="role")
        encoded = self.passwords.hash(password)
        try:
            with self._engine.begin() as connection:
                user = _user(
                    connection,
                    insert_row(connection, users, email=address, password_hash=encoded, role=role),
                )
        except IntegrityError:
            raise Conflict("there is an account with this e-mail address") from None
        logger.info("user_created", extra={"user_id": user.id, "role": role})
        return user

    def get(self, user_id: int) -> User:
        """One user, or NotFound."""
        with self._engine.connect() as connection:
            return _user(connection, user_id)

    def by_email(self, email: str) -> User:
        """One user, or NotFound."""
        user = self._by_email(email)
        if user is None:
            raise NotFound("there is no user with this e-mail address")
        return user

    def list(self, *, limit: int = 100, after: int = 0) -> list[User]:
        """Users, oldest first."""
        page = select(users).where(users.c.id > after).order_by(users.c.id).limit(limit)
        with self._engine.connect() as connection:
            return [User(**row) for row in connection.execute(page).mappings()]

    def disable(self, user_id: int) -> User:
        """Disable a user: all tokens and keys are refused from the next request on."""
        return self._change(user_id, "user_disabled", disabled_at=now_ms())

    def enable(self, user_id: int) -> User:
        """Enable a user again. Keys work again; sessions have ended."""
        return self._change(user_id, "user_enabled", disabled_at=None)

    def set_role(self, user_id: int, role: str) -> User:
        """Change the role. Raises ValidationFailed for one that is not in ROLES."""
        if role not in ROLES:
            raise ValidationFailed(f"role: one of {', '.join(ROLES)}", param="role")
        return self._change(user_id, "user_role_changed", role=role)

    def set_limits(self, user_id: int, limits: dict[str, int | None]) -> User:
        """Change some limits of a user, by column; None takes one away."""
        assert set(limits) <= {limit.name for limit in USER_LIMITS}, limits
        with self._engine.begin() as connection:
            user = _update(connection, user_id, **limits)
        logger.info("user_limits_changed", extra={"user_id": user_id, "changed": sorted(limits)})
        return user

    def reset_password(self, user_id: int, password: str) -> User:
        """Set a password and end every session of the user."""
        user = self.get(user_id)
        check_new(password, user.email)
        return self._new_password(user_id, password, "password_reset")

    def save_settings(self, user_id: int, settings: dict[str, Any]) -> None:
        """Replace the user's chat defaults."""
        with self._engine.begin() as connection:
            _update(connection, user_id, settings=settings)

    # -- sessions -----------------------------------------------------------------------------
    def login(self, email: str, password: str) -> TokenPair:
        """Start a session. Raises Unauthorized.

        An unknown address, a wrong password and a disabled account give the same error after the
        same work.
        """
        user = self._by_email(email)
        good = self.passwords.verify(None if user is None else user.password_hash, password)
        if user is None or not good:
            raise Unauthorized(_WRONG, reason=AuthFailure.BAD_CREDENTIALS)
        if user.disabled_at is not None:
            raise Unauthorized(_WRONG, reason=AuthFailure.DISABLED)
        if self.passwords.needs_rehash(user.password_hash):
            self._change(user.id, "password_rehashed", password_hash=self.passwords.hash(password))
        return self._start_session(user)

    def refresh(self, token: str) -> TokenPair:
        """Exchange a refresh token for a new pair. Raises Unauthorized; a reuse ends the family."""
        with self._engine.connect() as connection:
            row = _refresh_token(connection, refresh_tokens.c.token_hash == digest(token))
            now = now_ms()
            if row is None:
                raise Unauthorized(
                    "the refresh token is not valid; log in again",
                    reason=AuthFailure.REFRESH_UNKNOWN,
                )
            if row.used_at is not None:
                if row.revoked_at is None:
                    # Only once: an old token must not log its owner out again and again.
                    self._end_family(connection, row)
                raise Unauthorized(
                    "the refresh token was used before; log in again",
                    reason=AuthFailure.REFRESH_REUSED,
                )
            if row.revoked_at is not None or row.expires_at <= now:
                raise Unauthorized(
                    "the refresh token has expired; log in again",
                    reason=AuthFailure.REFRESH_EXPIRED,
                )
            user = _user(connection, row.user_id)
            if user.disabled_at is not None:
                raise Unauthorized("the account is disabled", reason=AuthFailure.DISABLED)
            # Of two concurrent uses, only one finds the token unused.
            unused = (refresh_tokens.c.used_at.is_(None), refresh_tokens.c.revoked_at.is_(None))
            taken = connection.execute(
                update(refresh_tokens)
                .where(refresh_tokens.c.id == row.id, *unused)
                .values(used_at=now)
            )
            if taken.rowcount != 1:
                connection.rollback()
                self._end_family(connection, row)
                raise Unauthorized(
                    "the refresh token was used before; log in again",
                    reason=AuthFailure.REFRESH_REUSED,
                )
            pair = self._issue(connection, user, row.family_id)
            connection.commit()
        return pair

    def logout(self, user_id: int, refresh_token: str | None = None) -> None:
        """End the refresh token's session; without a token, all sessions and access tokens."""
        mine = refresh_tokens.c.user_id == user_id
        with self._engine.begin() as connection:
            if refresh_token is not None:
                row = _refresh_token(
                    connection, mine & (refresh_tokens.c.token_hash == digest(refresh_token))
                )
                if row is not None:
                    _revoke(connection, refresh_tokens.c.family_id == row.family_id)
            else:
                _revoke(connection, mine)
                _update(connection, user_id, token_version=users.c.token_version + 1)
        logger.info("logged_out", extra={"user_id": user_id, "everywhere": refresh_token is None})

    def change_password(self, user_id: int, current: str, new: str) -> TokenPair:
        """Change the password, end every session of the user, and start a new one."""
        user = self.get(user_id)
        if not self.passwords.verify(user.password_hash, current):
            raise Unauthorized("the current password is wrong", reason=AuthFailure.BAD_CREDENTIALS)
        check_new(new, user.email)
        return self._start_session(self._new_password(user_id, new, "password_changed"))

    def delete_expired_tokens(self) -> None:
        """Delete refresh tokens a day after they expire. Until then a reuse is noticed."""
        with self._engine.begin() as connection:
            connection.execute(
                delete(refresh_tokens).where(refresh_tokens.c.expires_at < now_ms() - 86_400_000)
            )

    def close(self) -> None:
        """Stop the hashing threads and close kept connections."""
        self.passwords.close()
        self.principals.close()

    # -- inside -------------------------------------------------------------------------------
    def _start_session(self, user: User) -> TokenPair:
        with self._engine.begin() as connection:
            return self._issue(connection, user, secrets.token_hex(16))

    def _issue(self, connection: Connection, user: User, family: str) -> TokenPair:
        token = new_refresh_token()
        expires = now_ms() + self._refresh_ms
        insert_row(
            connection,
            refresh_tokens,
            user_id=user.id,
            family_id=family,
            token_hash=digest(token),
            expires_at=expires,
        )
        return TokenPair(self.tokens.issue(user.id, user.token_version), token, self.tokens.seconds)

    def _by_email(self, email: str) -> User | None:
        with self._engine.connect() as connection:
            found = connection.execute(select(users).where(users.c.email == canonical(email)))
            row = found.mappings().one_or_none()
        return None if row is None else User(**row)

    def _end_family(self, connection: Connection, row: Row[Any]) -> None:
        _revoke(connection, refresh_tokens.c.family_id == row.family_id)
        # Access tokens end as well: the thief may hold one.
        _update(connection, row.user_id, token_version=users.c.token_version + 1)
        connection.commit()
        logger.warning(
            "refresh_token_reused", extra={"user_id": row.user_id, "family": row.family_id[:8]}
        )

    def _new_password(self, user_id: int, password: str, event: str) -> User:
        encoded = self.passwords.hash(password)
        with self._engine.begin() as connection:
            user = _update(
                connection, user_id, password_hash=encoded, token_version=users.c.token_version + 1
            )
            _revoke(connection, refresh_tokens.c.user_id == user_id)
        logger.info(event, extra={"user_id": user_id})
        return user

    def _change(self, user_id: int, event: str, **values: Any) -> User:
        with self._engine.begin() as connection:
            if "disabled_at" in values:
                values["token_version"] = users.c.token_version + 1
            user = _update(connection, user_id, **values)
            if "disabled_at" in values:
                _revoke(connection, refresh_tokens.c.user_id == user_id)
        logger.info(event, extra={"user_id": user_id})
        return user


def normalise(email: str) -> str:
    """The address in lower case. Raises ValidationFailed for one that is not valid."""
    # Here, because compiling its patterns takes 30 ms of a start.
    from email_validator import EmailNotValidError, validate_email

    try:
        return validate_email(
            email, check_deliverability=False, test_environment=True
        ).normalized.lower()
    except EmailNotValidError:
        raise ValidationFailed("email: not an e-mail address", param="email") from None


def canonical(email: str) -> str:
    """The stored spelling of an address. Text that is no address is only lowered: no error."""
    try:
        return normalise(email)
    except ValidationFailed:
        return email.strip().lower()


def _user(connection: Connection, user_id: int) -> User:
    row = None
    if user_id <= MAX_ID:
        found = connection.execute(select(users).where(users.c.id == user_id))
        row = found.mappings().one_or_none()
    if row is None:
        raise NotFound("there is no such user")
    return User(**row)


def _update(connection: Connection, user_id: int, **values: Any) -> User:
    # Read after the change: `values` may hold SQL expressions.
    if user_id <= MAX_ID:
        connection.execute(update(users).where(users.c.id == user_id).values(**values))
    return _user(connection, user_id)


def _refresh_token(connection: Connection, condition: ColumnElement[bool]) -> Row[Any] | None:
    return connection.execute(select(refresh_tokens).where(condition)).one_or_none()


def _revoke(connection: Connection, condition: ColumnElement[bool]) -> None:
    connection.execute(
        update(refresh_tokens)
        .where(condition, refresh_tokens.c.revoked_at.is_(None))
        .values(revoked_at=now_ms())
    )
