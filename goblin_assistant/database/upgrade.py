"""Migrates the tables: once, in whichever process comes first."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, text

from goblin_assistant.config.folders import make_private
from goblin_assistant.database.compatibility import (
    MIGRATIONS,
    IncompatibleSchema,
    known_revisions,
    schema_status,
)

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

MIGRATION_SECONDS = 3600.0
_LOCK_KEY = 0x60B11A  # of pg_advisory_xact_lock: any number, the same for every instance


def alembic_config() -> AlembicConfig:
    """Alembic's configuration, without an ini file: the migrations are in the package."""
    # Imported here: 10 MB and 0.2 s that a server with current tables does not need.
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def head_revision() -> str:
    """The revision of this release's tables."""
    return known_revisions()[-1]


_current: set[tuple[str, str]] = set()


def is_current(engine: Engine) -> bool:
    """Whether the tables are those of this release. True is remembered: readiness checks ask
    often."""
    key = (str(engine.url), head_revision())
    if key not in _current:
        found = schema_status(engine)
        if found.is_current and found.problem is None:
            _current.add(key)
    return key in _current


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the tables to this release. Of several processes at once, one migrates and the others
    wait.

    Newer tables are left unchanged. Raises IncompatibleSchema when they are damaged, or when this
    release may not serve with them.
    """
    if revision == "head" and is_current(engine):
        return
    found = schema_status(engine)
    if found.damage is not None or (revision == "head" and found.is_newer):
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
            # sqlite3 begins a transaction for rows only, and Alembic none for SQLite. In one of
            # our own, a process that is killed leaves the tables as they were.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            migrate(config)
            connection.commit()
        return
    # The lock and the limits are the transaction's, not the session's: behind a pooler another
    # transaction may be on another connection. The lock ends with the transaction.
    with engine.connect() as connection:
        _give_time(connection)
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"))
        connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
        config.attributes["connection"] = connection
        migrate(config)
        connection.commit()


def _give_time(connection: Connection) -> None:
    # A migration may take long, and may wait for another process. It still has a limit, in case the
    # server hangs.
    driver: Any = connection.connection.driver_connection
    driver.time_limit = MIGRATION_SECONDS


@contextlib.contextmanager
def _file_lock(engine: Engine) -> Iterator[None]:
    # SQLite's own lock is not enough: two processes could both see an empty database, and the
    # second would fail at the first table.
    name = engine.url.database
    if not name or name == ":memory:":
        yield
        return
    path = Path(name)
    make_private(path.parent)
    lock = path.parent / (path.name + ".migrate.lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
