"""Records that share a transaction all reach the database, or all wait for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import BudgetExceeded
from goblin_assistant.metrics import budget_rejections_total
from goblin_assistant.usage import batches
from goblin_assistant.usage.batches import BATCH_SECONDS, BatchWriter
from goblin_assistant.usage.budgets import Settled
from goblin_assistant.usage.records import UsageEntry
from goblin_assistant.usage.store import UsageStore
from tests.conftest import wait_until
from tests.support.books import (
    add_key,
    budget_of,
    count,
    entry,
    open_database,
    open_store,
    principal,
    rows,
)
from tests.support.books_fixtures import engine
from tests.support.forking import fork
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


def test_flush_does_not_wait_for_entries_that_come_after_it() -> None:
    ended = threading.Event()

    def write(_: list[UsageEntry]) -> None:
        if not ended.is_set():
            batch_writer.put(entry())  # there is always one more

    batch_writer = BatchWriter(write, 0.0)
    batch_writer.put(entry())
    assert batch_writer.flush(10.0)
    assert batch_writer.busy
    ended.set()
    assert batch_writer.flush(10.0)
    batch_writer.close()
    assert not batch_writer.busy


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
    child = fork()
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


ECHO = [("echo", "echo")]


def hold(store: UsageStore, key_id: int, budget: int = 1_000_000) -> Settled:
    """A record of 3,000 micro-dollars, for which as much is reserved."""
    made = entry(key_id=key_id, cost_microusd=3000)
    held = store.reserve(made.id, principal(key_id, budget), ECHO, 10, 20)
    assert held is not None
    return made, held


@pytest.fixture
def waiting(engine: Engine, tmp_path: Path) -> Iterator[UsageStore]:
    """A store whose records wait until something asks for them."""
    with open_store(engine, tmp_path / "w", pause_seconds=0.0, batch_seconds=600.0) as store:
        yield store


def test_a_reservation_ends_with_its_record_and_never_before(
    engine: Engine, waiting: UsageStore
) -> None:
    keys = [add_key(engine) for _ in range(3)]
    for key_id in keys * 4:
        waiting.finish(*hold(waiting, key_id))
    assert count(engine) == 0
    assert [budget_of(engine, key_id) for key_id in keys] == [(0, 12_000)] * 3
    assert waiting.flush(10)
    assert count(engine) == 12
    assert [budget_of(engine, key_id) for key_id in keys] == [(12_000, 0)] * 3
    assert count(engine, "budget_reservations") == 0


def test_a_budget_that_only_waits_for_finished_chats_covers_the_next_one(
    engine: Engine, waiting: UsageStore
) -> None:
    key_id = add_key(engine)
    made, held = hold(waiting, key_id, budget=4000)
    made.cost_microusd = 1000
    before = budget_rejections_total._value.get()
    waiting.finish(made, held)
    unfinished = hold(waiting, key_id, budget=4000)
    assert budget_of(engine, key_id) == (1000, 3000)
    assert budget_rejections_total._value.get() == before
    with pytest.raises(BudgetExceeded, match=r"\$0.001 is spent and \$0.003 is reserved"):
        hold(waiting, key_id, budget=4000)
    assert budget_rejections_total._value.get() == before + 1
    waiting.finish(*unfinished)
    with pytest.raises(BudgetExceeded, match=r"\$0.004 is spent and \$0.00 is reserved"):
        hold(waiting, key_id, budget=4000)


def test_a_chat_that_cost_more_than_was_reserved_counts_at_once(
    engine: Engine, waiting: UsageStore
) -> None:
    key_id = add_key(engine)
    made, held = hold(waiting, key_id)
    made.cost_microusd = 3001
    waiting.finish(made, held)
    assert budget_of(engine, key_id) == (3001, 0)
    assert count(engine) == 1


def test_a_reservation_that_expired_while_its_record_waited_is_not_released_again(
    engine: Engine, waiting: UsageStore
) -> None:
    key_id = add_key(engine)
    late = hold(waiting, key_id)
    assert waiting.budgets.release_stale(now_ms() + 3_600_000) == 1
    for each in (late, hold(waiting, key_id), hold(waiting, key_id)):
        waiting.finish(*each)
    hold(waiting, key_id)  # goes on
    assert waiting.flush(10)
    assert count(engine) == 3
    assert budget_of(engine, key_id) == (9000, 3000)


def test_rotated_keys_in_one_batch_spend_the_budget_of_the_first(
    engine: Engine, waiting: UsageStore
) -> None:
    first, other = add_key(engine), add_key(engine)
    second = add_key(engine, budget_key_id=first)
    for key_id in (second, other, first, second):
        waiting.finish(*hold(waiting, key_id))
    waiting.finish(entry(key_id=second, cost_microusd=7), None)
    waiting.finish(entry(key_id=4711, cost_microusd=7), None)  # a key that is gone
    waiting.finish(entry(key_id=None, cost_microusd=7), None)
    assert waiting.flush(10)
    assert count(engine) == 7
    assert budget_of(engine, first) == (9007, 0)
    assert budget_of(engine, second) == (0, 0)
    assert budget_of(engine, other) == (3000, 0)


def test_a_batch_with_reservations_that_the_database_misses_is_settled_later(
    engine: Engine, waiting: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise waiting._database._errors[0]("the database is away")

    key_id = add_key(engine)
    settled = [hold(waiting, key_id) for _ in range(3)]
    with monkeypatch.context() as outage:
        outage.setattr(waiting._database, "_transact", away)
        for each in settled:
            waiting.finish(*each)
        assert waiting.flush(10)
    assert budget_of(engine, key_id) == (0, 9000)
    waiting.retry_unsaved()
    assert count(engine) == 3
    assert budget_of(engine, key_id) == (9000, 0)


def test_a_batch_locks_budgets_in_the_order_of_the_keys_that_own_them(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Else two processes that settle keys of the same budgets could wait for each other.
    engine = open_database(postgres_url, seconds=60.0)
    first, other = add_key(engine), add_key(engine)
    second = add_key(engine, budget_key_id=first)  # the highest id, of the lowest owner
    lock = text("UPDATE budget_periods SET spent_microusd = spent_microusd + 1 WHERE key_id = :k")
    # Each look in a transaction of its own: PostgreSQL shows one state throughout a transaction.
    waits = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with open_store(engine, tmp_path, batch_seconds=600.0) as store:
        for key_id in (first, other):
            store.finish(entry(key_id=key_id, cost_microusd=1), None)
        assert store.flush(30)
        with engine.connect() as another:
            another.execute(lock, {"k": first})
            for key_id in (other, second):
                store.finish(entry(key_id=key_id, cost_microusd=1), None)
            with ThreadPoolExecutor(1) as pool:
                flushed = pool.submit(store.flush, 60)
                wait_until(lambda: len(rows(engine, waits)) == 1, 30)
                another.execute(lock, {"k": other})
                another.commit()
                assert flushed.result()
    assert [record.message for record in caplog.records] == []
    assert [budget_of(engine, key_id) for key_id in (first, other)] == [(3, 0), (3, 0)]
    engine.dispose()


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
