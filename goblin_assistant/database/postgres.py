"""PostgreSQL connections that never wait without a limit.

The kernel of a server that hangs still acknowledges: neither keepalives nor TCP_USER_TIMEOUT
notice, and statement_timeout is applied by the server. So the client has a limit too. It is a
second longer, so that a healthy server ends the statement first and reports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from goblin_assistant.database.gate import Gate

BEYOND_SERVER_SECONDS = 1.0
PING_SECONDS = 1.0
"""For the check of a connection at checkout."""

_RECENTLY = "the database did not answer a moment ago"


class LimitedConnection(psycopg.Connection[Any]):
    """Waits at most `time_limit` seconds for the server, and not at all while the gate is closed.

    `wait` is overridden because psycopg (3.3.9) has a limit for single waits only, none for a
    connection. Every statement, commit and rollback goes through it.
    """

    time_limit: float | None = None
    gate: Gate | None = None

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, within the limit. After a timeout the connection is closed, because the
        answer may come later."""
        gate = self.gate
        if gate is None:
            return super().wait(gen, interval, timeout)
        # In autocommit are the pool's check and look-ups, which pass the gate. A transaction that
        # has begun does not: the server may answer it, and some of its waits send nothing.
        asks = self.autocommit
        if asks and not gate.enter():
            raise psycopg.OperationalError(_RECENTLY)
        try:
            result = super().wait(gen, interval, self.time_limit if timeout is None else timeout)
        except psycopg.Error as error:
            # In a pipeline a refused statement leaves the others active: the server did answer.
            answered = error.sqlstate is not None
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE and not answered:
                self.close()
                gate.failed()
            elif asks and self.closed:
                gate.undecided()  # only this connection had died
            elif asks:
                gate.succeeded()  # an error, but an answer
            raise
        if asks:
            gate.succeeded()
        return result


@dataclass(slots=True)
class Limits:
    """Makes an engine's connections. `seconds` is the server's limit for a statement."""

    seconds: float
    gate: Gate = field(default_factory=Gate)

    def connect(self, *args: Any, **options: Any) -> LimitedConnection:
        """A new connection. Raises OperationalError at once while the gate is closed."""
        if not self.gate.enter():
            raise psycopg.OperationalError(_RECENTLY)
        try:
            connection = LimitedConnection.connect(*args, **options)
        except psycopg.Error:
            self.gate.failed()
            raise
        self.gate.succeeded()
        connection.gate = self.gate
        connection.time_limit = self.seconds + BEYOND_SERVER_SECONDS
        return connection

    def on_checkin(self, connection: Any, _record: Any) -> None:
        """Back in the pool: the next statement is the check at checkout."""
        if connection is not None:
            connection.time_limit = PING_SECONDS

    def on_checkout(self, connection: Any, _record: Any, _proxy: Any) -> None:
        """Out of the pool: the check has passed."""
        connection.time_limit = self.seconds + BEYOND_SERVER_SECONDS
