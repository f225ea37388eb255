"""Shapes of the limits of users and keys, made from the table in database/key_limits.py.

Money is in US dollars, as a decimal string; inside the product it is in whole micro-dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, create_model

from goblin_assistant.database.key_limits import KEY_LIMITS, MAX_COUNT, USER_LIMITS, Limit
from goblin_assistant.money import from_microusd, to_microusd
from goblin_assistant.schemas.base import Strict

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]

USD_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
Usd = Annotated[str, StringConstraints(pattern=USD_PATTERN)]
"""US dollars as a decimal string with at most six decimals: `"12.50"`. Not a number, because most
JSON parsers make it a float."""


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
KeyLimitsGiven: Any = create_model(
    "KeyLimitsGiven",
    __base__=Strict,
    __doc__="The limits of a key in a request.",
    **_given(KEY_LIMITS),
)
KeyLimitsShown: Any = create_model(
    "KeyLimitsShown",
    __base__=Strict,
    __doc__="The limits of a key in an answer.",
    **_shown(KEY_LIMITS),
)
UserLimitsGiven: Any = create_model(
    "UserLimitsGiven",
    __base__=Strict,
    __doc__="The limits of a user in a request.",
    **_given(USER_LIMITS),
)
UserLimitsShown: Any = create_model(
    "UserLimitsShown",
    __base__=Strict,
    __doc__="The limits of a user in an answer.",
    **_shown(USER_LIMITS),
)


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
