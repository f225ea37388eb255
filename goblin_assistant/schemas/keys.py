"""Shapes of API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from goblin_assistant.database.models import ApiKey
from goblin_assistant.schemas.base import ModelName, Strict, rfc3339
from goblin_assistant.schemas.limits import KeyLimitsGiven, KeyLimitsShown, limits_out

Scope = Literal["chat", "embeddings", "admin"]


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


class KeyLimits(KeyLimitsGiven):
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


class KeyOut(KeyLimitsShown):
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
