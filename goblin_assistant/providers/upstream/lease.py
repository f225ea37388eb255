"""A connection that one request has taken from its pool."""

from __future__ import annotations

from typing import Any, Protocol


class Connection(Protocol):
    """What a response needs of its connection."""

    sock: Any

    def close(self) -> None:
        """Close the socket. The object can connect again."""


class ConnectionPool(Protocol):
    """What a lease needs of urllib3's pool."""

    def _put_conn(self, conn: Any) -> None: ...

    def open(self, connection: Any) -> None:
        """Connect."""


class Lease:
    """One connection of one pool. End it once, with `give_back` or `drop`."""

    __slots__ = ("connection", "pool")

    def __init__(self, pool: ConnectionPool, connection: Connection) -> None:
        self.pool = pool
        self.connection = connection

    def give_back(self) -> None:
        """Put the connection into the pool. A closed one connects again when it is used."""
        self.pool._put_conn(self.connection)

    def drop(self) -> None:
        """Close the connection and free its place, which the pool counts."""
        self.connection.close()
        self.pool._put_conn(None)
