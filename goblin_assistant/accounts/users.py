"""Users: accounts, roles and limits. Their sessions are in sessions.py, API keys in api_keys.py."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from goblin_assistant.accounts.api_keys import ApiKeys
from goblin_assistant.accounts.emails import normalise
from goblin_assistant.accounts.passwords import Passwords, check_new
from goblin_assistant.accounts.principals import Principal, PrincipalStore
from goblin_assistant.accounts.sessions import Sessions
from goblin_assistant.accounts.statements import (
    revoke_tokens,
    update_user,
    user_by_email,
    user_by_id,
)
from goblin_assistant.accounts.tokens import AccessTokens
from goblin_assistant.config import Config
from goblin_assistant.database.engine import insert_row
from goblin_assistant.database.key_limits import USER_LIMITS
from goblin_assistant.database.models import User, now_ms, refresh_tokens, users
from goblin_assistant.database.pool import begin, connect
from goblin_assistant.errors import Conflict, NotFound, ValidationFailed
from goblin_assistant.threads.budget import ThreadBudget

__all__ = ["Accounts", "Principal"]

logger = logging.getLogger("goblin_assistant.accounts")

ROLES = ("user", "admin")


class Accounts:
    """Users; `sessions` has their sessions, `keys` their API keys. Shared by all threads.

    `threads` is the server's budget of held threads. A command has its own.
    """

    def __init__(self, engine: Engine, config: Config, threads: ThreadBudget | None = None) -> None:
        self._engine = engine
        self.tokens = AccessTokens(config.accepted_secrets, config.access_token_seconds)
        self.passwords = Passwords(
            config.password_hash_concurrency,
            config.most_logins,
            threads or ThreadBudget(config.held_threads),
        )
        self.sessions = Sessions(engine, self.tokens, self.passwords, config.refresh_token_seconds)
        self.principals = PrincipalStore(engine)
        self.keys = ApiKeys(engine, self.principals, most=config.max_keys_per_user)

    def create(self, email: str, password: str, role: str = "user") -> User:
        """Create an account. Raises ValidationFailed, or Conflict when the address has one."""
        address = normalise(email)
        check_new(password, address)
        if role not in ROLES:
            raise ValidationFailed(f"role: one of {', '.join(ROLES)}", param="role")
        encoded = self.passwords.hash(password)
        try:
            with begin(self._engine) as connection:
                user = user_by_id(
                    connection,
                    insert_row(connection, users, email=address, password_hash=encoded, role=role),
                )
        except IntegrityError:
            raise Conflict("there is an account with this e-mail address") from None
        logger.info("user_created", extra={"user_id": user.id, "role": role})
        return user

    def get(self, user_id: int) -> User:
        """One user, or NotFound."""
        with connect(self._engine) as connection:
            return user_by_id(connection, user_id)

    def by_email(self, email: str) -> User:
        """One user, or NotFound."""
        with connect(self._engine) as connection:
            user = user_by_email(connection, email)
        if user is None:
            raise NotFound("there is no user with this e-mail address")
        return user

    def list(self, *, limit: int = 100, after: int = 0) -> list[User]:
        """Users, oldest first."""
        page = select(users).where(users.c.id > after).order_by(users.c.id).limit(limit)
        with connect(self._engine) as connection:
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
        with begin(self._engine) as connection:
            user = update_user(connection, user_id, **limits)
        logger.info("user_limits_changed", extra={"user_id": user_id, "changed": sorted(limits)})
        return user

    def reset_password(self, user_id: int, password: str) -> User:
        """Set a password and end every session of the user."""
        user = self.get(user_id)
        check_new(password, user.email)
        return self.sessions.new_password(user_id, password, "password_reset")

    def save_settings(self, user_id: int, settings: dict[str, Any]) -> None:
        """Replace the user's chat defaults."""
        with begin(self._engine) as connection:
            update_user(connection, user_id, settings=settings)

    def warm(self) -> None:
        """Open the connections that look up who is calling."""
        self.principals.warm()

    def close(self) -> None:
        """Stop the hashing threads and close kept connections."""
        self.passwords.close()
        self.principals.close()

    def _change(self, user_id: int, event: str, **values: Any) -> User:
        with begin(self._engine) as connection:
            if "disabled_at" in values:
                values["token_version"] = users.c.token_version + 1
            user = update_user(connection, user_id, **values)
            if "disabled_at" in values:
                revoke_tokens(connection, refresh_tokens.c.user_id == user_id)
        logger.info(event, extra={"user_id": user_id})
        return user
