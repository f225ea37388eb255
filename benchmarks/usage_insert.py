"""What a usage record costs, from an empty table to a million rows.

    python -m benchmarks.usage_insert [--url URL] [--rows N ...]

Prints CPU microseconds per record of this process (user + system; medians of rounds, pinned to one
core): for the journal line, for the transaction of a key without a budget, and for reserving and
settling with one. Between the steps the table is filled with SQL, not through the product.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.models import api_keys, metadata, now_ms, users
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import COLUMNS, UsageEntry, first_id_at, new_record_id
from goblin_assistant.usage.store import UsageStore

ROUNDS = 7
PER_ROUND = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--url", help="SQLAlchemy URL of an empty database; default: SQLite in a temporary folder"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 10_000, 100_000, 1_000_000])
    parser.add_argument("--cpu", type=int, default=0, help="core to pin to")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/usage.db"
        engine = create_engine(url, **engine_options(url, 8))
        metadata.create_all(engine)
        key = _key(engine)
        store = UsageStore(
            engine, Prices({"echo/*": PriceRow(input=Decimal(1), output=Decimal(1))}), Path(folder)
        )
        print(
            f"{engine.dialect.name}; CPU microseconds per record, "
            f"median of {ROUNDS} rounds of {PER_ROUND} (lowest-highest)"
        )
        print(
            f"{'rows before':>12} {'journal':>18} {'record':>18} "
            f"{'reserve + settle':>18} {'record, wall':>18}"
        )
        for rows in options.rows:
            _fill(engine, rows)
            print(f"{rows:>12}", *_measure(store, key))
        store.close()
        engine.dispose()


def _measure(store: UsageStore, key: int) -> list[str]:
    caller = Principal(1, "user", key, monthly_budget_microusd=10**15)
    journal, record, budget, wall = [], [], [], []
    for _ in range(ROUNDS):
        entries = [_entry(None) for _ in range(PER_ROUND)]
        journal.append(_cpu(lambda entries=entries: [store.journal(one) for one in entries])[0])
        cpu, elapsed = _cpu(
            lambda entries=entries: [store.finish(one, None, "echo") for one in entries]
        )
        record.append(cpu)
        wall.append(elapsed)

        def spend() -> None:
            for _ in range(PER_ROUND):
                one = _entry(key)
                held = store.reserve(one.id, caller, [("echo", "echo")], 100, 100)
                store.finish(one, held, "echo")

        budget.append(_cpu(spend)[0])
    return [_spread(values) for values in (journal, record, budget, wall)]


def _cpu(work: Callable[[], Any]) -> tuple[float, float]:
    cpu, elapsed = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu) / PER_ROUND * 1e6, (
        time.perf_counter() - elapsed
    ) / PER_ROUND * 1e6


def _spread(values: list[float]) -> str:
    return f"{f'{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})':>18}"


def _entry(key: int | None) -> UsageEntry:
    return UsageEntry(
        id=new_record_id(), correlation_id=str(uuid.uuid4()), user_id=1, key_id=key,
        provider="echo", model_requested="echo", model="echo",
        prompt_tokens=100, completion_tokens=50, cost_microusd=150,
    )  # fmt: skip


def _key(engine: Engine) -> int:
    with engine.begin() as connection:
        connection.execute(
            users.insert().values(
                id=1, email="bench@example.com", password_hash="-", settings={}, created_at=now_ms()
            )
        )
        connection.execute(
            api_keys.insert().values(
                id=1,
                user_id=1,
                name="bench",
                prefix="gob_",
                key_hash="-",
                scopes=[],
                created_at=now_ms(),
            )
        )
    return 1


def _fill(engine: Engine, rows: int) -> None:
    """Add older records of many users and keys, up to `rows` in all."""
    with engine.begin() as connection:
        have = connection.execute(text("SELECT COUNT(*) FROM usage_records")).scalar_one()
        names = ", ".join(COLUMNS)
        marks = ", ".join(f":{name}" for name in COLUMNS)
        past = now_ms() - 80 * 86_400_000
        batch = []
        for number in range(have, rows):
            one = _entry(number % 500)
            one.id = first_id_at(past + number)[:12] + uuid.uuid4().hex[:20]
            one.user_id = number % 200
            batch.append(one.as_row())
            if len(batch) == 5000:
                connection.execute(
                    text(f"INSERT INTO usage_records ({names}) VALUES ({marks})"), batch
                )
                batch = []
        if batch:
            connection.execute(text(f"INSERT INTO usage_records ({names}) VALUES ({marks})"), batch)


if __name__ == "__main__":
    main()
