"""The way of the books to the database: driver-level statements on the engine's pooled connections, and a quick no while the database is away.

A record is written in the thread of its request. So a database that hangs must not take the threads along: only so
many may be inside at once, the others wait
briefly; and after a failure nobody tries for a few seconds but the one who is first when they are over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

PAUSE_SECONDS = 3.0
WAIT_SECONDS = 2.0
WRITERS = 16


class DatabaseAway(Exception):
    """The database did not answer, lately or now."""


class RecordRefused(Exception):
    """The database took offence at the values: trying again would change nothing."""


class UsageDatabase:
    """Transactions with plain DBAPI cursors. Statements are written with `?`; `sql()` gives them the driver's own marks."""

    def __init__(self, engine: Engine, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._pause = pause_seconds
        self._away_until = 0.0
        # SQLite has one writer at a time: queueing here is cheaper than its sleeping and looking again.
        self._writers = threading.BoundedSemaphore(1 if self.is_sqlite else WRITERS)
        self._wait = 12.0 if self.is_sqlite else WAIT_SECONDS  # SQLite's own patience is 10 s
        dbapi = engine.dialect.loaded_dbapi
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, SQLAlchemyError)  # type: ignore[attr-defined]
        self._refusals: tuple[type[Exception], ...] = (
            dbapi.DataError, dbapi.IntegrityError, UnicodeError, OverflowError,  # type: ignore[attr-defined]
        )  # fmt: skip

    def sql(self, statement: str) -> str:
        """The statement with the driver's parameter marks."""
        return statement if self.is_sqlite else statement.replace("?", "%s")

    @property
    def away(self) -> bool:
        """Whether the last attempt failed a moment ago."""
        return time.monotonic() < self._away_until

    @contextlib.contextmanager
    def transaction(self, *, insist: bool = False) -> Iterator[Any]:
        """A cursor whose work is committed at the end. Raises DatabaseAway or RecordRefused; `insist`: also try during the pause."""
        paused = self._away_until
        if paused and not insist:
            now = time.monotonic()
            if now < paused:
                raise DatabaseAway("the database failed a moment ago")
            self._away_until = now + self._pause  # this thread is the one that tries
        if not self._writers.acquire(timeout=self._wait):
            self._away_until = time.monotonic() + self._pause
            raise DatabaseAway("every writer is waiting for the database")
        try:
            if not paused and not insist and self.away:
                # It failed while this thread stood in the queue: the queue does not try one after the other.
                raise DatabaseAway("the database failed a moment ago")
            with self._connection() as connection:
                yield connection.cursor()
                connection.commit()
            if paused:
                self._away_until = 0.0
        except self._refusals as error:
            raise RecordRefused(type(error).__name__) from error
        except self._errors as error:
            self._away_until = time.monotonic() + self._pause
            raise DatabaseAway(_name(error)) from error
        finally:
            self._writers.release()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self.engine.raw_connection()
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, self._errors) and self._is_disconnect(error, connection):
                connection.invalidate(error)
            else:
                with contextlib.suppress(Exception):
                    connection.rollback()
            raise
        finally:
            connection.close()

    def _is_disconnect(self, error: Exception, connection: Any) -> bool:
        if isinstance(error, SQLAlchemyError):
            return False
        with contextlib.suppress(Exception):
            return bool(self.engine.dialect.is_disconnect(error, connection.dbapi_connection, None))  # type:
            ignore[arg - type]
        return True


def _name(error: Exception) -> str:
    # The class only: a driver's text may hold the address.
    return type(error.orig).__name__ if isinstance(error, DBAPIError) and error.orig else type(error).__name__
