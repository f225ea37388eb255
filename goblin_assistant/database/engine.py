"""How connections to the database are made.

SQLite runs with WAL and synchronous=NORMAL: readers never wait for the writer. A crash of the
process loses nothing, a crash of the machine the last transactions at most. Writers wait for each
other up to GOBLIN_DATABASE_TIMEOUT (measured: about 1,000 small transactions per second from 32
threads, none refused).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from typing import Any

from sqlalchemy import Connection, Engine, Table, event, insert
from sqlalchemy.engine import make_url

_BUSY_SECONDS = 10
DATABASE_SECONDS = 5.0  # GOBLIN_DATABASE_TIMEOUT's default
POOL_SIZE = 24
"""Eight for usage records, four each for keys and tokens, eight for everything else."""
POOL_WAIT_SECONDS = 2.0
_CACHE_KIB = 128
"""The page cache of each SQLite connection. The default of 2,000 takes 30 MB over the connections
of a busy server, without a measurable gain: the kernel caches the pages too."""

OWN_SESSION = "own_session"
"""An engine's option: whether what a statement sets holds for the connection's next statement."""
APPLICATION = "goblin-assistant"
_NAME_BYTES = 63  # PostgreSQL cuts a longer application_name


def application_name() -> str:
    """This process's name in pg_stat_activity: product, machine and process id.

    An operator sees who holds a connection, and `doctor` counts the instances.
    """
    end = f":{os.getpid()}"
    return f"{APPLICATION} {socket.gethostname()}"[: _NAME_BYTES - len(end)] + end


def engine_options(
    url: str, threads: int, seconds: float = DATABASE_SECONDS, *, pooler: str = ""
) -> dict[str, Any]:
    """The arguments of `create_engine` besides the URL. `seconds` is the time limit of a statement.

    SQLite's pool has a connection per thread, because a file answers at once. PostgreSQL's is
    smaller: beyond what chats need, few threads may wait for a server that hangs. `pooler` is
    GOBLIN_DATABASE_POOLER.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return {
            "pool_size": threads,
            "max_overflow": 8,
            # Last in, first out: that connection has its pages and statements in memory, and few
            # others are made.
            "pool_use_lifo": True,
            "connect_args": {"timeout": seconds},
        }
    from goblin_assistant.database.postgres import Limits

    limits = Limits(seconds)
    milliseconds = round(seconds * 1000)
    # A pooler in transaction mode gives each transaction any of its connections to PostgreSQL: a
    # statement that was prepared on one is unknown on the next, and so are the session's limits.
    # The server's role has the limits then (docs/scaling.md).
    session: dict[str, Any] = (
        {"prepare_threshold": None}
        if pooler == "transaction"
        else {"options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"}
    )
    return {
        "execution_options": {OWN_SESSION: pooler != "transaction"},
        "pool_size": POOL_SIZE,
        "max_overflow": 0,
        "pool_timeout": POOL_WAIT_SECONDS,
        "pool_use_lifo": True,
        # Finds a connection that died while idle at checkout, not in the middle of a record.
        "pool_pre_ping": True,
        "pool_events": [(limits.on_checkin, "checkin"), (limits.on_checkout, "checkout")],
        "connect_args": {
            "limits": limits,
            "connect_timeout": 3,
            # A database in SQL_ASCII, as `initdb` makes it without a locale, names none: text would
            # come as bytes.
            "client_encoding": "utf8",
            "application_name": application_name(),
            **session,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
        },
    }


@event.listens_for(Engine, "do_connect")
def _connect(_dialect: Any, _record: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    limits = options.get("limits")
    if limits is None:
        if args and isinstance(args[0], str):
            _keep_private(args[0])
        return None  # SQLAlchemy connects
    return limits.connect(
        *args, **{name: value for name, value in options.items() if name != "limits"}
    )


def _keep_private(name: str) -> None:
    """Make SQLite's file readable for its owner only. SQLite gives the same mode to the files that
    it puts beside it."""
    if not name or name == ":memory:" or name.startswith("file:"):
        return
    with contextlib.suppress(OSError):  # no such folder, no right to: connecting says what is wrong
        _create_private(name)
        for path in (name, f"{name}-wal", f"{name}-shm"):
            if os.stat(path).st_mode & 0o077:
                os.chmod(path, 0o600)


_creating = threading.Lock()


def _create_private(name: str) -> None:
    # A file that exists is never opened here: closing it would take away all of this process's
    # locks on it (fcntl(2); https://www.sqlite.org/howtocorrupt.html, 2.2). Then another process
    # that closes the database deletes the log under our connections, and what they write is lost.
    # With the lock no other thread can connect to the new file before it is closed.
    with _creating, contextlib.suppress(FileExistsError):
        os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@event.listens_for(Engine, "connect")
def _on_connect(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        cursor = connection.cursor()
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", f"cache_size=-{_CACHE_KIB}"):
            cursor.execute(f"PRAGMA {pragma}")
        _write_ahead(cursor)
        cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    # The first connection to a new file switches it to WAL for good. SQLite does not wait for the
    # lock here (it does not call the busy handler): of several processes that start at once, all
    # but one would fail.
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def insert_row(connection: Connection, table: Table, **values: Any) -> int:
    """Insert a row and return its new id. Raises IntegrityError."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])
