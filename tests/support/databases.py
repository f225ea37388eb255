"""Whole databases, compared row by row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, inspect, text

from goblin_assistant.config import Config


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in order."""
    config = Config.load(environ={"DATABASE_URL": url, "SECRET_KEY": "s" * 40})
    engine = create_engine(config.sqlalchemy_url)
    try:
        with engine.connect() as connection:
            return {
                table: sorted(
                    (tuple(row) for row in connection.execute(text(f'SELECT * FROM "{table}"'))),
                    key=repr,
                )
                for table in sorted(inspect(connection).get_table_names())
            }
    finally:
        engine.dispose()


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of one query."""
    config = Config.load(environ={"DATABASE_URL": url, "SECRET_KEY": "s" * 40})
    engine = create_engine(config.sqlalchemy_url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]
    finally:
        engine.dispose()


def assert_books_agree(url: str) -> None:
    """Each key has spent the sum of its records, to the micro-dollar; no record is there twice."""
    spent = query(url, "SELECT key_id, SUM(spent_microusd) FROM budget_periods GROUP BY key_id")
    recorded = query(
        url,
        "SELECT key_id, SUM(cost_microusd) FROM usage_records WHERE key_id IS NOT NULL "
        "GROUP BY key_id",
    )
    assert {key: int(money) for key, money in spent if money} == {
        key: int(money) for key, money in recorded if money
    }
    twice = "SELECT correlation_id FROM usage_records GROUP BY correlation_id HAVING COUNT(*) > 1"
    assert query(url, twice) == []
