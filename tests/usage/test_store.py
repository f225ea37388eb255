"""Every chat leaves one record: in the database, or in log and journal until that is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, create_engine, event

from goblin_assistant import metrics
from goblin_assistant.database.models import now_ms, usage_records
from goblin_assistant.usage.records import UsageEntry, entry_in, first_id_at, journal_line
from goblin_assistant.usage.store import UsageStore
from goblin_assistant.usage.transactions import DatabaseUnavailable
from tests.support.books import (
    add_key,
    budget_of,
    count,
    entry,
    open_store,
    principal,
    rows,
)
from tests.support.books_fixtures import engine
from tests.support.threads import at_once

__all__ = ["engine"]

BUDGET = 1_000_000


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[UsageStore]:
    """A store on `engine`."""
    with open_store(engine, tmp_path, pause_seconds=0.0) as store:
        yield store


class Outage:
    """Makes every statement of a store fail, as if the database were gone."""

    def __init__(self, engine: Engine, store: UsageStore) -> None:
        self._store = store
        self._run = store._database._transact

    def __enter__(self) -> Outage:
        def fail(*_: object) -> None:
            raise self._store._database._errors[0]("the database is away")

        self._store._database._transact = fail  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._store._database._transact = self._run  # type: ignore[method-assign]


def unsaved_in(caplog: pytest.LogCaptureFixture) -> list[UsageEntry]:
    lines = [
        orjson.dumps({"message": record.message, "usage_record": record.__dict__["usage_record"]})
        for record in caplog.records
        if record.message == "usage_record_unsaved"
    ]
    return [found for line in lines if (found := entry_in(line))]


def test_every_column_of_a_finished_chat_is_in_the_database(
    engine: Engine, store: UsageStore
) -> None:
    made = entry(
        key_id=7,
        prompt_tokens=2**40,
        cached_tokens=1,
        cache_write_tokens=2,
        reasoning_tokens=3,
        token_source="estimated",
        duration_ms=12,
        queue_ms=3,
        first_token_ms=5,
        status_code=502,
        error_type="provider_timeout",
        error_source="provider",
        attempts=3,
        fallback=True,
        stream=True,
        completed=False,
        timeline='[{"at_ms":1}]',
        operation="embeddings",
    )
    store.journal(made)
    store.finish(made, None)
    with engine.connect() as connection:
        row = dict(connection.execute(usage_records.select()).mappings().one())
    assert row == made.as_row()


def test_a_finished_record_leaves_nothing_in_the_journal(
    engine: Engine, store: UsageStore, tmp_path: Path
) -> None:
    made = entry()
    store.journal(made)
    assert store._journal.waiting() == 1
    store.finish(made, None)
    assert store._journal.waiting() == 0
    store.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_finishing_twice_counts_once(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine)
    made = entry(key_id=key, cost_microusd=100)
    store.finish(made, None)
    store.finish(made, None)
    assert count(engine) == 1
    assert budget_of(engine, key) == (100, 0)


def test_strange_model_names_are_recorded(
    engine: Engine, store: UsageStore, caplog: pytest.LogCaptureFixture
) -> None:
    for model in ("\x00", "\ud800", "é" * 300, "x" * 5000, "'; DROP TABLE usage_records; --", "🦄"):
        store.finish(entry(model=model, model_requested=model), None)
    assert count(engine) == 6
    assert not unsaved_in(caplog)


def test_without_the_database_the_record_is_logged_whole_and_counted(
    engine: Engine, store: UsageStore, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.usage_records_unsaved_total._value.get()
    made = entry()
    with Outage(engine, store):
        store.finish(made, None)
    assert unsaved_in(caplog) == [made]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert metrics.usage_records_unsaved_total._value.get() == before + 1
    assert count(engine) == 0


def test_what_the_database_missed_is_written_when_it_is_back(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    entries = [entry(key_id=key, cost_microusd=10) for _ in range(450)]
    with Outage(engine, store):
        for one in entries:
            store.finish(one, None)
        assert store.retry_unsaved() == 0
    assert store.retry_unsaved() == 450
    assert store.retry_unsaved() == 0
    assert count(engine) == 450
    assert budget_of(engine, key) == (4500, 0)
    assert store._journal.waiting() == 0


def test_records_beyond_what_memory_keeps_come_from_the_journal(
    engine: Engine, tmp_path: Path
) -> None:
    with open_store(engine, tmp_path, kept_in_memory=10, pause_seconds=0.0) as store:
        with Outage(engine, store):
            for _ in range(100):
                store.finish(entry(), None)
        assert len(store.recovery) == 10
        waiting = "usage_unsaved_records"
        assert metrics.REGISTRY.get_sample_value(waiting) == 100
        assert store.retry_unsaved() == 100
        assert metrics.REGISTRY.get_sample_value(waiting) == 0
        assert store.retry_unsaved() == 0
        assert count(engine) == 100


def test_records_that_wait_for_the_next_write_are_counted(engine: Engine, tmp_path: Path) -> None:
    with open_store(engine, tmp_path, batch_seconds=3600.0) as store:
        for _ in range(3):
            store.finish(entry(), None)
        assert metrics.REGISTRY.get_sample_value("usage_backlog_records") == 3
        assert store.flush()
        assert metrics.REGISTRY.get_sample_value("usage_backlog_records") == 0


def test_a_reservation_of_a_record_written_late_is_settled_once(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    made = entry(key_id=key, cost_microusd=3000)
    held = store.reserve(made.id, principal(key, BUDGET), [("echo", "echo")], 10, 100)
    assert held is not None
    assert budget_of(engine, key) == (0, 11_000)
    with Outage(engine, store):
        store.finish(made, held)
    assert budget_of(engine, key) == (0, 11_000)
    store.retry_unsaved()
    assert budget_of(engine, key) == (3000, 0)
    assert count(engine, "budget_reservations") == 0
    store.finish(made, held)
    assert budget_of(engine, key) == (3000, 0)


def test_a_stop_leaves_what_could_not_be_written_to_the_next_start(
    engine: Engine, tmp_path: Path
) -> None:
    key = add_key(engine)
    made = entry(key_id=key, cost_microusd=3000)
    with open_store(engine, tmp_path) as store:
        held = store.reserve(made.id, principal(key, BUDGET), [("echo", "echo")], 10, 100)
        with Outage(engine, store):
            store.finish(made, held)
            store.close()
    with open_store(engine, tmp_path) as store:
        assert store.import_orphaned_journals().imported == 1
        assert count(engine) == 1
        assert budget_of(engine, key) == (3000, 0)
        assert store.import_orphaned_journals().imported == 0


def test_importing_the_same_lines_twice_changes_nothing(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine)
    made = entry(key_id=key, cost_microusd=3000)
    store.reserve(made.id, principal(key, BUDGET), [("echo", "echo")], 10, 100)
    store.finish(already := entry(key_id=key, cost_microusd=1), None)
    lines = [
        journal_line(made),
        journal_line(made),
        b"something else\n",
        journal_line(already),
        journal_line(entry())[:40],
    ]
    first = store.import_records(lines)
    second = store.import_records(lines)
    assert (first.imported, first.present, first.unreadable) == (1, 2, 1)
    assert (second.imported, second.present, second.unreadable) == (0, 3, 1)
    assert count(engine) == 2
    assert budget_of(engine, key) == (3001, 0)


def test_a_large_import_adds_up(engine: Engine, store: UsageStore) -> None:
    keys = [add_key(engine) for _ in range(3)]
    lines = [journal_line(entry(key_id=keys[n % 3], cost_microusd=n)) for n in range(1000)]
    assert store.import_records(lines).imported == 1000
    assert sum(budget_of(engine, key)[0] for key in keys) == sum(range(1000))
    assert store.import_records(lines).present == 1000
    assert sum(budget_of(engine, key)[0] for key in keys) == sum(range(1000))


def test_a_damaged_journal_is_imported_as_far_as_it_can_be_read_and_kept(
    engine: Engine, store: UsageStore, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "1-dead-1.jsonl").write_bytes(journal_line(entry()) + journal_line(entry())[:50])
    result = store.import_orphaned_journals()
    assert (result.imported, result.unreadable) == (1, 1)
    assert [path.name for path in folder.iterdir()] == ["1-dead-1.damaged"]


def test_a_record_that_the_database_refuses_does_not_hold_up_the_others(
    engine: Engine, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry() for _ in range(5)]
    entries[2].operation = None  # type: ignore[assignment]
    result = store.recovery._write(entries)
    assert (result.imported, result.unreadable) == (4, 1)
    assert count(engine) == 4


def test_a_record_of_a_key_that_is_gone_is_kept(engine: Engine, store: UsageStore) -> None:
    store.finish(entry(key_id=999, cost_microusd=100), None)
    assert store.import_records([journal_line(entry(key_id=999, cost_microusd=5))]).imported == 1
    assert count(engine) == 2
    assert count(engine, "budget_periods") == 0


def test_finish_never_raises(
    store: UsageStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store.budgets, "book", broken)
    made = entry(key_id=1)
    store.finish(made, None)
    assert unsaved_in(caplog) == [made]
    monkeypatch.undo()
    assert store.retry_unsaved() == 1


def test_during_the_pause_after_a_failure_nobody_waits_for_the_database(
    engine: Engine, tmp_path: Path
) -> None:
    with open_store(engine, tmp_path, pause_seconds=3600.0) as store:
        with Outage(engine, store):
            store.finish(entry(), None)
        tried: list[int] = []
        event.listen(engine, "checkout", lambda *_: tried.append(1))
        store.finish(entry(), None)
        assert not tried
        assert count(engine) == 0
        tried.clear()
        assert store.retry_unsaved() == 2  # the monitor's retry does not wait for the pause
        store.finish(entry(), None)
        assert count(engine) == 3


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_a_connection_that_died_while_idle_is_replaced_without_losing_the_record(
    engine: Engine, store: UsageStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.finish(entry(), None)
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    store.finish(entry(), None)
    assert count(engine) == 2
    assert not unsaved_in(caplog)


def test_sixty_four_threads_write_every_record_once(engine: Engine, store: UsageStore) -> None:
    def work(_: int) -> None:
        for _ in range(20):
            made = entry()
            store.journal(made)
            store.finish(made, None)

    at_once(work, 64)
    store.retry_unsaved()
    assert count(engine) == 64 * 20
    assert store._journal.waiting() == 0


def test_a_price_that_is_not_known_is_recorded_as_null_counted_and_warned_of_once(
    engine: Engine, store: UsageStore, caplog: pytest.LogCaptureFixture
) -> None:
    counter = metrics.chat_price_unknown_total.labels("ollama", "other")
    before = counter._value.get()
    for _ in range(3):
        store.finish(entry(provider="ollama", model="llama3", cost_microusd=None), None)
    assert counter._value.get() == before + 3
    assert [record.message for record in caplog.records] == ["price_unknown"]
    assert caplog.records[0].setting == '[prices."ollama/llama3"]'  # type: ignore[attr-defined]
    assert rows(engine, "SELECT DISTINCT cost_microusd FROM usage_records") == [(None,)]


def test_the_cost_metric_adds_up_in_dollars(store: UsageStore) -> None:
    counter = metrics.chat_cost_usd_total.labels("echo", "priced")
    before = counter._value.get()
    store.finish(entry(cost_microusd=2_500_000), None, model_label="priced")
    assert counter._value.get() - before == pytest.approx(2.5)


def test_pruning_deletes_what_is_old_in_batches_and_keeps_the_budget(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    day = 86_400_000
    for age in (1, 89, 91, 92, 400):
        for number in range(5):
            old = first_id_at(now_ms() - age * day)[:31] + str(number)
            store.finish(entry(id=old, key_id=key, cost_microusd=1), None)
    spent = budget_of(engine, key)
    assert store.prune(90, batch=4) == 15
    assert count(engine) == 10
    assert store.prune(90) == 0
    assert budget_of(engine, key) == spent == (25, 0)
    with pytest.raises(ValueError, match="at least 1"):
        store.prune(0)


def test_chores_do_nothing_while_the_database_is_away(engine: Engine, store: UsageStore) -> None:
    with Outage(engine, store):
        assert store.retry_unsaved() == 0
        assert store.release_stale_reservations() == 0
        with pytest.raises(DatabaseUnavailable):
            store.import_records([journal_line(entry())])


def test_a_database_that_hangs_holds_up_a_few_threads_for_a_while_and_loses_nothing(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = (
        {"connect_args": {"timeout": 0.5}}
        if engine.dialect.name == "sqlite"
        else {"connect_args": {"options": "-c lock_timeout=500"}}
    )
    impatient = create_engine(engine.url, **options)
    entries = [entry() for _ in range(32)]
    with open_store(impatient, tmp_path, pause_seconds=3600.0) as store:
        with engine.connect() as holder:
            if engine.dialect.name == "sqlite":
                holder.exec_driver_sql("BEGIN EXCLUSIVE")
            else:
                holder.exec_driver_sql("LOCK TABLE usage_records IN ACCESS EXCLUSIVE MODE")
            threads = [threading.Thread(target=store.finish, args=(one, None)) for one in entries]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            holder.rollback()
        assert {one.id for one in unsaved_in(caplog)} == {one.id for one in entries}
        assert store.retry_unsaved() == 32
        assert count(engine) == 32
    impatient.dispose()
