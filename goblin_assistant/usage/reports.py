"""Sums over usage records by day, model, key, user and tag, in pages, exact in micro-dollars.

Records without a known price are counted apart (`unpriced_requests`), and so are those with
estimated tokens (`estimated_requests`). Days are UTC. The range is given by record ids, which begin
with the time, so that every report reads one range of one index.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, literal, or_, select
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.database.models import api_keys, usage_records, users
from goblin_assistant.database.pool import connect
from goblin_assistant.errors import Unavailable, ValidationFailed
from goblin_assistant.money import from_microusd
from goblin_assistant.usage.records import first_id_at
from goblin_assistant.usage.tags import is_name

DAY_MS = 86_400_000
DEFAULT_DAYS = 30
GROUPS = ("day", "model", "key", "user")
MAX_PAGE = 1000

R = usage_records.c
_EPOCH = date(1970, 1, 1)

# Group -> output name -> expression. Never null, so that a cursor can compare rows.
_PARTS: dict[str, dict[str, ColumnElement[Any]]] = {
    "day": {"day": R.created_at // DAY_MS},
    "model": {"provider": R.provider.expression, "model": R.model.expression},
    "key": {"key_id": func.coalesce(R.key_id, 0)},
    "user": {"user_id": func.coalesce(R.user_id, 0)},
}
_TAG = "tag:"
MAX_TAGS = 4
"""Of a report: their values are in its cursor, which is a part of an address."""


def _parts_of(group: str) -> dict[str, ColumnElement[Any]]:
    if group.startswith(_TAG):
        return {group: func.coalesce(R.tags[group.removeprefix(_TAG)].as_string(), "")}
    return _PARTS[group]


_SUMS: dict[str, ColumnElement[Any]] = {
    "requests": func.count(),
    "failed_requests": func.count().filter(R.completed.is_(False)),
    "prompt_tokens": func.sum(R.prompt_tokens),
    "completion_tokens": func.sum(R.completion_tokens),
    "cached_tokens": func.sum(R.cached_tokens),
    "cache_write_tokens": func.sum(R.cache_write_tokens),
    "reasoning_tokens": func.sum(R.reasoning_tokens),
    "cost_microusd": func.sum(R.cost_microusd),
    "unpriced_requests": func.count().filter(R.cost_microusd.is_(None)),
    "estimated_requests": func.count().filter(R.token_source == "estimated"),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose records. None: of every user, of every key."""

    user_id: int | None = None
    key_id: int | None = None


@dataclass(slots=True)
class Report:
    """One page: `rows` with the group's columns and the sums, `totals` over all pages."""

    start_ms: int
    end_ms: int
    group_by: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=dict)
    next_cursor: str | None = None


def parse_range(start: str | None, end: str | None, now: datetime | None = None) -> tuple[int, int]:
    """The range in ms since 1970, from `start` (included) to `end` (excluded).

    Dates are UTC days; a date as `end` is included. Default: the last 30 days with today. Raises
    ValidationFailed.
    """
    today = (now or datetime.now(UTC)).date()
    first = _parse(start, "from") if start else _ms(today - timedelta(days=DEFAULT_DAYS - 1))
    if not end:
        last = max(_ms(today + timedelta(days=1)), first)
    elif len(end) == 10:
        last = _parse(end, "to") + DAY_MS
    else:
        last = _parse(end, "to")
    if last < first or (last == first and end is not None and len(end) == 10):
        raise ValidationFailed("to: must not be before from", param="to")
    return first, last


def _ms(day: date) -> int:
    return (day - _EPOCH).days * DAY_MS


def _parse(text: str, name: str) -> int:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            found = _ms(date.fromisoformat(text))
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError("no zone")
            found = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValidationFailed(
            f"{name}: accepted: a day (2026-11-23) or a time with its zone (2026-11-23T12:00:00Z)",
            param=name,
        ) from None
    if not 0 <= found < 2**47:
        raise ValidationFailed(f"{name}: accepted: 1970 and later", param=name)
    return found


def parse_groups(text: str) -> tuple[str, ...]:
    """`day,tag:team` as a tuple without repetitions. Raises ValidationFailed."""
    groups = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not groups or not all(group in GROUPS or _is_tag(group) for group in groups):
        raise ValidationFailed(
            f"group_by: accepted: {', '.join(GROUPS)} and tag:NAME, separated by commas",
            param="group_by",
        )
    if sum(map(_is_tag, groups)) > MAX_TAGS:
        raise ValidationFailed(f"group_by: at most {MAX_TAGS} tags", param="group_by")
    return groups


def _is_tag(group: str) -> bool:
    return group.startswith(_TAG) and is_name(group.removeprefix(_TAG)) is not None


