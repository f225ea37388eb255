"""How a setting is declared: its variable, its help text and the types of its value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


class Settings(BaseModel):
    """A group of settings. Config is all groups together, and the only one that is validated."""

    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        validate_default=True,
        frozen=True,
        defer_build=True,
    )


def setting(default: Any, env: str, help: str, **extra: Any) -> Any:
    """A field with its variable and its help text; the documentation is generated from them."""
    return Field(default, validation_alias=env, description=help, **extra)


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _limit(value: str) -> str:
    # Checked at start: otherwise a typo would be a 500 for every request.
    from limits import parse_many

    try:
        parse_many(value)
    except ValueError:
        raise ValueError(
            "accepted: '<count> per <second|minute|hour|day>', for example '10 per minute'"
        ) from None
    return value


def _blank(value: Any) -> Any:
    # `NAME=` in .env means that the setting is not set.
    return None if value == "" else value


CommaList = Annotated[list[str], BeforeValidator(_split)]
Limit = Annotated[str, AfterValidator(_limit)]
"""A limit in the grammar of the limits library."""
Secret = Annotated[SecretStr | None, BeforeValidator(_blank)]
OptionalText = Annotated[str | None, BeforeValidator(_blank)]
OptionalPath = Annotated[Path | None, BeforeValidator(_blank)]
OptionalBool = Annotated[bool | None, BeforeValidator(_blank)]
OptionalInt = Annotated[int | None, BeforeValidator(_blank)]
OptionalFloat = Annotated[float | None, BeforeValidator(_blank)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
