"""One SELECT for one row, with every request: on the driver, on kept connections.

While the database is unavailable, one request per second tries it again: connecting to a host that
does not answer takes seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections import namedtuple
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection, Select
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.database.engine import OWN_SESSION
from goblin_assistant.database.gate import Gate
from goblin_assistant.database.pool import raw_connection
from goblin_assistant.errors import Unavailable
from goblin_assistant.threads.forking import run_in_child

KEPT_CONNECTIONS = 4
"""Per query. A checkout from the pool costs four times the SELECT (with PostgreSQL a round trip,
its ping), and few threads are inside at once."""
LOOKUP_SECONDS = 1.0
"""How long the SELECT may take, and how long a thread waits for a kept connection."""
PAUSE_SECONDS = 1.0

UNAVAILABLE = "the database is away; try again shortly"

_Kept = tuple[PoolProxiedConnection, Any]
"""A connection and its cursor."""


class Lookup:
    """One SELECT for one row, compiled once.

    It keeps a few connections, and as many threads may be inside. The others wait for
    LOOKUP_SECONDS at most.
    """

    def __init__(self, engine: Engine, statement: Select[*tuple[Any, ...]]) -> None:
        self._engine = engine
        self._gate = Gate(PAUSE_SECONDS)
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        columns = statement.selected_columns.keys()
        row: Any = namedtuple("row", columns)  # type: ignore[misc] # known at run time
        self.named: Callable[[Any], Any] = row._make
        names = compiled.positiontup
        self._positional = names is not None
        # Without a transaction around it PostgreSQL answers in one round trip instead of three.
        self._autocommit = engine.dialect.name == "postgresql"
        self._own_session = engine.get_execution_options().get(OWN_SESSION, True)
        self._errors: tuple[type[Exception], ...] = (
            SQLAlchemyError,
            engine.dialect.loaded_dbapi.Error,
        )  # type: ignore[attr-defined]
        # SQLite answers within microseconds: waiting for it costs less than another connection.
        self._size = 1 if engine.dialect.name == "sqlite" else KEPT_CONNECTIONS
        # A SimpleQueue is written in C; a Semaphore costs ten times as much.
        self._places: SimpleQueue[_Kept | None] = SimpleQueue()
        self._parents: list[SimpleQueue[_Kept | None]] = []
        self._fill()
        run_in_child(self._reset_after_fork)

    def _fill(self) -> None:
        for _ in range(self._size):
            self._places.put(None)

    def _reset_after_fork(self) -> None:
        # The connections belong to the parent. Closing them here would send on its sockets.
        self._parents.append(self._places)
        self._places = SimpleQueue()
        self._gate = Gate(PAUSE_SECONDS)
        self._fill()

    def first(self, value: Any) -> Any:
        """The row as a plain tuple, or None; `named` gives it names. Raises Unavailable."""
        gate = self._gate
        failures = gate.failures
        if not gate.enter():
            raise Unavailable(UNAVAILABLE, retry_after=2)
        places = self._places
        try:
            kept = places.get(timeout=LOOKUP_SECONDS)
        except Empty:
            # No failure: those inside have limits of their own, and say whether the database is
            # there. They may only be slow, as in the first second of an instance.
            if gate.failures == failures:
                gate.undecided()
            raise Unavailable(UNAVAILABLE, retry_after=2) from None
        left = None
        try:
            if gate.failures != failures:
                # It failed while this thread waited. Not every waiting thread tries again.
                left = kept
                raise Unavailable(UNAVAILABLE, retry_after=2)
            row, left = self._first(kept, value)
        except self._errors as error:
            gate.failed()
            raise Unavailable(UNAVAILABLE, retry_after=2) from error
        finally:
            places.put(left)
        gate.succeeded()
        return row

    def warm(self) -> None:
        """Open the kept connections, so that the first callers of an instance wait for none of
        them. Raises the driver's or the pool's error."""
        for _ in range(self._size):
            kept = self._places.get(timeout=LOOKUP_SECONDS)
            try:
                kept = kept or self._connect()
            finally:
                self._places.put(kept)

    def _first(self, kept: _Kept | None, value: Any) -> tuple[Any, _Kept]:
        if kept is not None:
            began = time.monotonic()
            try:
                return self._execute(kept, value)
            except self._errors:
                if time.monotonic() - began > LOOKUP_SECONDS / 2:
                    raise  # the database hangs; a new connection would as well
                # The connection was dead, so the other kept ones are too: try a new one.
                self._forget_idle()
        return self._execute(self._connect(), value)

    def _forget_idle(self) -> None:
        emptied = 0
        with contextlib.suppress(Empty):
            while True:
                kept = self._places.get_nowait()
                emptied += 1
                if kept is not None:
                    kept[0].invalidate()
        for _ in range(emptied):
            self._places.put(None)

    def _connect(self) -> _Kept:
        connection = raw_connection(self._engine)
        try:
            cursor = connection.cursor()
            if self._autocommit:
                driver: Any = connection.driver_connection
                driver.autocommit = True
                driver.time_limit = LOOKUP_SECONDS
                # A healthy server cancels the statement first: a locked table is not a dead server.
                # Behind a pooler the limit would stay on a connection that others use next.
                if self._own_session:
                    cursor.execute(f"SET statement_timeout = {round(LOOKUP_SECONDS * 900)}")
        except BaseException as error:
            connection.invalidate(error)
            raise
        return connection, cursor

    def _execute(self, kept: _Kept, value: Any) -> tuple[Any, _Kept]:
        connection, cursor = kept
        try:
            cursor.execute(self._sql, (value,) if self._positional else {"given": value})
            return cursor.fetchone(), kept
        except BaseException as error:
            connection.invalidate(error)  # its state is unknown: nobody else may use it
            raise

    def close(self) -> None:
        """Close the kept connections. Not given back: they have settings of their own."""
        self._forget_idle()
