"""Monthly budgets of API keys, exact under concurrency and across instances.

Before anything is sent upstream, a chat reserves what it may cost at most. The reservation is one
conditional UPDATE, so two chats can never both get the last dollar. After the chat, one transaction
writes its record, counts its cost and ends the reservation, mostly together with other chats'
(usage/batches.py). Reservations of killed processes expire (`release_stale`); a record that is
written later only adds its cost.

A chat counts in the calendar month (UTC) in which it began. Spending is counted without a budget
too, so that a budget set in mid-month includes it.

Order of locks, the same everywhere: record, reservation, period. Several of a kind by their keys,
periods by the keys that own them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from goblin_assistant.errors import BudgetExceeded
from goblin_assistant.metrics import budget_rejections_total
from goblin_assistant.money import from_microusd
from goblin_assistant.usage.months import month_of, next_month, period_of
from goblin_assistant.usage.records import UsageEntry
from goblin_assistant.usage.transactions import UsageDatabase

# A rotated key and its successors share the budget of the first one. No row: the key is gone.
_OWNER = "SELECT COALESCE(budget_key_id, id) FROM api_keys WHERE id = ?"
_OWNERS = "SELECT id, COALESCE(budget_key_id, id) FROM api_keys WHERE id IN (%s)"
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
# PostgreSQL does both in one round trip. SQLite cannot write inside WITH, and has no round trips.
_RESERVE_AND_HOLD = (
    f"WITH taken AS ({_RESERVE} RETURNING period) "
    "INSERT INTO budget_reservations (id, key_id, period, amount_microusd, expires_at) "
    "SELECT ?, ?, ?, ?, ? FROM taken"
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


Settled = tuple[UsageEntry, Reservation | None]
"""A finished chat's record, and what was reserved for it."""


class ReservationEnded(Exception):
    """A reservation of a batch had expired; retry one by one."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One key's month, in micro-dollars."""

    period: str
    spent_microusd: int
    reserved_microusd: int


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
        self._reserve_and_hold = None if database.is_sqlite else sql(_RESERVE_AND_HOLD)
        self._drop, self._drop_returning, self._book = sql(_DROP), sql(_DROP_RETURNING), sql(_BOOK)
        self._book_first, self._drop_stale, self._stale = (
            sql(_BOOK_FIRST),
            sql(_DROP_STALE),
            sql(_STALE),
        )

    def reserve(
        self,
        record_id: str,
        key_id: int,
        budget_microusd: int,
        amount: int,
        expires_at: int,
        *,
        settle: Callable[[], bool] = lambda: False,
    ) -> Reservation:
        """Reserve `amount` micro-dollars until `expires_at` (ms since 1970).

        When the budget does not cover it, `settle` may end reservations of finished chats; if it
        returns True, the budget is asked once more. Raises BudgetExceeded, DatabaseUnavailable or
        RecordRefused (the key is gone).
        """
        period = period_of(record_id)
        reservation = Reservation(record_id, key_id, period, amount)
        refusal = self._database.run(self._try, reservation, budget_microusd, expires_at)
        if refusal is not None and amount <= budget_microusd and settle():
            refusal = self._database.run(self._try, reservation, budget_microusd, expires_at)
        if refusal is not None:
            budget_rejections_total.inc()
            raise _exceeded(budget_microusd, refusal, amount)
        return reservation

    def _try(
        self, cursor: Any, wanted: Reservation, budget: int, expires_at: int
    ) -> BudgetState | None:
        if wanted.amount_microusd <= budget:
            if self._take(cursor, wanted, budget, expires_at):
                return None
            cursor.execute(self._open, (wanted.period, wanted.key_id))
            # Also when the row was there: another transaction may have made it since the first try.
            if self._take(cursor, wanted, budget, expires_at):
                return None
        return self._read(cursor, wanted.key_id, wanted.period)

    def _take(self, cursor: Any, wanted: Reservation, budget: int, expires_at: int) -> bool:
        """Reserve the amount. False when the budget does not cover it, or the month has no row."""
        key_id, period, amount = wanted.key_id, wanted.period, wanted.amount_microusd
        taken = (amount, key_id, period, amount, budget)
        held = (wanted.id, key_id, period, amount, expires_at)
        if self._reserve_and_hold is not None:
            cursor.execute(self._reserve_and_hold, taken + held)
            return bool(cursor.rowcount)
        cursor.execute(self._reserve, taken)
        if not cursor.rowcount:
            return False
        cursor.execute(self._hold, held)
        return True

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

    def book_new(self, cursor: Any, settled: Sequence[Settled]) -> None:
        """The same for many new records, in the order of their ids. Raises ReservationEnded."""
        changes = _Changes()
        held = [reservation for _, reservation in settled if reservation is not None]
        if held:
            cursor.executemany(self._drop, [(reservation.id,) for reservation in held])
            if cursor.rowcount != len(held):  # the sum of all
                raise ReservationEnded
            for reservation in held:
                changes[reservation.key_id, reservation.period][1] += reservation.amount_microusd
        for entry, _ in settled:
            if entry.key_id is not None and entry.cost_microusd:
                changes[entry.key_id, period_of(entry.id)][0] += entry.cost_microusd
        self._apply(cursor, changes)

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
        if len(changes) > 1:
            changes = self._by_owner(cursor, changes)
        for (key_id, period), (cost, released) in sorted(changes.items()):
            cursor.execute(self._book, (cost, released, key_id, period))
            if not cursor.rowcount and cost:
                cursor.execute(self._book_first, (period, cost, key_id))

    def _by_owner(self, cursor: Any, changes: _Changes) -> _Changes:
        """The changes by the keys that own the periods. Those of keys that are gone are left out.

        Asked in each transaction: SQLite gives a deleted key's id to a new one.
        """
        keys = sorted({key_id for key_id, _ in changes})
        cursor.execute(self._database.sql(_OWNERS % ", ".join("?" * len(keys))), keys)
        owners = dict(cursor.fetchall())
        owned = _Changes()
        for (key_id, period), (cost, released) in changes.items():
            if key_id in owners:
                owned[owners[key_id], period][0] += cost
                owned[owners[key_id], period][1] += released
        return owned

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
