"""Connections of the pool, and the metrics of the pool: lent, allowed, waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection, QueuePool

from goblin_assistant.metrics import (
    database_pool_connections_in_use,
    database_pool_connections_max,
    database_pool_waiting,
)


def connect(engine: Engine) -> Connection:
    """A connection. SQLAlchemy does not tell who waits for one, so that is counted here."""
    with database_pool_waiting.track_inprogress():
        return engine.connect()


@contextlib.contextmanager
def begin(engine: Engine) -> Iterator[Connection]:
    """A connection with a transaction, which is committed at the end of the block."""
    with connect(engine) as connection, connection.begin():
        yield connection


def raw_connection(engine: Engine) -> PoolProxiedConnection:
    """A driver's connection."""
    with database_pool_waiting.track_inprogress():
        return engine.raw_connection()


def export(engine: Engine, options: Mapping[str, Any]) -> None:
    """Export how many connections are lent, and how many may be; `options` made the engine."""

    def lent() -> float:
        pool = engine.pool  # a new one after dispose()
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    database_pool_connections_max.set(options["pool_size"] + options["max_overflow"])
    database_pool_connections_in_use.set_function(lent)
