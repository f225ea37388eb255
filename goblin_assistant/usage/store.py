"""One usage record for each chat, its price, and the end of its budget's reservation.

A record is written once, however the chat ends. It takes this way:

    journal()   before the last byte goes out, into a local file
    finish()    after it, into the database: with other records in one transaction
                (usage/batches.py), which also ends the chat's reservation, or at once when the chat
                cost more than was reserved
    keep        when the database is unavailable: journal, memory, log (usage/recovery.py)

Writing is idempotent by the record's id, so a record may arrive in the database by several ways.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from goblin_assistant import metrics
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import AuthFailure, PriceUnknown, Unauthorized, Unavailable
from goblin_assistant.providers.regional_prices import REGION_PERCENT
from goblin_assistant.usage.batches import BatchWriter
from goblin_assistant.usage.budgets import Budgets, Reservation, ReservationEnded, Settled
from goblin_assistant.usage.journal import Journal
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import UsageEntry, first_id_at
from goblin_assistant.usage.recovery import KEPT_IN_MEMORY, ImportResult, Recovery, log_unsaved
from goblin_assistant.usage.table import AlreadyStored, RecordTable
from goblin_assistant.usage.transactions import (
    PAUSE_SECONDS,
    DatabaseUnavailable,
    RecordRefused,
    UsageDatabase,
)

if TYPE_CHECKING:
    from goblin_assistant.accounts.users import Principal

logger = logging.getLogger("goblin_assistant.usage")

WARNED_MODELS = 1000
SETTLE_SECONDS = 0.25
"""How long a chat that its budget does not cover waits for the records of finished ones."""


class UsageStore:
    """Records, costs and budgets. Shared by all threads.

    `default_max_tokens` is reserved for answers that the request does not limit.
    `reservation_seconds` must be longer than any chat. `batch_seconds` is how long a record waits
    for others; 0 writes each at once, in its own thread.
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
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self.prices = prices
        self.default_max_tokens = default_max_tokens
        self._database = UsageDatabase(engine, pause_seconds=pause_seconds)
        self.budgets = Budgets(self._database)
        self._table = RecordTable(self._database, self.budgets)
        self._journal = Journal(instance_dir / "journal")
        self.recovery = Recovery(self._database, self._table, self._journal, kept_in_memory)
        metrics.usage_unsaved_records.set_function(self.recovery.waiting)
        metrics.usage_orphaned_journals.set_function(lambda: self.recovery.orphaned)
        self._reservation_ms = round(reservation_seconds * 1000)
        self.batch_writer = BatchWriter(self._save_batch, batch_seconds)
        metrics.usage_backlog_records.set_function(lambda: len(self.batch_writer))
        self._warned: set[tuple[str, str]] = set()
        self._costs: dict[tuple[str, str], Any] = {}

    # -- before the call ----------------------------------------------------------------------
    def reserve(
        self,
        entry_id: str,
        principal: Principal,
        candidates: Sequence[tuple[str, str]],
        prompt_tokens: int,
        max_tokens: int | None,
        tier: str = "",
        *,
        region: str = "",
        audio: bool = False,
        prices: Prices | None = None,
    ) -> Reservation | None:
        """Reserve what a chat may cost at most, at the dearest of its (provider, model) candidates,
        by `prices` or those in force.

        None: the key has no budget, or the chat costs nothing. Raises BudgetExceeded (402),
        PriceUnknown (400: an unknown price cannot be budgeted), Unauthorized (the key is gone) or
        Unavailable (503: without the database the rest of the budget is unknown).
        """
        budget = principal.monthly_budget_microusd
        if budget is None or principal.key_id is None:
            return None
        completion = self.default_max_tokens if max_tokens is None else max_tokens
        amount = 0
        for provider, model in candidates:
            every = prices or self.prices
            most = _most_microusd(
                every, provider, model, prompt_tokens, completion, tier, audio=audio
            )
            if most is None:
                raise PriceUnknown(
                    f"the price of {provider}/{model} is not known, and this API key has a budget; "
                    f'the operator can set it in goblin.toml: [prices."{provider}/{model}"]',
                    param="model",
                )
            amount = max(amount, -(-most * REGION_PERCENT.get(region, 100) // 100))
        if amount == 0:
            return None
        try:
            return self.budgets.reserve(
                entry_id,
                principal.key_id,
                budget,
                amount,
                now_ms() + self._reservation_ms,
                settle=self._settle_finished,
            )
        except RecordRefused:
            raise Unauthorized(
                "this API key does not exist any more", reason=AuthFailure.REVOKED_KEY
            ) from None
        except DatabaseUnavailable:
            raise Unavailable(
                "the budget cannot be checked now; try again shortly", retry_after=5
            ) from None

    def _settle_finished(self) -> bool:
        # A finished chat's money is released with its record, in up to 10 ms.
        return self.batch_writer.busy and self.flush(SETTLE_SECONDS)

    # -- after it -----------------------------------------------------------------------------
    def journal(self, entry: UsageEntry) -> None:
        """Write the entry to the local journal. Never raises. One write, without fsync."""
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
        """Write the record, settle its reservation and count its cost. Never raises.

        `model_label` is the model's label in metrics.
        """
        try:
            self._count_cost(entry, model_label)
            # What cost more than was reserved counts at once: until then the key could spend more.
            if not self.batch_writer.seconds or _exceeds(entry, reservation):
                self._save(entry, reservation)
                return
            if not entry.completed:
                self._journal.append(entry)  # completed ones are in the journal already
            if not self.batch_writer.put((entry, reservation)):
                self._save(entry, reservation)
        except Exception:
            logger.exception("usage_finish_failed")
            self.recovery.keep(entry, "internal error")

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until finished chats' records are written or kept; False after `timeout` seconds."""
        return self.batch_writer.flush(timeout)

    def _save(self, entry: UsageEntry, reservation: Reservation | None) -> None:
        try:
            self._database.run(self._table.insert, entry, reservation)
        except DatabaseUnavailable as error:
            self.recovery.keep(entry, str(error))
        except RecordRefused as error:
            log_unsaved(entry, f"refused by the database: {error}")
        else:
            self._journal.saved((entry.id,))

    def _save_batch(self, settled: Sequence[Settled]) -> None:
        try:
            self._database.run(self._table.insert_new, settled)
        except DatabaseUnavailable as error:
            for entry, _ in settled:
                self.recovery.keep(entry, str(error))
        except (RecordRefused, AlreadyStored, ReservationEnded):
            for entry, reservation in settled:
                self._save(entry, reservation)
        except Exception:
            logger.exception("usage_finish_failed")
            for entry, _ in settled:
                self.recovery.keep(entry, "internal error")
        else:
            self._journal.saved(entry.id for entry, _ in settled)

    def _count_cost(self, entry: UsageEntry, model_label: str) -> None:
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

    # -- chores -------------------------------------------------------------------------------
    def retry_unsaved(self) -> int:
        """See Recovery.retry."""
        return self.recovery.retry()

    def import_records(self, lines: Iterable[bytes]) -> ImportResult:
        """See Recovery.import_records."""
        return self.recovery.import_records(lines)

    def import_orphaned_journals(self) -> ImportResult:
        """See Recovery.import_orphaned_journals."""
        return self.recovery.import_orphaned_journals()

    def release_stale_reservations(self) -> int:
        """End reservations of killed processes; returns how many. 0 without the database."""
        try:
            return self.budgets.release_stale(now_ms())
        except DatabaseUnavailable:
            return 0

    def prune(self, older_than_days: int, batch: int = 1000) -> int:
        """Delete records that began more than so many days ago; returns how many.

        Deletes in batches, so that no other transaction waits long. Budgets keep their sums.
        """
        if older_than_days < 1:
            raise ValueError("older_than_days must be at least 1")
        border = first_id_at(now_ms() - older_than_days * 86_400_000)
        deleted = 0
        while True:
            count = self._database.run(self._table.delete_before, border, batch, insist=True)
            deleted += count
            if count < batch:
                return deleted

    def warm(self) -> None:
        """Open connections before the first chats need them."""
        self._database.warm()

    def close(self) -> None:
        """Write what is left; what cannot be written stays in the journal for the next start."""
        self.batch_writer.close()
        self.recovery.close()
        self._journal.close()
        self._database.close()


def _exceeds(entry: UsageEntry, reservation: Reservation | None) -> bool:
    return reservation is not None and (entry.cost_microusd or 0) > reservation.amount_microusd


def _most_microusd(
    prices: Prices,
    provider: str,
    model: str,
    prompt: int,
    completion: int,
    tier: str,
    *,
    audio: bool,
) -> int | None:
    # A provider may answer in the standard tier instead of a cheaper one, and charge for it.
    every = [prices.rates(provider, model, each) for each in {"", tier}]
    most = [
        rates.most_microusd(prompt, completion, audio=audio) for rates in every if rates is not None
    ]
    known = [amount for amount in most if amount is not None]
    return max(known) if known and len(known) == len(most) else None
