"""Records that the database missed: kept, retried, and imported from journals and logs.

They come from this process (`keep`), from journals of killed processes in the instance folder, and
from log files (`goblin-assistant usage import`). Importing is idempotent by record id, so a record
may arrive by several of these ways.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from goblin_assistant import metrics
from goblin_assistant.threads.forking import run_in_child
from goblin_assistant.usage.journal import Journal, orphans, skipped
from goblin_assistant.usage.records import UNSAVED_EVENT, UnreadableRecord, UsageEntry, entry_in
from goblin_assistant.usage.table import RecordTable
from goblin_assistant.usage.transactions import (
    DatabaseUnavailable,
    RecordRefused,
    UsageDatabase,
)

logger = logging.getLogger("goblin_assistant.usage")

KEPT_IN_MEMORY = 5000
"""Records kept in memory, about 2 KB each. Further ones are in the journal only."""
BATCH = 200


@dataclass(slots=True)
class ImportResult:
    """How many records were written, were stored already, or could not be read from their line."""

    imported: int = 0
    present: int = 0
    unreadable: int = 0

    def add(self, other: ImportResult) -> None:
        """Add the counts of another result."""
        self.imported += other.imported
        self.present += other.present
        self.unreadable += other.unreadable


def log_unsaved(entry: UsageEntry, reason: str) -> None:
    """Write the whole record to the log: the last place where it can be found again."""
    metrics.usage_records_unsaved_total.inc()
    logger.error(UNSAVED_EVENT, extra={"usage_record": entry.as_row(), "reason": reason})


class Recovery:
    """Keeps what could not be written, and writes it later. Shared by all threads."""

    def __init__(
        self,
        database: UsageDatabase,
        table: RecordTable,
        journal: Journal,
        kept_in_memory: int = KEPT_IN_MEMORY,
    ) -> None:
        self._database = database
        self._table = table
        self._journal = journal
        self._most = kept_in_memory
        self.orphaned = 0
        """Journals that the last import left. How many of their records the database lacks, only
        the database could say."""
        self._reset()
        run_in_child(self._reset)  # the parent writes its own records

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._retrying = threading.Lock()
        self._kept: dict[str, UsageEntry] = {}
        self._overflowed = False

    def __len__(self) -> int:
        """Records kept in memory."""
        return len(self._kept)

    def waiting(self) -> int:
        """Records that wait to be written again. Those beyond the memory are in the journal, with
        a few that wait for their first write."""
        return (
            max(len(self._kept), self._journal.waiting()) if self._overflowed else len(self._kept)
        )

    def keep(self, entry: UsageEntry, reason: str) -> None:
        """Keep a record that the database did not take, in the journal, in memory, in the log."""
        journalled = self._journal.append(entry)
        with self._lock:
            if len(self._kept) < self._most or not journalled:
                self._kept[entry.id] = entry
            else:
                self._overflowed = True
        log_unsaved(entry, reason)

    def retry(self) -> int:
        """Write all kept records and orphaned journals; returns how many records were written.

        0 while the database is unavailable, or another thread is at it.
        """
        if not self._retrying.acquire(blocking=False):
            return 0
        try:
            saved = self.import_orphaned_journals().imported
            while batch := self._next_batch():
                saved += self._write(batch).imported
                with self._lock:
                    for entry in batch:
                        self._kept.pop(entry.id, None)
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

    def _next_batch(self) -> list[UsageEntry]:
        with self._lock:
            return list(islice(self._kept.values(), BATCH))

    def import_records(self, lines: Iterable[bytes]) -> ImportResult:
        """Write the records in the lines of a journal or a log.

        Raises DatabaseUnavailable; what was written before stays written.
        """
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
        """Import the journals of killed processes from the instance folder.

        Raises DatabaseUnavailable. A journal stays until all of its records are written.
        """
        total = ImportResult()
        found = orphans(self._journal.folder)
        left = 0
        for orphan in found:
            try:
                result = self.import_records(orphan.lines())
                total.add(result)
                orphan.damaged = bool(result.unreadable)
                orphan.done()
            except DatabaseUnavailable:
                self.orphaned = left + 1 + sum(1 for _ in found)
                raise
            except OSError as error:  # the disk's fault, of this file: the others are imported
                skipped(orphan.path, error.strerror or str(error))
                left += 1
                continue
            if result.imported or result.unreadable:
                level = logging.ERROR if result.unreadable else logging.WARNING
                extra = {
                    "file": orphan.path.name,
                    "imported": result.imported,
                    "unreadable": result.unreadable,
                }
                logger.log(level, "usage_journal_imported", extra=extra)
        self.orphaned = left
        return total

    def _write(self, entries: Sequence[UsageEntry]) -> ImportResult:
        """Write entries in one transaction, or one by one when the database refuses one of them."""
        result = ImportResult()
        unique = {entry.id: entry for entry in entries}
        ordered = [unique[record_id] for record_id in sorted(unique)]
        try:
            new = self._database.run(self._table.insert_missing, ordered, insist=True)
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

    def close(self) -> None:
        """Retry a last time. What stays unsaved is in the journal for the next start."""
        if self._journal.waiting() or self._kept:
            self.retry()
        with self._lock:
            self._kept.clear()
