"""Shapes of accounts, API keys, settings and admin routes.

Money is in US dollars, as a decimal string; inside the product it is in whole micro-dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
    model_validator,
)

from goblin_assistant.database.limits import KEY_LIMITS, MAX_COUNT, USER_LIMITS, Limit
from goblin_assistant.database.models import ApiKey, User
from goblin_assistant.money import from_microusd, to_microusd
from goblin_assistant.schemas.base import ModelName, Query, Strict, rfc3339

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Scope = Literal["chat", "embeddings", "admin"]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]

USD_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
Usd = Annotated[str, StringConstraints(pattern=USD_PATTERN)]
"""US dollars as a decimal string with at most six decimals: `"12.50"`. Not a number, because most
JSON parsers make it a float."""


def _text(value: Any) -> Any:
    # Pydantic would read a number as seconds or as milliseconds, depending on its size.
    if isinstance(value, (int, float)):
        raise ValueError("accepted: a time with its zone, for example 2030-01-31T12:00:00Z")
    return value


def _in_range(value: datetime) -> datetime:
    # The ends of the calendar overflow when they are moved to UTC.
    if not 1970 < value.year < 9999:
        raise ValueError("accepted: a year from 1971 to 9998")
    return value


Time = Annotated[
    AwareDatetime, Field(strict=False), BeforeValidator(_text), AfterValidator(_in_range)
]
"""A time in RFC 3339, with its zone."""


# -- limits --------------------------------------------------------------------------------------
def _given(limits: Sequence[Limit]) -> dict[str, Any]:
    return {
        limit.api_name: (
            (Usd if limit.is_money else Count) | None,
            Field(None, description=limit.help),
        )
        for limit in limits
    }


def _shown(limits: Sequence[Limit]) -> dict[str, Any]:
    return {limit.api_name: (str if limit.is_money else int) | None for limit in limits}


# Any: the fields are made from the table, so mypy cannot know them.
_KeyLimitsGiven: Any = create_model("_KeyLimitsGiven", __base__=Strict, **_given(KEY_LIMITS))
_KeyLimitsShown: Any = create_model("_KeyLimitsShown", __base__=Strict, **_shown(KEY_LIMITS))
_UserLimitsGiven: Any = create_model("_UserLimitsGiven", __base__=Strict, **_given(USER_LIMITS))
_UserLimitsShown: Any = create_model("_UserLimitsShown", __base__=Strict, **_shown(USER_LIMITS))


# -- accounts -------------------------------------------------------------------------------------
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


class LogoutIn(Strict):
    """The session to end; without a token, all sessions of the user."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class PasswordIn(Strict):
    """The current password and the new one."""

    current_password: Text
    new_password: Text


class Tokens(Strict):
    """What a login gives."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="seconds")


class UserOut(_UserLimitsShown):
    """An account."""

    id: int
    email: str
    role: Literal["user", "admin"]
    created_at: str
    disabled_at: str | None


# -- API keys -------------------------------------------------------------------------------------
class KeyLimits(_KeyLimitsGiven):
    """What a key may do; null means: the instance's limit, or none."""

    allowed_models: Annotated[list[ModelName], Field(min_length=1, max_length=100)] | None = None
    expires_at: Time | None = None


class KeyIn(KeyLimits):
    """A new key."""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    ]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = ["chat", "embeddings"]
    expires_in: (
        Annotated[int, Field(ge=1, le=3_153_600_000, description="seconds; instead of expires_at")]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("give expires_at or expires_in, not both")
        return self


class KeyChange(KeyLimits):
    """Changes to a key: what is left out stays as it is, null takes a limit away."""

    name: (
        Annotated[
            str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
        ]
        | None
    ) = None
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] | None = None


class RotateIn(Strict):
    """How long the old key stays good."""

    grace_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = 86_400


class KeyOut(_KeyLimitsShown):
    """A key, without its secret."""

    id: int
    user_id: int
    name: str
    prefix: str
    scopes: list[Scope]
    allowed_models: list[str] | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    replaced_by_id: int | None


class NewKeyOut(KeyOut):
    """A key just made, with its secret: it is shown this once."""

    key: str


class KeyList(Strict):
    """Keys; `next_after` is the cursor of the next page, null on the last."""

    keys: list[KeyOut]
    next_after: int | None


class Page(Query):
    """Which page of a list."""

    after: Annotated[int, Field(ge=0, le=9_007_199_254_740_991)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 100


# -- settings -------------------------------------------------------------------------------------
class SettingsIn(Strict):
    """The defaults of a user's chats; null or left out: none."""

    model: ModelName | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    system_prompt: Annotated[str, StringConstraints(max_length=32_768)] | None = None


class ProviderOut(Strict):
    """A provider and the models known of it."""

    name: str
    models: list[str]


class SettingsOut(SettingsIn):
    """The defaults, and what may be chosen."""

    model_config = ConfigDict(strict=True, extra="forbid")
    default_model: str = Field(description="the instance's, used when `model` is null")
    providers: list[ProviderOut]
    aliases: list[str]


# -- admin ----------------------------------------------------------------------------------------
class NewUser(Credentials):
    """An account made by an admin."""

    role: Literal["user", "admin"] = "user"


class UserChange(_UserLimitsGiven):
    """Changes to an account; what is left out stays as it is, null takes a limit away."""

    role: Literal["user", "admin"] | None = None
    disabled: bool | None = None
    password: Text | None = None


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


def limits_in(body: Any, limits: Sequence[Limit] = KEY_LIMITS) -> dict[str, int | None]:
    """Column to value, of the limits in a request's body."""
    values = {}
    for limit in limits:
        value = getattr(body, limit.api_name)
        values[limit.name] = to_microusd(value) if limit.is_money and value is not None else value
    return values


def limits_out(row: Any, limits: Sequence[Limit] = KEY_LIMITS) -> dict[str, int | str | None]:
    """The limits of a user or a key as the API shows them."""
    values = {}
    for limit in limits:
        value = getattr(row, limit.name)
        shown = from_microusd(value) if limit.is_money and value is not None else value
        values[limit.api_name] = shown
    return values


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


def key_out(key: ApiKey) -> dict[str, Any]:
    """A key as the API shows it."""
    return {
        "id": key.id,
        "user_id": key.user_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "allowed_models": key.allowed_models,
        **limits_out(key),
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at),
        "revoked_at": rfc3339(key.revoked_at),
        "last_used_at": rfc3339(key.last_used_at),
        "replaced_by_id": key.replaced_by_id,
    }
