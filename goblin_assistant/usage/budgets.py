"""Monthly budgets of API keys, exact under concurrency and across instances.

Before anything is sent upstream, a chat reserves what it may cost at most. The reservation is one
conditional UPDATE, so two chats can never both get the last dollar. After the chat, one transaction
writes its record, counts its cost and ends the reservation. Reservations of killed processes expire
(`release_stale`); a record that is written later only adds its cost.

A chat counts in the calendar month (UTC) in which it began. Spending is counted without a budget
too, so that a budget set in mid-month includes it.

Order of locks, the same everywhere: record, reservation, period. Several of a kind by their keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from goblin_assistant.errors import BudgetExceeded
from goblin_assistant.metrics import budget_rejections_total
from goblin_assistant.money import from_microusd
from goblin_assistant.usage.records import ms_of
from goblin_assistant.usage.transactions import UsageDatabase

# A rotated key and its successors share the budget of the first one. No row: the key is gone.
_OWNER = "SELECT COALESCE(budget_key_id, id) FROM api_keys WHERE id = ?"
_RESERVE = (
    "UPDATE budget_periods SET reserved_microusd = reserved_microusd + ? "
    f"WHERE key_id = ({_OWNER}) AND period = ? AND spent_microusd + reserved_microusd + ? <= ?"
)
_OPEN_PERIOD = (
    "INSERT INTO budget_periods (key_id, period, spent_microusd, reserved_microusd) "
    "SELECT COALESCE(budget_key_id, id), ?, 0, 0 FROM api_keys WHERE id = ? "
    "ON CONFLICT (key_id, period) DO NOTHING"
)
_HOLD = (
    "INSERT INTO budget_reservations (id, key_id, period, amount_microusd, expires_at) "
    "VALUES (?, ?, ?, ?, ?)"
)
_STATE = (
    "SELECT spent_microusd, reserved_microusd FROM budget_periods "
    f"WHERE key_id = ({_OWNER}) AND period = ?"
)
_DROP = "DELETE FROM budget_reservations WHERE id = ?"
_DROP_RETURNING = (
    "DELETE FROM budget_reservations WHERE id = ? RETURNING key_id, period, amount_microusd"
)
_DROP_STALE = (
    "DELETE FROM budget_reservations WHERE id = ? AND expires_at < ? "
    "RETURNING key_id, period, amount_microusd"
)
_STALE = "SELECT id FROM budget_reservations WHERE expires_at < ? ORDER BY id LIMIT 500"
_BOOK = (
    "UPDATE budget_periods SET spent_microusd = spent_microusd + ?, "
    "reserved_microusd = reserved_microusd - ? "
    f"WHERE key_id = ({_OWNER}) AND period = ?"
)
# Inserts nothing for a key that is gone. Its chats are recorded all the same.
_BOOK_FIRST = (
    "INSERT INTO budget_periods (key_id, period, spent_microusd, reserved_microusd) "
    "SELECT COALESCE(budget_key_id, id), ?, ?, 0 FROM api_keys WHERE id = ? "
    "ON CONFLICT (key_id, period) DO UPDATE "
    "SET spent_microusd = budget_periods.spent_microusd + excluded.spent_microusd"
)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money reserved for one chat."""

    id: str  # the usage record's
    key_id: int
    period: str
    amount_microusd: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One key's month, in micro-dollars."""

    period: str
    spent_microusd: int
    reserved_microusd: int


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


class _Changes(defaultdict[tuple[int, str], list[int]]):
    """(key, period) -> [spent, released], both in micro-dollars."""

    def __init__(self) -> None:
        super().__init__(lambda: [0, 0])


