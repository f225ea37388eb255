"""The way of the books to the database: driver-level statements on a few connections of the engine's pool, kept.

A record that settles reserved money is written in the thread of its request. So a database that hangs must not take the
threads along: only so many may be inside at once, the others wait briefly; and after a failure nobody tries for a few
seconds but the one who is first when they are over.

Kept, because a checkout costs as much as the INSERT (with PostgreSQL a round trip, its ping).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from goblin_assistant.threads.forking import run_in_child

T = TypeVar("T")

PAUSE_SECONDS = 3.0
WAIT_SECONDS = 2.0
SQLITE_WAIT_SECONDS = 7.0  # SQLite's own patience with other processes is 5 s
WRITERS = 8
AT_ONCE_SECONDS = 0.5
"""A kept connection that had died says so at once; one that fails later hung, and the next would as well."""


class DatabaseUnavailable(Exception):
    """The database did not answer, lately or now."""


class RecordRefused(Exception):
    """The database took offence at the values: trying again would change nothing."""


class UsageDatabase:
    """Runs transactions. Statements are written with `?`; `sql()` gives them the driver's own marks."""

    def __init__(self, engine: Engine, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._pause = pause_seconds
        self._away_until = 0.0
        # SQLite has one writer at a time: queueing here is cheaper than its sleeping and looking again.
        self._writers = threading.BoundedSemaphore(1 if self.is_sqlite else WRITERS)
        self._wait = SQLITE_WAIT_SECONDS if self.is_sqlite else WAIT_SECONDS
        self._idle: deque[PoolProxiedConnection] = deque()
        self._closed = False
        self._parents: list[deque[PoolProxiedConnection]] = []
        run_in_child(self._reset_after_fork)
        dbapi: Any = engine.dialect.loaded_dbapi
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, SQLAlchemyError)
        self._refusals: tuple[type[Exception], ...] = (
            dbapi.DataError,
            dbapi.IntegrityError,
            UnicodeError,
            OverflowError,
        )

    def _reset_after_fork(self) -> None:
        # After a fork. The connections are the parent's: kept, because giving them back or closing them would talk on
        # them. https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing
        self._parents.append(self._idle)
        self._idle = deque()
        self._away_until = 0.0
        self._writers = threading.BoundedSemaphore(1 if self.is_sqlite else WRITERS)
        self.engine.dispose(close=False)

    def sql(self, statement: str) -> str:
        """The statement with the driver's parameter marks."""
        return statement if self.is_sqlite else statement.replace("?", "%s")

    def run(self, work: Callable[..., T], *args: Any, insist: bool = False) -> T:
        """`work(cursor, *args)` in a transaction of its own; its result.

        Raises DatabaseUnavailable or RecordRefused; what `work` itself raises rolls back and passes through. `insist`: also
        try
        during the pause. `work` may be called again when a kept connection turns out to have died: nothing of it was
        committed then.
        """
        paused = self._away_until
        if paused and not insist:
            now = time.monotonic()
            if now < paused:
                raise DatabaseUnavailable("the database failed a moment ago")
            self._away_until = now + self._pause  # this thread is the one that tries
        if not self._writers.acquire(timeout=self._wait):
            self._away_until = time.monotonic() + self._pause
            raise DatabaseUnavailable("every writer is waiting for the database")
        try:
            if not paused and self._away_until and not insist:
                # It failed while this thread stood in the queue: the queue does not try one after the other.
                raise DatabaseUnavailable("the database failed a moment ago")
            result = self._transact(work, args)
            if paused:
                self._away_until = 0.0
            return result
        except self._refusals as error:
            raise RecordRefused(type(error).__name__) from error
        except self._errors as error:
            self._away_until = time.monotonic() + self._pause
            raise DatabaseUnavailable(_name(error)) from error
        finally:
            self._writers.release()

    def _transact(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self.engine.raw_connection(), False
            began = time.monotonic()
            try:
                result = work(connection.cursor(), *args)
            except BaseException as error:
                dead = self._is_disconnect(error, connection)
                self._abandon(connection, dead)
                if dead and kept and time.monotonic() - began < AT_ONCE_SECONDS:
                    continue
                raise
            try:
                connection.commit()
            except BaseException as error:
                self._abandon(connection, self._is_disconnect(error, connection))
                raise
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)
            return result

    @staticmethod
    def _abandon(connection: PoolProxiedConnection, dead: bool) -> None:
        with contextlib.suppress(Exception):
            if dead:
                connection.invalidate()
            else:
                connection.rollback()
                connection.close()

    def _is_disconnect(self, error: BaseException, connection: PoolProxiedConnection) -> bool:
        if not isinstance(error, self._errors) or isinstance(error, SQLAlchemyError):
            return False
        dialect: Any = self.engine.dialect
        return bool(dialect.is_disconnect(error, connection.dbapi_connection, None))

    def close(self) -> None:
        """Give the kept connections back to the pool."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()


def _name(error: Exception) -> str:
    # The class only: a driver's text may hold the address.
    return (
        type(error.orig).__name__
        if isinstance(error, DBAPIError) and error.orig
        else type(error).__name__
    )
