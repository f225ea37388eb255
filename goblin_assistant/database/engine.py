"""The database: how connections are made, and how its tables are brought up to date, once, whoever starts first.

SQLite is used with WAL and synchronous=NORMAL: readers never wait for the writer, a crash of the process loses nothing, one of the machine at most the
last transactions. Writers wait for each other up to GOBLIN_DATABASE_TIMEOUT (measured: about 1,000 small transactions a second from 32 threads, none refused).
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Table, event, insert, inspect, text
from sqlalchemy.engine import make_url

from goblin_assistant.database.compatibility import (
    MIGRATIONS,
    IncompatibleSchema,
    known_revisions,
    standing,
)

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

_LOCK_KEY = 0x60B11A  # any number, the same for every instance: pg_advisory_lock's
_BUSY_SECONDS = 10
DATABASE_SECONDS = 5.0  # GOBLIN_DATABASE_TIMEOUT's default
MIGRATION_SECONDS = 3600.0
POOL_SIZE = (
    24  # eight for usage records, four of each for keys and tokens, eight for everything else
)
POOL_WAIT_SECONDS = 2.0
_CACHE_KIB = 128
"""Of each SQLite connection. Its own 2,000 would come to 30 MB over the connections that a busy server keeps, and gain
nothing measurable: the pages are in the kernel's memory as well."""


def engine_options(url: str, threads: int, seconds: float = DATABASE_SECONDS) -> dict[str, Any]:
    """What `create_engine` is given beside the URL. `seconds` is the limit of a statement.

    SQLite's pool holds a connection for every thread, since a file answers at once. PostgreSQL's is smaller: beyond
    what every chat needs, few threads at once may wait for a server that hangs.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return {
            "pool_size": threads,
            "max_overflow": 8,
            # The connection that was used last has its pages and statements in memory; the others are never made.
            "pool_use_lifo": True,
            "connect_args": {"timeout": seconds},
        }
    from goblin_assistant.database.postgres import Limits

    limits = Limits(seconds)
    milliseconds = round(seconds * 1000)
    return {
        "pool_size": POOL_SIZE,
        "max_overflow": 0,
        "pool_timeout": POOL_WAIT_SECONDS,
        "pool_use_lifo": True,
        # A connection that died while idle is found at checkout and not in the middle of a chat's record.
        "pool_pre_ping": True,
        "pool_events": [(limits.on_checkin, "checkin"), (limits.on_checkout, "checkout")],
        "connect_args": {
            "limits": limits,
            "connect_timeout": 3,
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
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
        return None  # SQLAlchemy connects
    return limits.connect(
        *args, **{name: value for name, value in options.items() if name != "limits"}
    )


@event.listens_for(Engine, "connect")
def _on_connect(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        cursor = connection.cursor()
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", f"cache_size=-{_CACHE_KIB}"):
            cursor.execute(f"PRAGMA {pragma}")
        _write_ahead(cursor)
        cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    # The first connection to a new file turns it over to WAL, for all times. SQLite does not wait for others in this (its busy handler is not asked),
    # so of several processes that start at once all but one would fail.
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
    """Insert a row; the id that the database gave it. Raises IntegrityError."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def alembic_config() -> AlembicConfig:
    """Alembic's configuration, without an ini file: the migrations travel inside the package."""
    from alembic.config import (
        Config as AlembicConfig,
    )  # 10 MB and 0.2 s that a server with current tables never needs

    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def head_revision() -> str:
    """The revision that this release makes."""
    return known_revisions()[-1]


def current_revision(engine: Engine) -> str | None:
    """The revision of the database; None when it is empty."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


_current: set[tuple[str, str]] = set()


def is_current(engine: Engine) -> bool:
    """Whether the tables are those of this release. A yes is remembered: it is asked at every readiness check."""
    key = (str(engine.url), head_revision())
    if key not in _current and current_revision(engine) == key[1]:
        _current.add(key)
    return key in _current


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables up to date. Any number of processes may call this at once: one works, the others wait.

    Newer tables are left alone. Raises IncompatibleSchema when this release may not serve with them.
    """
    if revision == "head":
        if is_current(engine):
            return
        found = standing(engine)
        if found.is_newer:
            if found.problem is not None:
                raise IncompatibleSchema(f"the database is {found.problem}")
            return
    from alembic import command

    _run(engine, lambda config: command.upgrade(config, revision))


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to a revision; `base` removes them all."""
    _current.discard((str(engine.url), head_revision()))
    from alembic import command

    _run(engine, lambda config: command.downgrade(config, revision))


def _run(engine: Engine, migrate: Any) -> None:
    config = alembic_config()
    if engine.dialect.name == "sqlite":
        with _file_lock(engine), engine.connect() as connection:
            config.attributes["connection"] = connection
            migrate(config)
            connection.commit()
        return
    # The lock belongs to a session of its own, so that a migration may commit in between.
    with engine.connect() as guard:
        _give_time(guard)
        guard.execute(text("SET statement_timeout = 0"))
        guard.execute(text("SET lock_timeout = 0"))
        guard.execute(text(f"SELECT pg_advisory_lock({_LOCK_KEY})"))
        try:
            with engine.connect() as connection:
                _give_time(connection)
                connection.execute(text("SET statement_timeout = 0"))
                config.attributes["connection"] = connection
                migrate(config)
                connection.commit()
                connection.invalidate()  # its settings are not a request's
        finally:
            guard.execute(text(f"SELECT pg_advisory_unlock({_LOCK_KEY})"))
            guard.invalidate()


def _give_time(connection: Connection) -> None:
    # A migration may take long, and waits for another process's; a server that hangs does not hold it for ever.
    driver: Any = connection.connection.driver_connection
    driver.time_limit = MIGRATION_SECONDS


@contextlib.contextmanager
def _file_lock(engine: Engine) -> Iterator[None]:
    # SQLite's own lock is not enough: two processes would both see an empty database and the second fail on the first table.
    name = engine.url.database
    if not name or name == ":memory:":
        yield
        return
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / (path.name + ".migrate.lock")).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
