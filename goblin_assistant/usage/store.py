"""Usage records, and what hangs on them: one row a chat, written once whatever becomes of it, its price, and the end
of its budget's reservation.

The way of a record: `journal()` before the last byte goes out, `finish()` after it (into a transaction with others of
the same moment, see usage/batches.py; alone and at once when money is held for it), and when the database is away: into
the log whole (`usage_record_unsaved`), into the journal, and from there into the database as soon as it is back
(`retry_unsaved`, the monitor's job), at the next start, or by `goblin-assistant usage import`. Every way is idempotent
by the record's id, so that all of them may be taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from goblin_assistant import metrics
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import AuthFailure, PriceUnknown, Unauthorized, Unavailable
from goblin_assistant.threads.forking import run_in_child
from goblin_assistant.usage.batches import BatchWriter
from goblin_assistant.usage.budgets import Budgets, Reservation
from goblin_assistant.usage.estimates import (
    estimate_completion_tokens,
    estimate_prompt_tokens,
    max_completion_tokens,
    most_prompt_tokens,
)
from goblin_assistant.usage.journal import Journal, orphans, skipped
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import (
    COLUMNS,
    UNSAVED_EVENT,
    UnreadableRecord,
    UsageEntry,
    entry_in,
    first_id_at,
    new_record_id,
)
from goblin_assistant.usage.transactions import DatabaseUnavailable, RecordRefused, UsageDatabase

if TYPE_CHECKING:
    from goblin_assistant.accounts.users import Principal

__all__ = [
    "ImportResult", "Reservation", "UsageEntry", "UsageStore", "estimate_completion_tokens", "estimate_prompt_tokens", "max_completion_tokens",
    "most_prompt_tokens", "new_record_id",
]  # fmt: skip

logger = logging.getLogger("goblin_assistant.usage")

_MARKS = ", ".join("?" * len(COLUMNS))
_INSERT = f"INSERT INTO usage_records ({', '.join(COLUMNS)}) VALUES ({_MARKS}) ON CONFLICT (id) DO NOTHING"
_PRUNE = "DELETE FROM usage_records WHERE id IN (SELECT id FROM usage_records WHERE id < ? ORDER BY id LIMIT ?)"

KEPT_IN_MEMORY = (
    5000  # records that wait for the database; about 2 KB each. The others wait in the journal
)
BATCH = 200
WARNED_MODELS = 1000


class _SomeWereThere(Exception):
    """Of many records at least one was in the database already: which, only one at a time can tell."""


@dataclass(slots=True)
class ImportResult:
    """What became of the lines: records written now, there already, and lines that have lost their record."""

    imported: int = 0
    present: int = 0
    unreadable: int = 0

    def add(self, other: ImportResult) -> None:
        """Sum up."""
        self.imported += other.imported
        self.present += other.present
        self.unreadable += other.unreadable


class UsageStore:
    """The books. Shared by all threads.

    `default_max_tokens` is reserved for answers that the request does not limit. `reservation_seconds` must be longer
    than any chat. `batch_seconds` is how long records wait for others; 0 writes each at once, in its own thread.
    """

    def __init__(
        self,
        engine: Engine,
        prices: Prices,
        instance_dir: Path,
        *,
        default_max_tokens: int = 4096,
        reservation_seconds: float = 420.0,
        batch_seconds: float = 0.0,
        kept_in_memory: int = KEPT_IN_MEMORY,
        pause_seconds: float | None = None,
    ) -> None:
        self.prices = prices
        self.default_max_tokens = default_max_tokens
        self._database = (
            UsageDatabase(engine)
            if pause_seconds is None
            else UsageDatabase(engine, pause_seconds=pause_seconds)
        )
        self.budgets = Budgets(self._database)
        self._journal = Journal(instance_dir / "journal")
        self._insert = self._database.sql(_INSERT)
        self._prune = self._database.sql(_PRUNE)
        self._reservation_ms = round(reservation_seconds * 1000)
        self._lock = threading.Lock()
        self._retrying = threading.Lock()
        self._unsaved: dict[str, tuple[UsageEntry, Reservation | None]] = {}
        self._kept = kept_in_memory
        self._overflowed = False
        self.batch_writer = BatchWriter(self._save_batch, batch_seconds)
        self._warned: set[tuple[str, str]] = set()
        self._costs: dict[tuple[str, str], Any] = {}
        run_in_child(self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        # After a fork: the parent writes its own records.
        self._unsaved = {}
        self._overflowed = False
        self._lock = threading.Lock()
        self._retrying = threading.Lock()

    # -- before the call ----------------------------------------------------------------------
    def reserve(
        self,
        entry_id: str,
        principal: Principal,
        candidates: Sequence[tuple[str, str]],
        prompt_tokens: int,
        max_tokens: int | None,
        tier: str = "",
    ) -> Reservation | None:
        """Hold what a chat may cost at most, at the dearest of its (provider, model) candidates; None: the key has no
        budget, or nothing can be charged.

        Raises BudgetExceeded (402), PriceUnknown (400: money that nobody can count cannot be budgeted) or Unavailable
        (503: without the
        database nobody knows what is left, so nothing is spent).
        """
        budget = principal.monthly_budget_microusd
        if budget is None or principal.key_id is None:
            return None
        completion = self.default_max_tokens if max_tokens is None else max_tokens
        amount = 0
        for provider, model in candidates:
            most = self._most_microusd(provider, model, prompt_tokens, completion, tier)
            if most is None:
                raise PriceUnknown(
                    f"the price of {provider}/{model} is not known, and this API key has a budget; "
                    f'the operator can set it in goblin.toml: [prices."{provider}/{model}"]',
                    param="model",
                )
            amount = max(amount, most)
        if amount == 0:
            return None
        try:
            return self.budgets.reserve(
                entry_id, principal.key_id, budget, amount, now_ms() + self._reservation_ms
            )
        except RecordRefused:
            raise Unauthorized(
                "this API key does not exist any more", reason=AuthFailure.REVOKED_KEY
            ) from None
        except DatabaseUnavailable:
            raise Unavailable(
                "the budget cannot be checked now; try again shortly", retry_after=5
            ) from None

    def _most_microusd(
        self, provider: str, model: str, prompt: int, completion: int, tier: str
    ) -> int | None:
        # A provider may answer a cheaper tier's request in the standard one, and charges for that.
        every = [self.prices.rates(provider, model, each) for each in {"", tier}]
        most = [rates.most_microusd(prompt, completion) for rates in every if rates is not None]
        known = [amount for amount in most if amount is not None]
        return max(known) if known and len(known) == len(most) else None

    # -- after it -----------------------------------------------------------------------------
    def journal(self, entry: UsageEntry) -> None:
        """Write the entry to the local journal. Never raises; cheap enough to do before the last byte."""
        try:
            self._journal.append(entry)
        except Exception:
            logger.exception("journal_failed")

    def finish(
        self,
        entry: UsageEntry,
        reservation: Reservation | None,
        model_label: str = metrics.OTHER_MODEL,
    ) -> None:
        """Write the record, settle its reservation and count its cost. Never raises. `model_label` is the bounded
        label for metrics."""
        try:
            self._count(entry, model_label)
            # Money that is held is given back at once: the next request of the key may need it.
            if reservation is not None or not self.batch_writer.seconds:
                self._save(entry, reservation)
                return
            if not entry.completed:
                self._journal.append(entry)  # what was completed is there already
            if not self.batch_writer.put(entry):
                self._save(entry, reservation)
        except Exception:
            logger.exception("usage_finish_failed")
            self._keep(entry, reservation, "internal error")

    def _save(self, entry: UsageEntry, reservation: Reservation | None) -> None:
        try:
            self._database.run(self._insert_and_book, entry, reservation)
        except DatabaseUnavailable as error:
            self._keep(entry, reservation, str(error))
        except RecordRefused as error:
            self._log_unsaved(entry, f"refused by the database: {error}")
        else:
            self._journal.saved((entry.id,))

    def _save_batch(self, entries: Sequence[UsageEntry]) -> None:
        try:
            self._database.run(self._insert_new, entries)
        except DatabaseUnavailable as error:
            for entry in entries:
                self._keep(entry, None, str(error))
        except (RecordRefused, _SomeWereThere):
            for entry in entries:
                self._save(entry, None)
        except Exception:
            logger.exception("usage_finish_failed")
            for entry in entries:
                self._keep(entry, None, "internal error")
        else:
            self._journal.saved(entry.id for entry in entries)

    def _insert_new(self, cursor: Any, entries: Sequence[UsageEntry]) -> None:
        cursor.executemany(self._insert, [entry.values() for entry in entries])
        if cursor.rowcount != len(entries):  # the sum of all
            raise _SomeWereThere
        self.budgets.book_spent(
            cursor, ((entry.id, entry.key_id, entry.cost_microusd) for entry in entries)
        )

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until the records of finished chats have been written, or kept; False after `timeout` seconds."""
        return self.batch_writer.flush(timeout)

    def _insert_and_book(
        self, cursor: Any, entry: UsageEntry, reservation: Reservation | None
    ) -> None:
        cursor.execute(self._insert, entry.values())
        if cursor.rowcount:
            self.budgets.book(cursor, entry.id, entry.key_id, entry.cost_microusd, reservation)

    def _keep(self, entry: UsageEntry, reservation: Reservation | None, reason: str) -> None:
        journalled = self._journal.append(entry)
        with self._lock:
            if len(self._unsaved) < self._kept or not journalled:
                self._unsaved[entry.id] = (entry, reservation)
            else:
                self._overflowed = True
        self._log_unsaved(entry, reason)

    @staticmethod
    def _log_unsaved(entry: UsageEntry, reason: str) -> None:
        metrics.usage_records_unsaved_total.inc()
        logger.error(UNSAVED_EVENT, extra={"usage_record": entry.as_row(), "reason": reason})

    def _count(self, entry: UsageEntry, model_label: str) -> None:
        if not entry.provider:
            return
        if entry.cost_microusd is None:
            metrics.chat_price_unknown_total.labels(entry.provider, model_label).inc()
            model = (entry.provider, entry.model)
            if model not in self._warned and len(self._warned) < WARNED_MODELS:
                self._warned.add(model)
                logger.warning(
                    "price_unknown",
                    extra={
                        "provider": entry.provider,
                        "model": entry.model,
                        "setting": f'[prices."{"/".join(model)}"]',
                    },
                )
        elif entry.cost_microusd:
            child = self._costs.get((entry.provider, model_label))
            if child is None:
                child = metrics.chat_cost_usd_total.labels(entry.provider, model_label)
                self._costs[entry.provider, model_label] = child
            child.inc(entry.cost_microusd / 1_000_000)

    # -- what was left behind -----------------------------------------------------------------
    def retry_unsaved(self) -> int:
        """Write what the database missed, of this process and of dead neighbours; returns how many records. Raises
        nothing while it is away."""
        if not self._retrying.acquire(blocking=False):
            return 0
        try:
            saved = self.import_orphaned_journals().imported
            while batch := self._waiting_batch():
                saved += self._write([entry for entry, _ in batch]).imported
                with self._lock:
                    for entry, _ in batch:
                        self._unsaved.pop(entry.id, None)
            if self._overflowed:
                self._overflowed = False
                try:
                    saved += self.import_records(self._journal.lines()).imported
                except DatabaseUnavailable:
                    self._overflowed = True
                    raise
        except DatabaseUnavailable:
            return 0
        finally:
            self._retrying.release()
        if saved:
            logger.info("unsaved_usage_written", extra={"records": saved})
        return saved

    def _waiting_batch(self) -> list[tuple[UsageEntry, Reservation | None]]:
        with self._lock:
            return [kept for _, kept in zip(range(BATCH), self._unsaved.values(), strict=False)]

    def import_records(self, lines: Iterable[bytes]) -> ImportResult:
        """Write the records in the lines of a journal or a log. Raises DatabaseUnavailable; what was written until then
        stays written."""
        result = ImportResult()
        batch: list[UsageEntry] = []
        for line in lines:
            try:
                entry = entry_in(line)
            except UnreadableRecord:
                result.unreadable += 1
                continue
            if entry is not None:
                batch.append(entry)
                if len(batch) >= BATCH:
                    result.add(self._write(batch))
                    batch = []
        if batch:
            result.add(self._write(batch))
        return result

    def import_orphaned_journals(self) -> ImportResult:
        """Import what killed processes left in the instance folder. Raises DatabaseUnavailable; the journals stay until all
        of them is written."""
        total = ImportResult()
        for orphan in orphans(self._journal.folder):
            try:
                result = self.import_records(orphan.lines())
                total.add(result)
                orphan.damaged = bool(result.unreadable)
                orphan.done()
            except OSError as error:  # the disk's fault, of this file: the others are imported
                skipped(orphan.path, error.strerror or str(error))
                continue
            if result.imported or result.unreadable:
                level = logging.ERROR if result.unreadable else logging.WARNING
                extra = {
                    "file": orphan.path.name,
                    "imported": result.imported,
                    "unreadable": result.unreadable,
                }
                logger.log(level, "usage_journal_imported", extra=extra)
        return total

    def _write(self, entries: Sequence[UsageEntry]) -> ImportResult:
        """One transaction for many entries; when the database refuses one of them, one each."""
        result = ImportResult()
        unique = {entry.id: entry for entry in entries}
        ordered = [unique[record_id] for record_id in sorted(unique)]
        try:
            new = self._database.run(self._insert_many, ordered, insist=True)
        except RecordRefused:
            if len(ordered) == 1:
                result.unreadable += 1
                return result
            for entry in ordered:
                result.add(self._write([entry]))
            return result
        self._journal.saved(entry.id for entry in ordered)
        result.imported = new
        result.present = len(entries) - new
        return result

    def _insert_many(self, cursor: Any, entries: Sequence[UsageEntry]) -> int:
        new = []
        for entry in entries:
            cursor.execute(self._insert, entry.values())
            if cursor.rowcount:
                new.append((entry.id, entry.key_id, entry.cost_microusd))
        self.budgets.book_many(cursor, new)
        return len(new)

    # -- chores -------------------------------------------------------------------------------
    def release_stale_reservations(self) -> int:
        """End reservations of killed processes; returns how many. Does nothing while the database is away."""
        try:
            return self.budgets.release_stale(now_ms())
        except DatabaseUnavailable:
            return 0

    def prune(self, older_than_days: int, batch: int = 1000) -> int:
        """Delete records that began more than so many days ago, in batches, so that nobody waits long; returns how
        many. Budgets keep their sums."""
        if older_than_days < 1:
            raise ValueError("older_than_days must be at least 1")
        border = first_id_at(now_ms() - older_than_days * 86_400_000)
        deleted = 0
        while True:
            count = self._database.run(self._delete, border, batch, insist=True)
            deleted += count
            if count < batch:
                return deleted

    def _delete(self, cursor: Any, border: str, batch: int) -> int:
        cursor.execute(self._prune, (border, batch))
        return int(cursor.rowcount)

    def close(self) -> None:
        """A last try for what is unsaved; what stays so waits in the journal for the next start."""
        self.batch_writer.close()
        if self._journal.waiting() or self._unsaved:
            self.retry_unsaved()
        with self._lock:
            self._unsaved.clear()
        self._journal.close()
        self._database.close()
