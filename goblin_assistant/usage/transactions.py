"""Transactions on usage and budgets: driver-level statements on a few kept connections.

Requests write in their own threads. So that a hanging database does not block all of them, few
threads may be inside at once, and the others wait briefly. When it does not answer there is a pause
of a few seconds, and then one thread tries. A deadlock or a lock that took too long is an answer:
it concerns one transaction, and there is no pause. A statement that took too long is one if another
transaction ended well meanwhile.

Connections are kept, because a checkout from the pool costs as much as the INSERT (with PostgreSQL
a round trip, its ping).
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from goblin_assistant.database.failures import Conflict, conflict_of, is_timeout
from goblin_assistant.database.pool import raw_connection
from goblin_assistant.threads.forking import run_in_child

T = TypeVar("T")

PAUSE_SECONDS = 3.0
WAIT_SECONDS = 2.0
SQLITE_WAIT_SECONDS = 7.0
"""Longer than the 5 s that SQLite waits for other processes."""
WRITERS = 8
WARM = 4
"""Connections that an instance opens at its start."""
AT_ONCE_SECONDS = 0.5
"""A dead connection fails sooner than this. One that fails later hung: a new one would as well."""
TRIES = 5
"""Of a transaction that the database ended in favour of another."""
RETRY_SECONDS = 0.05
"""The most that passes before the second try. It doubles with each."""


class DatabaseUnavailable(Exception):
    """The database does not answer, or did not a moment ago."""


class RecordRefused(Exception):
    """The database refused the values. A retry would be refused as well."""


class UsageDatabase:
    """Runs transactions. Statements use `?`; `sql()` puts in the driver's parameter marks."""

    def __init__(self, engine: Engine, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._pause = pause_seconds
        self._away_until = 0.0
        # Only changes count: an increment that is lost does no harm.
        self._answers = 0  # transactions that ended well
        self._opened = 0  # connections, which alone show no database that works
        self._writers = self._free_writers()
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
        # The connections belong to the parent. Closing them here would send on its sockets.
        # https://docs.sqlalchemy.org/en/20/core/pooling.html, "with multiprocessing"
        self._parents.append(self._idle)
        self._idle = deque()
        self._away_until = 0.0
        self._writers = self._free_writers()
        self.engine.dispose(close=False)

    def _free_writers(self) -> threading.Lock | threading.Semaphore:
        # SQLite has one writer at a time. Waiting here costs less than its polling, and a lock less
        # than a semaphore of one.
        return threading.Lock() if self.is_sqlite else threading.BoundedSemaphore(WRITERS)

    def sql(self, statement: str) -> str:
        """The statement with the driver's parameter marks."""
        return statement if self.is_sqlite else statement.replace("?", "%s")

    def run(self, work: Callable[..., T], *args: Any, insist: bool = False) -> T:
        """Run `work(cursor, *args)` in its own transaction and return its result.

        Raises DatabaseUnavailable or RecordRefused. What `work` raises rolls back and passes
        through. `insist` also tries during the pause. `work` is called again when a kept connection
        was dead, and after a deadlock; nothing was committed then.
        """
        paused = self._away_until
        if paused and not insist:
            now = time.monotonic()
            if now < paused:
                raise DatabaseUnavailable("the database failed a moment ago")
            self._away_until = now + self._pause  # this thread is the one that tries
        answers, opened = self._answers, self._opened
        if not self._writers.acquire(timeout=self._wait):
            # Whoever had an answer while this thread waited shows that the database is there. A
            # database that is slow to connect neither begins a pause nor ends one.
            if self._answers != answers:
                self._away_until = 0.0
            elif self._opened == opened:
                self._away_until = time.monotonic() + self._pause
            raise DatabaseUnavailable("every writer is waiting for the database")
        try:
            answers = self._answers
            if not paused and self._away_until and not insist:
                # It failed while this thread waited. Not every waiting thread tries again.
                raise DatabaseUnavailable("the database failed a moment ago")
            result = self._repeated(work, args)
            if paused:
                self._away_until = 0.0
            return result
        except self._refusals as error:
            raise RecordRefused(type(error).__name__) from error
        except self._errors as error:
            hangs = is_timeout(error) and self._answers == answers
            if hangs or conflict_of(error) is None:
                self._away_until = time.monotonic() + self._pause
            elif paused:
                self._away_until = 0.0
            raise DatabaseUnavailable(_name(error)) from error
        finally:
            self._writers.release()

    def _repeated(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        for number in range(TRIES - 1):
            try:
                return self._transact(work, args)
            except self._errors as error:
                if conflict_of(error) is not Conflict.LOST:
                    raise
            # The other transaction must come to its end first: a row that was given up goes to who
            # asks for it next, not to who waits.
            time.sleep(random.uniform(0.5, 1.0) * RETRY_SECONDS * 2**number)
        return self._transact(work, args)

    def _transact(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connect(), False
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
            self._answers += 1
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)
            return result

    def _connect(self) -> PoolProxiedConnection:
        connection = raw_connection(self.engine)
        self._opened += 1
        return connection

    def warm(self) -> None:
        """Open connections before the first chats need them. Raises the driver's or the pool's
        error."""
        self._idle.extend([self._connect() for _ in range(1 if self.is_sqlite else WARM)])

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
    # Only the class: a driver's text may hold an address.
    return (
        type(error.orig).__name__
        if isinstance(error, DBAPIError) and error.orig
        else type(error).__name__
    )
