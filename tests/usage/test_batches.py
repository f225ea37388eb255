"""Records that share a transaction all reach the database, or all wait for it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from goblin_assistant.usage import batches
from goblin_assistant.usage.batches import BATCH_SECONDS, BatchWriter
from goblin_assistant.usage.records import UsageEntry
from goblin_assistant.usage.store import UsageStore
from tests.conftest import wait_until
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


class Target:
    """Takes batches. Blocks the writer while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[UsageEntry]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch: list[UsageEntry]) -> None:
        self.gate.wait(30)
        self.batches.append(batch)

    @property
    def ids(self) -> list[str]:
        return [one.id for batch in self.batches for one in batch]


def test_what_is_put_arrives_once_and_in_order() -> None:
    target = Target()
    batch_writer = BatchWriter(target, 0.001)
    made = [entry() for _ in range(500)]
    for one in made:
        assert batch_writer.put(one)
    batch_writer.close()
    assert target.ids == [one.id for one in made]
    assert max(len(batch) for batch in target.batches) <= batches.BATCH


def test_entries_of_the_same_moment_share_a_batch() -> None:
    target = Target()
    target.gate.clear()
    batch_writer = BatchWriter(target, 0.0)
    for _ in range(50):
        batch_writer.put(entry())
    target.gate.set()
    batch_writer.close()
    assert len(target.batches) < 50


def test_flush_returns_when_everything_is_handed_over() -> None:
    target = Target()
    batch_writer = BatchWriter(target, 0.001)
    one = entry()
    batch_writer.put(one)
    assert batch_writer.flush(5.0)
    assert target.ids == [one.id]
    batch_writer.close()


def test_flush_gives_up_after_its_time() -> None:
    target = Target()
    target.gate.clear()
    batch_writer = BatchWriter(target, 0.0)
    batch_writer.put(entry())
    assert not batch_writer.flush(0.05)
    target.gate.set()
    batch_writer.close()


def test_too_many_are_refused_so_that_their_makers_write_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "CAPACITY", 10)
    target = Target()
    target.gate.clear()
    batch_writer = BatchWriter(target, 0.0)
    taken = sum(batch_writer.put(entry()) for _ in range(500))
    assert taken <= 10 + batches.BATCH
    target.gate.set()
    batch_writer.close()
    assert len(target.ids) == taken


def test_a_forked_process_writes_its_own() -> None:
    # As under a server that loads the application before it forks.
    target = Target()
    batch_writer = BatchWriter(target, 0.0)
    target.gate.clear()
    batch_writer.put(entry())
    batch_writer.put(entry())  # the thread is busy, and knows that there is more
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this test forks while threads run
        child = os.fork()
    if child == 0:
        target.gate.set()
        batch_writer.put(entry())
        os.write(writer, b"1" if batch_writer.flush(5.0) and len(target.ids) == 1 else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    target.gate.set()
    batch_writer.close()
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)


def test_a_closed_one_takes_nothing() -> None:
    batch_writer = BatchWriter(Target(), 0.001)
    batch_writer.close()
    assert not batch_writer.put(entry())


def test_putting_while_closing_loses_nothing() -> None:
    target = Target()
    batch_writer = BatchWriter(target, 0.0)
    taken: list[str] = []

    def work() -> None:
        while True:
            one = entry()
            if not batch_writer.put(one):
                return
            taken.append(one.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(target.batches) > 3)
    batch_writer.close()
    for thread in threads:
        thread.join()
    wait_until(lambda: not batch_writer._waiting)
    assert sorted(target.ids) == sorted(taken)


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[UsageStore]:
    """A store on `engine` that gathers records as in the application."""
    with open_store(engine, tmp_path, pause_seconds=0.0, batch_seconds=BATCH_SECONDS) as store:
        yield store


def test_gathered_records_of_many_threads_are_all_written_and_booked(
    engine: Engine, store: UsageStore
) -> None:
    keys = [add_key(engine), add_key(engine)]

    def work(number: int) -> None:
        for _ in range(25):
            made = entry(key_id=keys[number % 2], cost_microusd=7)
            store.journal(made)
            store.finish(made, None)

    at_once(work, 16)
    assert store.flush(10)
    assert count(engine) == 400
    assert [budget_of(engine, key_id) for key_id in keys] == [(1400, 0), (1400, 0)]
    assert store._journal.waiting() == 0


def test_a_record_with_money_held_is_written_at_once(engine: Engine, store: UsageStore) -> None:
    key_id = add_key(engine)
    made = entry(key_id=key_id)
    held = store.reserve(made.id, principal(key_id, 1_000_000), [("echo", "echo")], 10, 20)
    assert held is not None
    store.finish(made, held)
    assert count(engine) == 1
    assert budget_of(engine, key_id) == (3000, 0)


def test_gathered_records_survive_an_outage(
    engine: Engine, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise store._database._errors[0]("the database is away")

    with monkeypatch.context() as outage:
        outage.setattr(store._database, "_transact", away)
        for _ in range(20):
            store.finish(entry(), None)
        assert store.flush(10)
        assert len(store.recovery) == 20
    store.retry_unsaved()
    assert count(engine) == 20


def test_one_record_that_the_database_refuses_does_not_take_the_others_along(
    engine: Engine, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = UsageEntry.values
    poor = entry()
    # A NOT NULL column without a value: both databases refuse the row.
    monkeypatch.setattr(
        UsageEntry,
        "values",
        lambda self: tuple(None if self is poor and v == "echo" else v for v in real(self)),
    )
    store.batch_writer.seconds = 0.2
    made = [entry(), poor, entry()]
    for one in made:
        store.finish(one, None)
    assert store.flush(10)
    assert {row[0] for row in rows(engine, "SELECT id FROM usage_records")} == {
        made[0].id,
        made[2].id,
    }


def test_a_failed_chat_is_in_the_journal_while_it_waits(engine: Engine, store: UsageStore) -> None:
    store.batch_writer.seconds = 0.2
    store.finish(entry(completed=False), None)
    assert store._journal.waiting() == 1
    assert store.flush(10)
    assert store._journal.waiting() == 0


def test_closing_writes_what_waits(engine: Engine, tmp_path: Path) -> None:
    with open_store(engine, tmp_path, batch_seconds=0.2) as store:
        for _ in range(5):
            store.finish(entry(), None)
    assert count(engine) == 5


def test_a_record_written_twice_is_booked_once(engine: Engine, store: UsageStore) -> None:
    key_id = add_key(engine)
    made = entry(key_id=key_id, cost_microusd=5)
    store.finish(made, None)
    store.finish(made, None)
    assert store.flush(10)
    assert count(engine) == 1
    assert budget_of(engine, key_id) == (5, 0)
