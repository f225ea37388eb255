"""Shapes of GET /usage. Money is in whole micro-dollars, and in US dollars as a decimal string."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from goblin_assistant.schemas.base import Query, Strict

Number = Annotated[int, Field(ge=1, le=9_007_199_254_740_991)]
Moment = Annotated[str, StringConstraints(max_length=40)]


class UsageQuery(Query):
    """What is to be added up, and how."""

    from_: Moment | None = Field(
        None,
        alias="from",
        description="first day (2026-11-01) or time with its zone; default: 30 days with today",
    )
    to: Moment | None = Field(
        None, description="last day, which is included, or a time, which is not; default: now"
    )
    group_by: str = Field(
        "day",
        max_length=300,
        description=(
            "day, model, key, user, tag:NAME (at most 4), separated by commas; user for admins only"
        ),
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    # Four tags of 512 characters have 11,000 in base64.
    cursor: str | None = Field(
        None, max_length=16_000, description="next_cursor of the page before"
    )
    format: Literal["json", "csv"] | None = Field(
        None, description="default: what the header Accept prefers, or json"
    )
    user_id: Number | None = Field(None, description="another user's records; admins only")
    key_id: Number | None = Field(None, description="one API key's records")
    scope: Literal["own", "all"] = Field("own", description="all: everybody's records; admins only")


class UsageSums(Strict):
    """Sums over a group of requests."""

    requests: int
    failed_requests: int = Field(
        description="that did not reach their end: errors, cut streams, refused by the budget"
    )
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = Field(description="part of prompt_tokens")
    cache_write_tokens: int = Field(description="part of prompt_tokens")
    reasoning_tokens: int = Field(description="part of completion_tokens")
    cost_microusd: int = Field(description="of the requests whose price is known")
    cost_usd: str
    unpriced_requests: int = Field(description="whose price is not known; they are not in the cost")
    estimated_requests: int = Field(description="whose tokens the provider did not count")


class UsageRow(UsageSums):
    """One group; the columns that were asked for by group_by are there. A tag's column is named
    `tag:NAME`; null: without the tag."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | None]

    day: str | None = None
    provider: str | None = None
    model: str | None = None
    key_id: int | None = Field(None, description="null: by access token")
    key_name: str | None = None
    key_prefix: str | None = None
    user_id: int | None = None
    user_email: str | None = None


class BudgetOut(Strict):
    """The calling key's budget this month."""

    period: str
    budget_usd: str
    spent_usd: str
    reserved_usd: str
    resets_at: str


class UsageOut(Strict):
    """A page of usage; totals are over all pages."""

    from_: str = Field(alias="from")
    to: str
    group_by: list[str]
    rows: list[UsageRow]
    totals: UsageSums
    next_cursor: str | None
    budget: BudgetOut | None = None
