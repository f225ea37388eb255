"""PostgreSQL and Redis that hang. SIGSTOP stops them: connections stay open, and the kernel still
acknowledges."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from goblin_assistant.calls.idempotency_redis import RedisIdempotencyStore
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.gate import Gate
from tests.conftest import PASSWORD, Serve, wait_until
from tests.support.accounts_fixtures import engine_for
from tests.support.services import PostgresServer, RedisServer

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
BOUND = 30.0
"""Seconds: longer than any limit here, shorter than a hang."""


def chat(url: str, headers: dict[str, str]) -> requests.Response:
    return requests.post(url + "/chat/completions", json=CHAT, headers=headers, timeout=BOUND)


def key(url: str, headers: dict[str, str], **spec: Any) -> dict[str, str]:
    answer = requests.post(
        url + "/auth/keys", json={"name": "k", **spec}, headers=headers, timeout=BOUND
    )
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['key']}"}


@pytest.fixture
def paused(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may pause. It is resumed at the end."""
    yield own_postgres
    own_postgres.resume()


def test_known_keys_go_on_while_postgresql_hangs_and_every_chat_is_in_the_books_afterwards(
    serve: Serve, paused: PostgresServer
) -> None:
    address = paused.create_database()
    server = serve(DATABASE_URL=address)
    user = server.register()
    known, budgeted = key(server.url, user), key(server.url, user, monthly_budget_usd="5")
    unseen = key(server.url, user)
    for credential in (known, budgeted, user):
        assert chat(server.url, credential).status_code == 200
    paused.pause()
    with ThreadPoolExecutor(40) as pool:
        answers = list(
            pool.map(lambda n: chat(server.url, user if n % 8 == 0 else known), range(160))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert requests.get(server.url + "/health/live", timeout=BOUND).status_code == 200
        refused = list(pool.map(lambda _: chat(server.url, unseen), range(40)))
        assert {(one.status_code, one.json()["error"]) for one in refused} == {(503, "unavailable")}
        login = {"email": "ada@example.com", "password": PASSWORD}
        logins = list(
            pool.map(
                lambda _: requests.post(server.url + "/auth/login", json=login, timeout=BOUND),
                range(40),
            )
        )
        assert {one.status_code for one in logins} == {503}
        assert all(int(one.headers["Retry-After"]) >= 1 for one in (*refused, *logins))
    assert server.metrics()["chat_slots_in_use"] == 0
    paused.resume()
    # A key with a budget is served again once the database is known to be back.
    wait_until(lambda: chat(server.url, budgeted).status_code == 200, BOUND)
    assert server.stop() == 0
    engine = engine_for(address)
    with engine.connect() as connection:
        rows = connection.scalar(text("SELECT COUNT(*) FROM usage_records WHERE status_code = 200"))
    engine.dispose()
    assert rows == 164


def test_a_key_with_a_budget_is_refused_while_postgresql_hangs(
    serve: Serve, paused: PostgresServer
) -> None:
    server = serve(
        DATABASE_URL=paused.create_database(),
        GOBLIN_DATABASE_TIMEOUT="1",
        GOBLIN_CONFIG_FILE=str(priced(paused.folder)),
    )
    budgeted = key(server.url, server.register(), monthly_budget_usd="5")
    assert chat(server.url, budgeted).status_code == 200
    paused.pause()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: chat(server.url, budgeted), range(60)))
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(one.headers["Retry-After"]) >= 1 for one in answers)
    paused.resume()
    wait_until(lambda: chat(server.url, budgeted).status_code == 200, BOUND)


def priced(folder: Path) -> Path:
    """A price for echo, because a chat that costs nothing reserves nothing."""
    path = folder / "goblin.toml"
    path.write_text('[prices."echo/echo"]\ninput = "1"\noutput = "1"\n')
    return path