def report(
    engine: Engine,
    scope: Scope,
    start_ms: int,
    end_ms: int,
    group_by: Sequence[str] = ("day",),
    limit: int = 100,
    cursor: str | None = None,
) -> Report:
    """A page of sums. Raises ValidationFailed for a bad cursor, Unavailable without a database."""
    parts = {name: part for group in group_by for name, part in _parts_of(group).items()}
    after = _read_cursor(cursor, list(parts)) if cursor else None
    where = [R.id >= first_id_at(start_ms), R.id < first_id_at(end_ms)]
    if scope.user_id is not None:
        where.append(R.user_id == scope.user_id)
    if scope.key_id is not None:
        where.append(R.key_id == scope.key_id)
    result = Report(start_ms, end_ms, tuple(group_by))
    columns = [part.label(name) for name, part in parts.items()]
    sums = [total.label(name) for name, total in _SUMS.items()]
    page = (
        select(*columns, *sums)
        .where(*where)
        .group_by(*parts.values())
        .order_by(*parts.values())
        .limit(limit + 1)
    )
    if after is not None:
        page = page.where(_follows(list(parts.values()), after))
    try:
        with connect(engine) as connection:
            found = connection.execute(page).mappings().all()
            result.totals = _row(connection.execute(select(*sums).where(*where)).mappings().one())
            result.rows = [_row(row) for row in found[:limit]]
            _name(connection, result.rows)
    except SQLAlchemyError:
        raise Unavailable(
            "the usage records cannot be read now; try again shortly", retry_after=5
        ) from None
    if len(found) > limit:
        result.next_cursor = _write_cursor([found[limit - 1][name] for name in parts])
    return result


def _follows(parts: Sequence[ColumnElement[Any]], after: Sequence[Any]) -> ColumnElement[bool]:
    """The condition that a group comes after the cursor's, in the order of its parts."""
    cases = []
    for position, (part, value) in enumerate(zip(parts, after, strict=True)):
        same = [
            earlier == literal(old) for earlier, old in zip(parts[:position], after, strict=False)
        ]
        cases.append(and_(*same, part > literal(value)))
    return or_(*cases)


def _row(found: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in found.items():
        if name == "day":
            row["day"] = (_EPOCH + timedelta(days=int(value))).isoformat()
        elif name in ("provider", "model"):
            row[name] = value
        elif name in ("key_id", "user_id"):
            row[name] = int(value) or None
        elif name.startswith(_TAG):
            row[name] = value or None
        else:
            # PostgreSQL sums integers to Decimal, and no rows to null.
            row[name] = int(value or 0)
            if name == "cost_microusd":
                row["cost_usd"] = from_microusd(row[name])
    return row


def _name(connection: Connection, rows: list[dict[str, Any]]) -> None:
    # Names and addresses for people. A key or user that is gone has none.
    keys = {row["key_id"] for row in rows if row.get("key_id")}
    if any("key_id" in row for row in rows):
        found = connection.execute(
            select(api_keys.c.id, api_keys.c.name, api_keys.c.prefix).where(api_keys.c.id.in_(keys))
        )
        names = {key_id: (name, prefix) for key_id, name, prefix in found}
        for row in rows:
            row["key_name"], row["key_prefix"] = names.get(row["key_id"], (None, None))
    if any("user_id" in row for row in rows):
        ids = {row["user_id"] for row in rows if row.get("user_id")}
        addresses = connection.execute(select(users.c.id, users.c.email).where(users.c.id.in_(ids)))
        mails = {row.id: row.email for row in addresses}
        for row in rows:
            row["user_email"] = mails.get(row["user_id"])


def _write_cursor(values: Sequence[Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, names: Sequence[str]) -> list[Any]:
    try:
        values = json.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
        if not isinstance(values, list) or len(values) != len(names):
            raise ValueError("not the columns of this report")
        for name, value in zip(names, values, strict=True):
            if name in ("provider", "model") or name.startswith(_TAG):
                if not isinstance(value, str) or "\x00" in value:
                    raise ValueError("no text")
                value.encode()
            elif type(value) is not int or not 0 <= value < 2**63:
                raise ValueError("no number")
    except (ValueError, binascii.Error, RecursionError):
        raise ValidationFailed(
            "cursor: not one of this report; "
            "take next_cursor from the page before, with the same group_by",
            param="cursor",
        ) from None
    return values


def columns_of(group_by: Iterable[str]) -> list[str]:
    """The columns of a report's rows, in order."""
    columns = [name for group in group_by for name in _parts_of(group)]
    for column, names in (("key_id", ["key_name", "key_prefix"]), ("user_id", ["user_email"])):
        if column in columns:
            columns += names
    for name in _SUMS:
        columns += [name, "cost_usd"] if name == "cost_microusd" else [name]
    return columns
