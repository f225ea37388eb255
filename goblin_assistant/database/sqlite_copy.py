"""A consistent copy of a SQLite database in use, and a copy put in its place."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from goblin_assistant.database.archives import BackupError

PAGES = 2048
"""Pages that are copied between two calls of `progress`: 8 MB."""

Progress = Callable[[int, int], None]
"""Called with the pages that are done and all pages."""


def copy(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Copy a database that others write to (SQLite's online backup). `target` must not exist.

    Raises sqlite3.Error, or BackupError when the copy is damaged: then the source is, too.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # mode=rw: without it a database that is not there would be made.
    with _opened(f"{source.resolve().as_uri()}?mode=rw") as old, _opened(_uri(target)) as new:
        # The transaction keeps one state of the database. Without it the copy would begin anew with
        # every write of another process, and never end under load.
        old.execute("BEGIN")
        old.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()

        def tell(_status: int, remaining: int, total: int) -> None:
            if progress is not None:
                progress(total - remaining, total)

        old.backup(new, pages=PAGES, progress=tell)
        old.execute("ROLLBACK")
        # One file, without -wal beside it. The first connection of a server switches back.
        new.execute("PRAGMA journal_mode=DELETE")
        (found,) = new.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise BackupError(f"the database is damaged ({found}); restore an earlier backup")


def row_counts(path: Path) -> dict[str, int]:
    """Rows of each table."""
    with _opened(_uri(path)) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
            "ORDER BY name"
        ).fetchall()
        return {
            name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0]
            for (name,) in names
        }


def revision(path: Path) -> str | None:
    """The revision of the tables, None when there is none."""
    with _opened(_uri(path)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
        return None if row is None else str(row[0])


def in_use(path: Path) -> bool:
    """Whether another process has the database open. A damaged one counts as not in use."""
    with _opened(f"{path.resolve().as_uri()}?mode=rw") as connection:
        connection.execute("PRAGMA busy_timeout=0")
        # An open connection to a database with a write-ahead log holds a lock on it as long as it
        # lives. In this mode our first read needs that lock alone.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        try:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        except sqlite3.DatabaseError:
            return False
    return False


def put_in_place(new: Path, path: Path, at: datetime) -> Path | None:
    """Move `new` to `path`, on the same disk. What was there is kept under the name returned."""
    kept = None
    if path.exists():
        kept = path.with_name(f"{path.name}.replaced-{at:%Y-%m-%dT%H-%M-%S}Z")
        # The log of what is replaced first: beside the new database SQLite would apply it.
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
        kept.chmod(0o600)
    new.rename(path)
    return kept


def _uri(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=rw"


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
    try:
        yield connection
    finally:
        connection.close()
