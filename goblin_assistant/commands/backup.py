"""goblin-assistant backup, restore: the database as one file, and back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
from sqlalchemy.engine import make_url

from goblin_assistant.config import Config
from goblin_assistant.database import archives, sqlite_copy
from goblin_assistant.database.archives import FORMAT, BackupError, Manifest
from goblin_assistant.database.backups import note_backup
from goblin_assistant.database.compatibility import known_revisions
from goblin_assistant.database.postgres_dump import (
    PostgresTools,
    others,
    revision,
    row_counts,
)
from goblin_assistant.version import __version__

_OTHERS_SECONDS = 3.0


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Whatever goes wrong becomes a sentence and exit code 1."""
    try:
        yield
    except BackupError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from None
    except sqlite3.Error as error:
        raise click.ClickException(f"SQLite: {error}") from None
    except psycopg.Error as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise click.ClickException(f"PostgreSQL: {said[0]}") from None


def _sqlite_file(config: Config) -> Path | None:
    """The file of a SQLite database; None for PostgreSQL. BackupError when it is in memory."""
    url = make_url(config.sqlalchemy_url)
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise BackupError("a database in memory has no backup; set DATABASE_URL to a file")
    return Path(url.database)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--keep", type=click.IntRange(1), metavar="N", help="Delete all but the N newest in DIR."
)
def backup(folder: Path, keep: int | None) -> None:
    """Write the database into one new file in DIR, while servers run.

    It is complete or not there. SECRET_KEY, `.env` and goblin.toml are not in it."""
    config = Config.load()
    with _one_sentence():
        source = _sqlite_file(config)
        with archives.workplace(folder) as work:
            created = archives.now()
            database = work / "database"
            if source is None:
                at, rows = PostgresTools(config.sqlalchemy_url, work).dump(database)
            else:
                at, rows = _copy_sqlite(source, database)
            if at is None:
                raise BackupError("the database has no tables; there is nothing to back up")
            manifest = Manifest(
                format=FORMAT,
                created_at=created.isoformat(timespec="milliseconds"),
                version=__version__,
                kind="postgresql" if source is None else "sqlite",
                revision=at,
                rows=rows,
                sha256=archives.sha256(database),
                bytes=database.stat().st_size,
            )
            target = folder / archives.file_name(created)
            archives.pack(database, manifest, target)
        note_backup(config.instance_dir, time.time())
        click.echo(f"wrote {target}: {_contents(manifest)}")
        if keep is not None and (gone := archives.prune(folder, keep)):
            click.echo(f"deleted {len(gone)} older, kept {keep}")
    click.echo(
        "not in it, so keep them as well, in another place: SECRET_KEY and the other secrets "
        f"(.env), and {config.config_file}"
    )


def _copy_sqlite(source: Path, target: Path) -> tuple[str | None, dict[str, int]]:
    if not source.exists():
        raise BackupError(f"there is no database at {source}")
    with _progress_bar() as progress:
        sqlite_copy.copy(source, target, progress)
    return sqlite_copy.revision(target), sqlite_copy.row_counts(target)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label="copying", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(1, total)
            bar.update(done - bar.pos)

        yield show


def _contents(manifest: Manifest) -> str:
    return (
        f"{manifest.bytes:,} bytes, version {manifest.version}, revision {manifest.revision}, "
        f"{sum(manifest.rows.values()):,} rows in {len(manifest.rows)} tables"
    )


@click.command()
@click.argument("path", metavar="FILE_OR_DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a database that is not empty.")
def restore(path: Path, force: bool) -> None:
    """Put a backup into the configured database: FILE, or the newest of DIR.

    Stop all servers first. The backup is checked before anything is changed."""
    config = Config.load()
    with _one_sentence():
        source = _newest(path)
        target = _sqlite_file(config)
        _check(archives.read_manifest(source), source, "sqlite" if target else "postgresql")
        folder = config.instance_dir if target is None else target.parent
        with archives.workplace(folder) as work:
            if target is not None:
                manifest, kept = _into_sqlite(source, target, work, force)
            else:
                manifest = _into_postgres(source, config, work, force)
                kept = None
    click.echo(f"restored {source.name} of {manifest.created_at}: {_contents(manifest)}")
    if kept is not None:
        click.echo(f"the database of before is kept as {kept}; delete it when you are sure")
    if manifest.revision != known_revisions()[-1]:
        click.echo("its tables are an earlier version's; run: goblin-assistant db upgrade")
    click.echo(
        f"the usage journals in {config.instance_dir / 'journal'} were left as they are: the next "
        "start writes the records that the database does not have"
    )


def _newest(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise BackupError(f"{path} does not exist")
        return path
    found = archives.backups_in(path)
    if not found:
        raise BackupError(f"there is no backup in {path}")
    return found[-1]


def _check(manifest: Manifest, source: Path, kind: str) -> None:
    """Whether this release can restore it into a database of this kind. Raises BackupError."""
    if manifest.kind != kind:
        raise BackupError(
            f"{source.name} is of a {manifest.kind} database, and DATABASE_URL names {kind}"
        )
    if manifest.revision not in known_revisions():
        raise BackupError(
            f"{source.name} is at revision {manifest.revision}, which this release "
            f"({known_revisions()[-1]}) does not know; use version {manifest.version}"
        )


def _into_sqlite(
    source: Path, target: Path, work: Path, force: bool
) -> tuple[Manifest, Path | None]:
    running = BackupError("a server or a command has the database open; stop it first")
    if target.exists():
        if not force and _holds_tables(target):
            raise BackupError(f"{target} is not empty; --force replaces it")
        if sqlite_copy.in_use(target):
            raise running
    new = work / "database"
    manifest = archives.unpack(source, new)
    _compare(sqlite_copy.row_counts(new), manifest)
    if os.geteuid() == 0:  # the server's user must be able to write it
        owner = target.parent.stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    if target.exists() and sqlite_copy.in_use(target):
        raise running
    return manifest, sqlite_copy.put_in_place(new, target, archives.now())


def _holds_tables(path: Path) -> bool:
    try:
        return bool(sqlite_copy.row_counts(path))
    except sqlite3.DatabaseError:
        return True


def _into_postgres(source: Path, config: Config, work: Path, force: bool) -> Manifest:
    tools = PostgresTools(config.sqlalchemy_url, work)
    dump = work / "database"
    manifest = archives.unpack(source, dump)
    with tools.connect() as connection:
        present = row_counts(connection)
        if present and not force:
            raise BackupError("the database is not empty; --force replaces it")
        _wait_for_others(connection)
    if unknown := sorted(set(present) - set(manifest.rows)):
        raise BackupError(
            f"the database has tables that the backup does not have ({', '.join(unknown)}); "
            "restore into a new, empty database"
        )
    tools.restore(dump, clean=bool(present))
    with tools.connect() as connection:
        _compare(row_counts(connection), manifest)
        if revision(connection) != manifest.revision:
            raise BackupError("the restored tables are not at the backup's revision")
    return manifest


def _wait_for_others(connection: psycopg.Connection[Any]) -> None:
    # PostgreSQL takes a moment to notice that a process has ended.
    end = time.monotonic() + _OTHERS_SECONDS
    while running := others(connection):
        if time.monotonic() > end:
            raise BackupError(f"the database is in use ({', '.join(running)}); stop them first")
        connection.rollback()  # else the list stays as it was
        time.sleep(0.1)


def _compare(found: dict[str, int], manifest: Manifest) -> None:
    wrong = [name for name, count in manifest.rows.items() if found.get(name) != count]
    if wrong:
        raise BackupError(f"the rows of {', '.join(wrong)} are not as many as the manifest says")
