"""The limits that a user or an API key may have: one field for each.

A limit of users goes into UserLimits and is one of keys as well. A new limit is a field here, a
migration for its column, and the code that enforces it. The columns of the tables, keys' creation,
change, rotation and listing, the API's schemas and the options of the command line are made from
these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

MAX_COUNT = 1_000_000_000
"""The largest value of a limit that is a count. Money is bounded by its pattern in the schemas."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What is known about one limit besides its value."""

    name: str
    """The attribute and the column."""
    api_name: str
    """Its name in requests and answers; the option of the command line is the same with dashes."""
    help: str
    is_money: bool
    """Whole micro-dollars inside, US dollars as a decimal string outside."""
    listed: bool
    """Whether `keys list` has a column for it."""
    instance_limit: str | None
    """The attribute of OwnLimits that users cannot exceed with their own keys; an admin can."""


def _limit(
    help: str,
    *,
    api_name: str | None = None,
    listed: bool = False,
    instance_limit: str | None = None,
) -> Any:
    about = {
        "help": help,
        "api_name": api_name,
        "listed": listed,
        "instance_limit": instance_limit,
    }
    return field(default=None, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """The limits of a user, set by an admin. None: the instance's limit, or none."""

    requests_per_minute: int | None = _limit(
        "chats a minute", listed=True, instance_limit="chats_per_minute"
    )
    tokens_per_minute: int | None = _limit("tokens a minute, prompt and answer together")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits(UserLimits):
    """The limits of an API key. None: the instance's limit, or none."""

    max_concurrency: int | None = _limit("chats at once")
    monthly_budget_microusd: int | None = _limit(
        "12.50; a calendar month, UTC", api_name="monthly_budget_usd", listed=True
    )


def _limits_of(kind: type[UserLimits]) -> tuple[Limit, ...]:
    return tuple(
        Limit(
            name=item.name,
            api_name=item.metadata["api_name"] or item.name,
            help=item.metadata["help"],
            is_money=item.name.endswith("_microusd"),
            listed=item.metadata["listed"],
            instance_limit=item.metadata["instance_limit"],
        )
        for item in fields(kind)
    )


USER_LIMITS = _limits_of(UserLimits)
KEY_LIMITS = _limits_of(KeyLimits)


def limit_values(
    limited: Any, limits: Sequence[Limit] = KEY_LIMITS, prefix: str = ""
) -> dict[str, int | None]:
    """Column to value. `prefix` stands before the names of the attributes."""
    return {limit.name: getattr(limited, prefix + limit.name) for limit in limits}
