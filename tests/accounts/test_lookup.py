"""Looking up who is calling: a database that is slow to connect is not one that is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, bindparam, event, select

from goblin_assistant.accounts import lookup as module
from goblin_assistant.accounts.lookup import KEPT_CONNECTIONS, Lookup
from goblin_assistant.database.models import users
from goblin_assistant.errors import Unavailable
from goblin_assistant.lifecycle import start
from goblin_assistant.usage.transactions import WARM
from tests.conftest import MakeApp, wait_until
from tests.support.accounts_fixtures import engine_for
from tests.support.books import add_user, open_database, rows

SECONDS = 60
BY_EMAIL = select(users.c.id).where(users.c.email == bindparam("given"))


class SlowDoor:
    """A new connection is ready only while the door is open; `tried` counts."""

    def __init__(self, engine: Engine) -> None:
        self.opened = threading.Event()
        self._lock = threading.Lock()
        event.listen(engine, "connect", self._wait)
        # SQLAlchemy lets nobody else in while it connects for the first time.
        self.tried = 0
        self.opened.set()
        with engine.connect() as first:
            first.invalidate()
        self.tried = 0

    def close(self) -> None:
        """From now on everybody waits."""
        self.opened.clear()

    def _wait(self, *_: Any) -> None:
        with self._lock:
            self.tried += 1
        assert self.opened.wait(SECONDS)


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """PostgreSQL with a user."""
    made = open_database(postgres_url)
    add_user(made, "ada@example.com")
    made.dispose()
    fresh = engine_for(postgres_url)
    yield fresh
    fresh.dispose()


@pytest.fixture
def lookup(engine: Engine) -> Iterator[Lookup]:
    """Asks for a user's id."""
    made = Lookup(engine, BY_EMAIL)
    yield made
    made.close()


def test_who_waits_while_others_connect_is_refused_alone(
    engine: Engine, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.1)
    door = SlowDoor(engine)
    door.close()
    with ThreadPoolExecutor(KEPT_CONNECTIONS + 1) as pool:
        inside = [pool.submit(lookup.first, "ada@example.com") for _ in range(KEPT_CONNECTIONS)]
        wait_until(lambda: door.tried == KEPT_CONNECTIONS, SECONDS, "all places to be taken")
        try:
            with pytest.raises(Unavailable):
                lookup.first("ada@example.com")
            monkeypatch.setattr(module, "LOOKUP_SECONDS", SECONDS)
            late = pool.submit(lookup.first, "ada@example.com")
        finally:
            door.opened.set()
        assert late.result(SECONDS) is not None
        assert all(one.result(SECONDS) == late.result() for one in inside)


def test_a_warm_lookup_makes_no_connection_for_its_first_callers(
    engine: Engine, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", SECONDS)
    door = SlowDoor(engine)
    lookup.warm()
    assert door.tried == KEPT_CONNECTIONS
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lookup.first, ["ada@example.com"] * 64))
    assert None not in found
    assert door.tried == KEPT_CONNECTIONS


def test_an_instance_has_its_connections_before_the_first_request(
    postgres_url: str, make_app: MakeApp
) -> None:
    start(make_app(database_url=postgres_url))
    engine = engine_for(postgres_url)
    lent = rows(
        engine,
        "SELECT COUNT(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert lent[0][0] >= 2 * KEPT_CONNECTIONS + WARM
    engine.dispose()
