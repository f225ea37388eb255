"""A conflict of one transaction with another is no outage: nobody else is refused for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from goblin_assistant.database.models import now_ms
from goblin_assistant.usage.budgets import Budgets
from goblin_assistant.usage.months import month_of
from goblin_assistant.usage.records import new_record_id
from goblin_assistant.usage.transactions import DatabaseUnavailable, UsageDatabase
from tests.conftest import wait_until
from tests.support.books import add_key, budget_of, open_database, rows

SECONDS = 60
HOUR_MS = 3_600_000
WAITING = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted"
SPEND = "UPDATE budget_periods SET spent_microusd = spent_microusd + 1 WHERE key_id = %s"


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """PostgreSQL, where a lock is waited for so long as a test needs."""
    made = open_database(postgres_url, seconds=SECONDS)
    yield made
    made.dispose()


@pytest.fixture
def database(engine: Engine) -> Iterator[UsageDatabase]:
    """A pause would last to the end of the test."""
    made = UsageDatabase(engine, pause_seconds=3600)
    yield made
    made.close()


def keys_with_a_month(engine: Engine, database: UsageDatabase) -> tuple[int, int]:
    """Two keys that have reserved ten micro-dollars each."""
    first, second = add_key(engine), add_key(engine)
    for key in (first, second):
        reserve(database, key)
    return first, second


def reserve(database: UsageDatabase, key: int) -> None:
    Budgets(database).reserve(new_record_id(), key, 1_000_000, 10, now_ms() + HOUR_MS)


def locked(connection: Connection, key: int) -> None:
    """Hold the lock of a key's month until the connection's transaction ends."""
    connection.execute(
        text("SELECT 1 FROM budget_periods WHERE key_id = :key FOR UPDATE"), {"key": key}
    )


def test_a_deadlock_is_tried_again_until_the_other_transaction_has_ended(
    engine: Engine, database: UsageDatabase
) -> None:
    first, second = keys_with_a_month(engine, database)
    has_first, go_on = threading.Event(), threading.Event()
    tries: list[int] = []

    def ours(cursor: Any) -> str:
        tries.append(1)
        cursor.execute(SPEND, (first,))
        has_first.set()
        assert go_on.wait(SECONDS)
        cursor.execute(SPEND, (second,))
        return "done"

    with ThreadPoolExecutor(2) as pool:
        with engine.begin() as other:
            # Who waits longer than this looks for a ring, and is ended if it finds one.
            other.execute(text("SET LOCAL deadlock_timeout = '1h'"))
            locked(other, second)
            running = pool.submit(database.run, ours)
            assert has_first.wait(SECONDS)
            ring = pool.submit(locked, other, first)
            wait_until(lambda: rows(engine, WAITING)[0][0], SECONDS, "the other to wait for us")
            go_on.set()
            ring.result(SECONDS)
        assert running.result(SECONDS) == "done"
    assert len(tries) >= 2
    assert budget_of(engine, first) == budget_of(engine, second) == (1, 10)
    reserve(database, first)


def test_a_transaction_that_another_overtook_is_tried_again(
    engine: Engine, database: UsageDatabase
) -> None:
    first, _ = keys_with_a_month(engine, database)
    tries: list[int] = []

    def ours(cursor: Any) -> None:
        tries.append(1)
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT spent_microusd FROM budget_periods WHERE key_id = %s", (first,))
        if len(tries) == 1:
            with engine.begin() as other:
                other.exec_driver_sql(SPEND, (first,))
        cursor.execute(SPEND, (first,))

    database.run(ours)
    assert len(tries) == 2
    assert budget_of(engine, first) == (2, 10)


def test_a_key_whose_month_is_locked_too_long_is_refused_alone(
    engine: Engine, database: UsageDatabase
) -> None:
    first, second = keys_with_a_month(engine, database)

    def impatient(cursor: Any) -> None:
        cursor.execute("SET LOCAL lock_timeout = '100ms'")
        cursor.execute(SPEND, (first,))

    with engine.begin() as other:
        locked(other, first)
        with pytest.raises(DatabaseUnavailable, match="LockNotAvailable"):
            database.run(impatient)
        reserve(database, second)  # the lock of the first is still held


def test_a_statement_that_an_operator_cancelled_is_refused_alone(
    engine: Engine, database: UsageDatabase
) -> None:
    first, second = keys_with_a_month(engine, database)
    cancel = text("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool, engine.begin() as other:
        locked(other, first)
        waiting = pool.submit(reserve, database, first)

        def cancelled() -> bool:
            with engine.connect() as operator:
                operator.execute(cancel)
            return waiting.done()

        wait_until(cancelled, SECONDS, "the statement to be cancelled")
        with pytest.raises(DatabaseUnavailable, match="QueryCanceled"):
            waiting.result()
        reserve(database, second)  # the lock of the first is still held


def test_a_statement_that_took_too_long_is_an_outage_unless_others_have_answers(
    engine: Engine, database: UsageDatabase
) -> None:
    _, second = keys_with_a_month(engine, database)

    def hangs(cursor: Any, meanwhile: Callable[[], None]) -> None:
        meanwhile()
        cursor.execute("SET LOCAL statement_timeout = '100ms'")
        cursor.execute(f"SELECT pg_sleep({SECONDS})")

    with pytest.raises(DatabaseUnavailable, match="QueryCanceled"):
        database.run(hangs, lambda: reserve(database, second))
    reserve(database, second)
    with pytest.raises(DatabaseUnavailable, match="QueryCanceled"):
        database.run(hangs, database.warm)  # a database that hangs may still take connections
    with pytest.raises(DatabaseUnavailable, match="a moment ago"):
        reserve(database, second)


def test_who_finds_no_free_writer_is_refused_alone_while_others_have_answers(
    engine: Engine, database: UsageDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = keys_with_a_month(engine, database)
    now = now_ms()

    class Crowd:
        """Another thread is always faster; it has its answer if `answered`."""

        answered = True

        def acquire(self, timeout: float) -> bool:
            if self.answered:
                with monkeypatch.context() as free:
                    free.setattr(database, "_writers", threading.Semaphore())
                    assert Budgets(database).state(second, now).period == month_of(now)
            return False

    crowd = Crowd()
    with monkeypatch.context() as full:
        full.setattr(database, "_writers", crowd)
        with pytest.raises(DatabaseUnavailable, match="every writer"):
            reserve(database, second)
    reserve(database, second)
    crowd.answered = False
    with monkeypatch.context() as full:
        full.setattr(database, "_writers", crowd)
        with pytest.raises(DatabaseUnavailable, match="every writer"):
            reserve(database, second)
    with pytest.raises(DatabaseUnavailable, match="a moment ago"):
        reserve(database, second)
