"""Statements on the table usage_records. Each method runs inside a transaction of its caller.

A new record also ends its reservation and counts its cost (usage/budgets.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goblin_assistant.usage.budgets import Budgets, Reservation, Settled
from goblin_assistant.usage.records import COLUMNS, UsageEntry
from goblin_assistant.usage.transactions import UsageDatabase

_INSERT = (
    f"INSERT INTO usage_records ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT (id) DO NOTHING"
)
_DELETE = (
    "DELETE FROM usage_records WHERE id IN "
    "(SELECT id FROM usage_records WHERE id < ? ORDER BY id LIMIT ?)"
)


class AlreadyStored(Exception):
    """A batch contained a record that is already stored; retry one by one."""


class RecordTable:
    """Inserts and deletes records. Inserting is idempotent by record id."""

    def __init__(self, database: UsageDatabase, budgets: Budgets) -> None:
        self._budgets = budgets
        self._insert = database.sql(_INSERT)
        self._delete = database.sql(_DELETE)

    def insert(self, cursor: Any, entry: UsageEntry, reservation: Reservation | None) -> None:
        """Insert a record and settle its reservation; nothing when it is stored already."""
        cursor.execute(self._insert, entry.values())
        if cursor.rowcount:
            self._budgets.book(cursor, entry.id, entry.key_id, entry.cost_microusd, reservation)

    def insert_new(self, cursor: Any, settled: Sequence[Settled]) -> None:
        """Insert records and settle their reservations in few calls.

        Raises AlreadyStored or ReservationEnded.
        """
        # By their ids, as an import of the same records: so neither waits for the other in a ring.
        ordered = sorted(settled, key=_record_id)
        cursor.executemany(self._insert, [entry.values() for entry, _ in ordered])
        if cursor.rowcount != len(ordered):  # the sum of all
            raise AlreadyStored
        self._budgets.book_new(cursor, ordered)

    def insert_missing(self, cursor: Any, entries: Sequence[UsageEntry]) -> int:
        """Insert those records that are not stored yet; returns how many."""
        new = []
        for entry in entries:
            cursor.execute(self._insert, entry.values())
            if cursor.rowcount:
                new.append((entry.id, entry.key_id, entry.cost_microusd))
        self._budgets.book_many(cursor, new)
        return len(new)

    def delete_before(self, cursor: Any, border: str, limit: int) -> int:
        """Delete up to `limit` records with ids below `border`; returns how many."""
        cursor.execute(self._delete, (border, limit))
        return int(cursor.rowcount)


def _record_id(settled: Settled) -> str:
    return settled[0].id