class Budgets:
    """Reserves, books and releases. Everything is idempotent by record id."""

    def __init__(self, database: UsageDatabase) -> None:
        self._database = database
        sql = database.sql
        self._reserve, self._open, self._hold, self._state = (
            sql(_RESERVE),
            sql(_OPEN_PERIOD),
            sql(_HOLD),
            sql(_STATE),
        )
        self._drop, self._drop_returning, self._book = sql(_DROP), sql(_DROP_RETURNING), sql(_BOOK)
        self._book_first, self._drop_stale, self._stale = (
            sql(_BOOK_FIRST),
            sql(_DROP_STALE),
            sql(_STALE),
        )
        self._owner = sql(_OWNER)

    def reserve(
        self, record_id: str, key_id: int, budget_microusd: int, amount: int, expires_at: int
    ) -> Reservation:
        """Reserve `amount` micro-dollars until `expires_at` (ms since 1970).

        Raises BudgetExceeded, DatabaseUnavailable or RecordRefused (the key is gone).
        """
        period = period_of(record_id)
        reservation = Reservation(record_id, key_id, period, amount)
        refusal = self._database.run(self._try, reservation, budget_microusd, expires_at)
        if refusal is not None:
            budget_rejections_total.inc()
            raise _exceeded(budget_microusd, refusal, amount)
        return reservation

    def _try(
        self, cursor: Any, wanted: Reservation, budget: int, expires_at: int
    ) -> BudgetState | None:
        key_id, period, amount = wanted.key_id, wanted.period, wanted.amount_microusd
        if amount > budget or not self._take(cursor, key_id, period, amount, budget):
            return self._read(cursor, key_id, period)
        cursor.execute(self._hold, (wanted.id, key_id, period, amount, expires_at))
        return None

    def _take(self, cursor: Any, key_id: int, period: str, amount: int, budget: int) -> bool:
        values = (amount, key_id, period, amount, budget)
        cursor.execute(self._reserve, values)
        if cursor.rowcount:
            return True
        cursor.execute(self._open, (period, key_id))
        if not cursor.rowcount:
            return False  # the row was there: the budget says no
        cursor.execute(self._reserve, values)
        return bool(cursor.rowcount)

    def _read(self, cursor: Any, key_id: int, period: str) -> BudgetState:
        cursor.execute(self._state, (key_id, period))
        row = cursor.fetchone()
        return (
            BudgetState(period, int(row[0]), int(row[1]))
            if row is not None
            else BudgetState(period, 0, 0)
        )

    def state(self, key_id: int, now_ms: int) -> BudgetState:
        """What a key has spent and reserved in the month of `now_ms`."""
        return self._database.run(self._read, key_id, month_of(now_ms))

    def book(
        self,
        cursor: Any,
        record_id: str,
        key_id: int | None,
        cost: int | None,
        held: Reservation | None,
    ) -> None:
        """End a record's reservation and count its cost, in the record's transaction."""
        released = 0
        period = period_of(record_id)
        if held is not None:
            cursor.execute(self._drop, (record_id,))
            released = held.amount_microusd if cursor.rowcount else 0
            key_id, period = held.key_id, held.period
        if key_id is None or not (cost or released):
            return
        cursor.execute(self._book, (cost or 0, released, key_id, period))
        if not cursor.rowcount and cost:
            cursor.execute(self._book_first, (period, cost, key_id))

    def book_spent(
        self, cursor: Any, records: Iterable[tuple[str, int | None, int | None]]
    ) -> None:
        """The same for new records without reservations, as (id, key_id, cost)."""
        spent: dict[tuple[int, str], int] = {}
        for record_id, key_id, cost in records:
            if key_id is not None and cost:
                key = (key_id, period_of(record_id))
                spent[key] = spent.get(key, 0) + cost
        for (key_id, period), cost in sorted(spent.items()):
            cursor.execute(self._book, (cost, 0, key_id, period))
            if not cursor.rowcount:
                cursor.execute(self._book_first, (period, cost, key_id))

    def book_many(self, cursor: Any, records: Iterable[tuple[str, int | None, int | None]]) -> None:
        """The same for imported records, as (id, key_id, cost). Some may have reservations."""
        changes = _Changes()
        for record_id, key_id, cost in sorted(records):
            cursor.execute(self._drop_returning, (record_id,))
            for held_by, period, amount in cursor.fetchall():
                changes[held_by, period][1] += int(amount)
            if key_id is not None and cost:
                changes[key_id, period_of(record_id)][0] += cost
        self._apply(cursor, changes)

    def _apply(self, cursor: Any, changes: _Changes) -> None:
        owned = _Changes()
        for (key_id, period), (cost, released) in changes.items():
            cursor.execute(self._owner, (key_id,))
            for (owner,) in cursor.fetchall():
                owned[owner, period][0] += cost
                owned[owner, period][1] += released
        for (owner, period), (cost, released) in sorted(owned.items()):
            cursor.execute(self._book, (cost, released, owner, period))
            if not cursor.rowcount and cost:
                cursor.execute(self._book_first, (period, cost, owner))

    def release_stale(self, now_ms: int) -> int:
        """End expired reservations, which killed processes left; returns how many."""
        released = 0
        while ids := self._database.run(self._find_stale, now_ms):
            released += self._database.run(self._release, ids, now_ms)
        return released

    def _find_stale(self, cursor: Any, now_ms: int) -> list[str]:
        # Its own transaction: a reader of SQLite cannot write once another one has written.
        cursor.execute(self._stale, (now_ms,))
        return [row[0] for row in cursor.fetchall()]

    def _release(self, cursor: Any, ids: Iterable[str], now_ms: int) -> int:
        released = 0
        changes = _Changes()
        for record_id in ids:
            cursor.execute(self._drop_stale, (record_id, now_ms))
            for held_by, period, amount in cursor.fetchall():
                changes[held_by, period][1] += int(amount)
                released += 1
        self._apply(cursor, changes)
        return released


def _exceeded(budget: int, state: BudgetState, amount: int) -> BudgetExceeded:
    resets = next_month(state.period)
    return BudgetExceeded(
        f"this API key's budget of ${from_microusd(budget)} for {state.period} does not cover "
        f"this request, which may cost ${from_microusd(amount)}: "
        f"${from_microusd(state.spent_microusd)} is spent and "
        f"${from_microusd(state.reserved_microusd)} is reserved for requests that are running; "
        f"a smaller max_tokens may fit; the budget starts anew at {resets}",
        extra={
            "budget_usd": from_microusd(budget),
            "spent_usd": from_microusd(state.spent_microusd),
            "reserved_usd": from_microusd(state.reserved_microusd),
            "needed_usd": from_microusd(amount),
            "resets_at": resets,
        },
    )