def test_a_statement_a_commit_and_a_new_connection_end_while_postgresql_hangs(
    paused: PostgresServer,
) -> None:
    address = paused.create_database().replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(address, **engine_options(address, 4, 1.0))
    one, other = engine.connect(), engine.connect()
    one.execute(text("CREATE TABLE t (n int)"))
    other.execute(text("SELECT 1"))
    paused.pause()
    ended: list[type[BaseException]] = []

    def ends(work: Any) -> None:
        try:
            work()
        except OperationalError as error:
            ended.append(type(error))

    works = [one.commit, lambda: other.execute(text("SELECT 1")), lambda: engine.connect()]
    threads = [threading.Thread(target=ends, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert ended == [OperationalError] * 3
    paused.resume()

    def answers() -> bool:
        try:
            with engine.connect() as connection:
                return connection.scalar(text("SELECT 1")) == 1
        except OperationalError:
            return False

    wait_until(answers, BOUND)
    engine.dispose()


def test_a_locked_table_is_no_database_that_hangs(postgres_url: str) -> None:
    address = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(address, **engine_options(address, 4, 1.0))
    with engine.connect() as holder, engine.connect() as waiter:
        holder.execute(text("CREATE TABLE t (n int)"))
        holder.commit()
        holder.execute(text("LOCK TABLE t IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(OperationalError, match=r"lock timeout|statement timeout"):
            waiter.execute(text("SELECT * FROM t"))
        with engine.connect() as third:
            assert third.scalar(text("SELECT 1")) == 1
    engine.dispose()


@pytest.mark.parametrize("died", [True, False])
def test_the_trial_that_meets_a_dead_connection_or_an_error_is_not_the_last_one_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    address = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    options = engine_options(address, 4, 1.0)
    engine = create_engine(address, **options)
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    if died:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    gate: Gate = options["connect_args"]["limits"].gate
    gate.failed()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    if not died:
        connection = engine.raw_connection()  # type: ignore[assignment]
        gate.failed()
        monkeypatch.setattr(time, "monotonic", lambda: now + 4)
        connection.driver_connection.autocommit = True  # type: ignore[attr-defined]
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.driver_connection.execute(  # type: ignore[attr-defined]
                "SELECT * FROM nothing"
            )
        connection.close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_a_redis_that_hangs_holds_up_few_answers_with_idempotency_keys(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisIdempotencyStore(60, 60.0, redis_server.url, ["s" * 40])
    asked = []
    real = store._redis.set

    def count(*args: Any, **options: Any) -> Any:
        asked.append(1)
        return real(*args, **options)

    store._redis.set = count  # type: ignore[method-assign]
    store.begin("key:1", "0", "/chat", b"{}")
    redis_server.pause()
    try:
        for number in range(50):
            store.begin("key:1", str(number), "/chat", b"{}")
    finally:
        redis_server.resume()
    assert len(asked) == 2
    wait_until(lambda: (store.begin("key:1", "again", "/chat", b"{}"), len(asked) > 2)[1])
    store._redis.close()


def test_when_the_pause_is_over_one_tries_and_the_others_do_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(1.0)
    assert gate.enter()
    assert gate.enter()
    gate.failed()
    assert not gate.enter()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    assert [gate.enter() for _ in range(3)] == [True, False, False]
    gate.failed()
    assert not gate.enter()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    assert gate.enter()
    gate.succeeded()
    assert gate.enter()
    assert gate.enter()


def test_a_refused_row_of_a_batch_is_an_answer_and_closes_no_gate(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    options = engine_options(url, 4)
    engine = create_engine(url, **options)
    gate: Gate = options["connect_args"]["limits"].gate
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id integer NOT NULL)"))
    rows: list[tuple[int | None]] = [(None,), *((number,) for number in range(2000))]
    for _ in range(5):
        kept = engine.raw_connection()
        with pytest.raises(psycopg.errors.NotNullViolation):
            kept.cursor().executemany("INSERT INTO t VALUES (%s)", rows)
        kept.rollback()
        kept.close()
    assert gate.failures == 0
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
    engine.dispose()
