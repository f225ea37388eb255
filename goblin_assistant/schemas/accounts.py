"""Shapes of accounts, sessions and admin routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from goblin_assistant.database.key_limits import USER_LIMITS
from goblin_assistant.database.models import User
from goblin_assistant.schemas.base import Strict, rfc3339
from goblin_assistant.schemas.limits import UserLimitsGiven, UserLimitsShown, limits_out

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Credentials(Strict):
    """E-mail address and password."""

    email: Annotated[
        str,
        StringConstraints(min_length=1, max_length=320),
        Field(json_schema_extra={"format": "email"}),
    ]
    password: Text


class RefreshIn(Strict):
    """A refresh token, good for one use."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class SessionIn(Strict):
    """The session to take over; without a token, that of the cookie."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class LogoutIn(Strict):
    """The session to end; without a token, all sessions of the user."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class PasswordIn(Strict):
    """The current password and the new one."""

    current_password: Text
    new_password: Text
    revoke_keys: bool = Field(False, description="true: revoke all of the caller's API keys too")


class Tokens(Strict):
    """What a login gives."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="seconds")


class PasswordChanged(Tokens):
    """What a new password gives."""

    api_keys: int = Field(description="the caller's API keys that go on working")


class UserOut(UserLimitsShown):
    """An account."""

    id: int
    email: str
    role: Literal["user", "admin"]
    created_at: str
    disabled_at: str | None


class SessionOut(Strict):
    """A renewed session of the page. Its refresh token is in the cookie only."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="seconds")
    session_id: str = Field(description="as `GET /auth/sessions` names it")
    user: UserOut


class OneSession(Strict):
    """A session that goes on. Times are RFC 3339 in UTC."""

    id: str
    started_at: str = Field(
        description="of a session that is older than its tokens are kept: later"
    )
    renewed_at: str
    expires_at: str = Field(description="unless it is renewed before")


class SessionList(Strict):
    """The last sessions, the one renewed last first; `total` counts all."""

    sessions: list[OneSession]
    total: int


class NewUser(Credentials):
    """An account made by an admin."""

    role: Literal["user", "admin"] = "user"


class UserChange(UserLimitsGiven):
    """Changes to an account; what is left out stays as it is, null takes a limit away."""

    role: Literal["user", "admin"] | None = None
    disabled: bool | None = None
    password: Text | None = None
    revoke_keys: bool = Field(False, description="true: revoke all of the user's API keys")


class UserList(Strict):
    """Users; `next_after` is the cursor of the next page, null on the last."""

    users: list[UserOut]
    next_after: int | None


class LimitsOut(Strict):
    """The limits in force on this instance."""

    enabled: bool
    storage: str
    degraded: bool
    groups: dict[str, str]
    chat_slots: int
    threads: int


def user_out(user: User) -> dict[str, Any]:
    """A user as the API shows it."""
    return {
        "id": user.id,
        "email": user.email,
        "role": user.role,
        **limits_out(user, USER_LIMITS),
        "created_at": rfc3339(user.created_at),
        "disabled_at": rfc3339(user.disabled_at),
    }
