"""Calendar months in UTC, in which budgets count: `2026-11`."""

from __future__ import annotations

from datetime import UTC, datetime

from goblin_assistant.usage.records import ms_of


def period_of(record_id: str) -> str:
    """The month that a record counts in: `2026-11`."""
    return month_of(ms_of(record_id))


_MONTHS: dict[int, str] = {}


def month_of(ms: int) -> str:
    """The calendar month (UTC) of a time."""
    day = ms // 86_400_000
    month = _MONTHS.get(day)
    if month is None:
        if len(_MONTHS) > 1000:
            _MONTHS.clear()
        month = _MONTHS[day] = datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m")
    return month


def next_month(period: str) -> str:
    """The start of the next month, in RFC 3339."""
    year, month = int(period[:4]), int(period[5:])
    return f"{year + month // 12:04d}-{month % 12 + 1:02d}-01T00:00:00Z"
