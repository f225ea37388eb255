"""Databases with tables, keys and stores for tests of usage, prices and budgets."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.database.engine import DATABASE_SECONDS, engine_options
from goblin_assistant.database.models import api_keys, metadata, now_ms, users
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import UsageEntry, new_record_id
from goblin_assistant.usage.store import UsageStore

CENT = {"echo/*": PriceRow(input=100, output=100)}
"""A hundred micro-dollars a token: a hundred tokens cost a cent."""


def open_database(url: str, threads: int = 8, seconds: float = DATABASE_SECONDS) -> Engine:
    """An engine as the product makes it, with the tables. `seconds`: the limit of a statement."""
    url = url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, **engine_options(url, threads, seconds))
    metadata.create_all(engine)
    return engine


def add_user(engine: Engine, email: str | None = None) -> int:
    """A user; its id."""
    with engine.begin() as connection:
        row = connection.execute(
            users.insert().values(
                email=email or f"{uuid.uuid4().hex}@example.com",
                password_hash="-",
                settings={},
                created_at=now_ms(),
            )
        )
        assert row.inserted_primary_key is not None
        return int(row.inserted_primary_key[0])


def add_key(engine: Engine, user_id: int | None = None, name: str = "team", **columns: Any) -> int:
    """An API key; its id."""
    user_id = user_id if user_id is not None else add_user(engine)
    with engine.begin() as connection:
        row = connection.execute(
            api_keys.insert().values(
                user_id=user_id, name=name, prefix="gob_test", key_hash=uuid.uuid4().hex,
                scopes=["chat"], created_at=now_ms(), **columns,
            )
        )  # fmt: skip
        assert row.inserted_primary_key is not None
        return int(row.inserted_primary_key[0])


def principal(key_id: int | None, budget: int | None, user_id: int = 1) -> Principal:
    """A caller with a monthly budget in micro-dollars."""
    return Principal(user_id, "user", key_id, monthly_budget_microusd=budget, label=f"key:{key_id}")


def entry(**columns: Any) -> UsageEntry:
    """A finished chat's entry."""
    values: dict[str, Any] = {
        "id": new_record_id(),
        "correlation_id": "test-correlation",
        "user_id": 1,
        "provider": "echo",
        "model_requested": "echo",
        "model": "echo",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cost_microusd": 3000,
        **columns,
    }
    return UsageEntry(**values)


@contextlib.contextmanager
def open_store(engine: Engine, folder: Path, **options: Any) -> Iterator[UsageStore]:
    """The stores on a database, with echo at a hundred micro-dollars a token."""
    store = UsageStore(engine, options.pop("prices", Prices(CENT)), folder, **options)
    try:
        yield store
    finally:
        store.close()


def rows(engine: Engine, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """The result of a statement."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), values)]


def budget_of(engine: Engine, key_id: int) -> tuple[int, int]:
    """(spent, reserved) of a key, in micro-dollars, over all months."""
    found = rows(
        engine,
        "SELECT COALESCE(SUM(spent_microusd), 0), COALESCE(SUM(reserved_microusd), 0)"
        " FROM budget_periods WHERE key_id = :k",
        k=key_id,
    )
    return int(found[0][0]), int(found[0][1])


def count(engine: Engine, table: str = "usage_records") -> int:
    """Rows of a table."""
    return int(rows(engine, f"SELECT COUNT(*) FROM {table}")[0][0])
