"""PostgreSQL connections whose every wait ends.

A server that hangs sends nothing, and its kernel goes on acknowledging: neither keepalives nor TCP_USER_TIMEOUT notice,
and statement_timeout is the server's own. So the client has a limit too, a second longer: a server that is well ends
a statement first, and says so.
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
"""For the check of a connection that the pool hands out."""

_RECENTLY = "the database did not answer a moment ago"


class LimitedConnection(psycopg.Connection[Any]):
    """Waits at most `time_limit` seconds for an answer, and not at all while the gate is closed.

    `wait` is overridden because psycopg gives a limit to single waits, and has no setting for all of a connection's
    (3.3.9). Every statement, commit and rollback goes through it.
    """

    time_limit: float | None = None
    gate: Gate | None = None

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, within the limit. A connection that did not answer is closed: its answer may come later."""
        gate = self.gate
        if gate is None:
            return super().wait(gen, interval, timeout)
        # In autocommit are the pool's check of a connection, and look-ups. What has begun goes on: it may be well.
        # Its waits may also send nothing at all, and say nothing about the server.
        asks = self.autocommit
        if asks and not gate.enter():
            raise psycopg.OperationalError(_RECENTLY)
        try:
            result = super().wait(gen, interval, self.time_limit if timeout is None else timeout)
        except psycopg.Error:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
                gate.failed()
            elif asks and self.closed:
                gate.undecided()  # this one had died: a new one will tell
            elif asks:
                gate.succeeded()  # an error, but an answer
            raise
        if asks:
            gate.succeeded()
        return result


@dataclass(slots=True)
class Limits:
    """How an engine's connections are made: `seconds` is what the server may take for a statement."""

    seconds: float
    gate: Gate = field(default_factory=Gate)

    def connect(self, *args: Any, **options: Any) -> LimitedConnection:
        """A connection, unless the database did not answer a moment ago."""
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
        """In the pool: what comes next is the check of the next checkout."""
        if connection is not None:
            connection.time_limit = PING_SECONDS

    def on_checkout(self, connection: Any, _record: Any, _proxy: Any) -> None:
        """The check has passed."""
        connection.time_limit = self.seconds + BEYOND_SERVER_SECONDS
