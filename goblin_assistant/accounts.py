"""Users: made, logged in, disabled; and the families of refresh tokens that keep them logged in.

A refresh token is good for one use, which gives the next one of its family. A second use means that two hold it, and one of them has stolen it: the
family ends, for both (https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2).
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from goblin_assistant.api_keys import MAX_ID, ApiKeys
from goblin_assistant.config import Config
from goblin_assistant.errors import Conflict, NotFound, Unauthorized, ValidationFailed
from goblin_assistant.models import RefreshToken, User, now_ms
from goblin_assistant.passwords import Passwords, check_new
from goblin_assistant.principals import Principal, PrincipalStore
from goblin_assistant.tokens import AccessTokens, digest, new_refresh_token

__all__ = ["Accounts", "Principal", "TokenPair"]

logger = logging.getLogger("goblin_assistant.accounts")

ROLES = ("user", "admin")
_WRONG = "e-mail or password is wrong"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login gives. `expires_in` is the access token's, in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "bearer"

    def as_dict(self) -> dict[str, Any]:
        """The login's answer."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": self.token_type,
            "expires_in": self.expires_in,
        }


class Accounts:
    """The users and their tokens; `keys` are their API keys. Shared by all threads."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self._engine = engine
        self._refresh_ms = config.refresh_token_seconds * 1000
        self.tokens = AccessTokens(config.secret, config.access_token_seconds)
        self.passwords = Passwords(config.password_hash_concurrency)
        self.principals = PrincipalStore(engine)
        self.keys = ApiKeys(engine, self.principals)

    # -- users --------------------------------------------------------------------------------
    def create(self, email: str, password: str, role: str = "user") -> User:
        """Make an account. Raises ValidationFailed, or Conflict when the address has one."""
        address = normalise(email)
        check_new(password, address)
        if role not in ROLES:
            raise ValidationFailed(f"role: one of {', '.join(ROLES)}", param="role")
        user = User(email=address, password_hash=self.passwords.hash(password), role=role)
        with Session(self._engine, expire_on_commit=False) as session:
            session.add(user)
            try:
                session.commit()
            except IntegrityError:
                raise Conflict("there is an account with this e-mail address") from None
        logger.info("user_created", extra={"user_id": user.id, "role": role})
        return user

    def get(self, user_id: int) -> User:
        """One user, or NotFound."""
        with Session(self._engine, expire_on_commit=False) as session:
            return _user(session, user_id)

    def by_email(self, email: str) -> User:
        """One user, or NotFound."""
        with Session(self._engine, expire_on_commit=False) as session:
            user = session.scalar(select(User).where(User.email == canonical(email)))
            if user is None:
                raise NotFound("there is no user with this e-mail address")
            return user

    def list(self, *, limit: int = 100, after: int = 0) -> list[User]:
        """Users in the order of their making."""
        with Session(self._engine) as session:
            return list(session.scalars(select(User).where(User.id > after).order_by(User.id).limit(limit)))

    def disable(self, user_id: int) -> User:
        """Lock a user out: every token and key of theirs is refused from the next request on."""
        return self._change(user_id, "user_disabled", disabled_at=now_ms())

    def enable(self, user_id: int) -> User:
        """Let a disabled user in again; they have to log in."""
        return self._change(user_id, "user_enabled", disabled_at=None)

    def set_role(self, user_id: int, role: str) -> User:
        """Make a user an admin, or no longer one."""
        if role not in ROLES:
            raise ValidationFailed(f"role: one of {', '.join(ROLES)}", param="role")
        return self._change(user_id, "user_role_changed", role=role)

    def reset_password(self, user_id: int, password: str) -> User:
        """Set a password and end every session of the user."""
        user = self.get(user_id)
        check_new(password, user.email)
        return self._new_password(user_id, password, "password_reset")

    def save_settings(self, user_id: int, settings: dict[str, Any]) -> None:
        """Replace the user's chat defaults."""
        with Session(self._engine) as session:
            _user(session, user_id).settings = settings
            session.commit()

    # -- sessions -----------------------------------------------------------------------------
    def login(self, email: str, password: str) -> TokenPair:
        """Start a session. Unknown address, wrong password and disabled account are the same answer after the same work."""
        with Session(self._engine, expire_on_commit=False) as session:
            user = session.scalar(select(User).where(User.email == canonical(email)))
        good = self.passwords.verify(None if user is None else user.password_hash, password)
        if user is None or not good:
            raise Unauthorized(_WRONG, reason="bad_credentials")
        if user.disabled_at is not None:
            raise Unauthorized(_WRONG, reason="disabled")
        if self.passwords.needs_rehash(user.password_hash):
            self._change(user.id, "password_rehashed", password_hash=self.passwords.hash(password))
        return self._start_session(user)

    def refresh(self, token: str) -> TokenPair:
        """Use a refresh token once for a new pair. Raises Unauthorized; a second use ends the family."""
        with Session(self._engine, expire_on_commit=False) as session:
            row = session.scalar(select(RefreshToken).where(RefreshToken.token_hash == digest(token)))
            now = now_ms()
            if row is None:
                raise Unauthorized("the refresh token is not valid; log in again", reason="refresh_unknown")
            if row.used_at is not None:
                if row.revoked_at is None:
                    # Once only: else whoever holds an old token could log its owner out again and again.
                    self._end_family(session, row)
                raise Unauthorized("the refresh token was used before; log in again", reason="refresh_reused")
            if row.revoked_at is not None or row.expires_at <= now:
                raise Unauthorized("the refresh token has expired; log in again", reason="refresh_expired")
            user = _user(session, row.user_id)
            if user.disabled_at is not None:
                raise Unauthorized("the account is disabled", reason="disabled")
            # Of two uses at once only one finds it unused.
            taken = session.execute(
                update(RefreshToken)
                .where(RefreshToken.id == row.id, RefreshToken.used_at.is_(None), RefreshToken.revoked_at.is_(None))
                .values(used_at=now)
            )
            if taken.rowcount != 1:  # type: ignore[attr-defined]
                session.rollback()
                self._end_family(session, row)
                raise Unauthorized("the refresh token was used before; log in again", reason="refresh_reused")
            pair = self._issue(session, user, row.family_id)
            session.commit()
        return pair

    def logout(self, user_id: int, refresh_token: str | None = None) -> None:
        """End the session that the refresh token belongs to; without one, all sessions of the user, access tokens included."""
        with Session(self._engine) as session:
            if refresh_token is not None:
                row = session.scalar(
                    select(RefreshToken).where(
                        RefreshToken.token_hash == digest(refresh_token), RefreshToken.user_id == user_id
                    )
                )
                if row is not None:
                    _revoke(session, RefreshToken.family_id == row.family_id)
            else:
                _revoke(session, RefreshToken.user_id == user_id)
                _user(session, user_id).token_version += 1
            session.commit()
        logger.info("logged_out", extra={"user_id": user_id, "everywhere": refresh_token is None})

    def change_password(self, user_id: int, current: str, new: str) -> TokenPair:
        """Change the password, end every session of the user, and start one for the caller."""
        user = self.get(user_id)
        if not self.passwords.verify(user.password_hash, current):
            raise Unauthorized("the current password is wrong", reason="bad_credentials")
        check_new(new, user.email)
        return self._start_session(self._new_password(user_id, new, "password_changed"))

    def delete_expired_tokens(self) -> None:
        """Forget refresh tokens that expired a day ago; until then a reuse of one is still noticed."""
        with self._engine.begin() as connection:
            connection.execute(delete(RefreshToken).where(RefreshToken.expires_at < now_ms() - 86_400_000))

    def close(self) -> None:
        """End the threads that hash, give kept connections back."""
        self.passwords.close()
        self.principals.close()

    # -- inside -------------------------------------------------------------------------------
    def _start_session(self, user: User) -> TokenPair:
        with Session(self._engine) as session:
            pair = self._issue(session, user, secrets.token_hex(16))
            session.commit()
        return pair

    def _issue(self, session: Session, user: User, family: str) -> TokenPair:
        token = new_refresh_token()
        session.add(
            RefreshToken(
                user_id=user.id,
                family_id=family,
                token_hash=digest(token),
                expires_at=now_ms() + self._refresh_ms,
            )
        )
        return TokenPair(self.tokens.issue(user.id, user.token_version), token, self.tokens.seconds)

    def _end_family(self, session: Session, row: RefreshToken) -> None:
        _revoke(session, RefreshToken.family_id == row.family_id)
        # The thief may hold an access token as well: both holders are out now, not when it expires.
        session.execute(update(User).where(User.id == row.user_id).values(token_version=User.token_version + 1))
        session.commit()
        logger.warning("refresh_token_reused", extra={"user_id": row.user_id, "family": row.family_id[:8]})

    def _new_password(self, user_id: int, password: str, event: str) -> User:
        encoded = self.passwords.hash(password)
        with Session(self._engine, expire_on_commit=False) as session:
            user = _user(session, user_id)
            user.password_hash = encoded
            user.token_version += 1
            _revoke(session, RefreshToken.user_id == user_id)
            session.commit()
        logger.info(event, extra={"user_id": user_id})
        return user

    def _change(self, user_id: int, event: str, **values: Any) -> User:
        with Session(self._engine, expire_on_commit=False) as session:
            user = _user(session, user_id)
            for name, value in values.items():
                setattr(user, name, value)
            if "disabled_at" in values:
                user.token_version += 1
                _revoke(session, RefreshToken.user_id == user_id)
            session.commit()
        logger.info(event, extra={"user_id": user_id})
        return user


def normalise(email: str) -> str:
    """The address in lower case, or ValidationFailed."""
    from email_validator import EmailNotValidError, validate_email  # compiles patterns for 30 ms: not at every start

    try:
        return validate_email(email, check_deliverability=False, test_environment=True).normalized.lower()
    except EmailNotValidError:
        raise ValidationFailed("email: not an e-mail address", param="email") from None


def canonical(email: str) -> str:
    """The spelling under which an address would be stored, also of what is no address: a login is compared, not judged."""
    try:
        return normalise(email)
    except ValidationFailed:
        return email.strip().lower()


def _user(session: Session, user_id: int) -> User:
    user = session.get(User, user_id) if user_id <= MAX_ID else None
    if user is None:
        raise NotFound("there is no such user")
    return user


def _revoke(session: Session, condition: Any) -> None:
    session.execute(
        update(RefreshToken).where(condition, RefreshToken.revoked_at.is_(None)).values(revoked_at=now_ms())
    )
