"""PostgreSQL by its own pg_dump and pg_restore: consistent while chats run, restored all or none.

The password goes through a file that only this user can read: a command line and an environment can
be seen in a list of processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from goblin_assistant.database.archives import BackupError
from goblin_assistant.database.engine import APPLICATION, application_name

_CONNECT_SECONDS = 5


class PostgresTools:
    """pg_dump and pg_restore for one database. `url` is DATABASE_URL; `work` a private folder."""

    def __init__(self, url: str, work: Path) -> None:
        given = make_url(url)
        self._password = given.password or _one(given.query.get("password"))
        # URL.set() keeps the password when it is told None.
        self.url = URL.create(
            "postgresql",
            given.username,
            None,
            given.host,
            given.port,
            given.database,
            given.difference_update_query(["password"]).query,
        ).render_as_string(hide_password=False)
        self._work = work

    @contextlib.contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection without the time limits of requests. BackupError when there is none."""
        options: dict[str, Any] = {"password": self._password} if self._password else {}
        try:
            connection = psycopg.connect(
                self.url,
                connect_timeout=_CONNECT_SECONDS,
                application_name=application_name(),
                client_encoding="utf8",
                **options,
            )
        except psycopg.OperationalError as error:
            raise BackupError(
                f"the database does not answer ({_first_line(str(error))}); "
                "check that it is up and that DATABASE_URL is right"
            ) from None
        with connection:
            yield connection

    def dump(self, target: Path) -> tuple[str | None, dict[str, int]]:
        """Write a dump to `target`; its revision and the rows of its tables."""
        with self.connect() as connection:
            program = _program("pg_dump", connection.info.server_version)
            # Rows are counted in the very state that is dumped.
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                self._run(
                    [program, "--format=custom", "--no-owner", "--no-privileges",
                     f"--snapshot={row[0]}", f"--dbname={self.url}"],
                    file.fileno(),
                )  # fmt: skip
                os.fsync(file.fileno())
            return revision(connection), row_counts(connection)

    def restore(self, dump: Path, clean: bool) -> None:
        """Load a dump in one transaction: all of it or nothing. `clean` replaces what is there."""
        with self.connect() as connection:
            program = _program("pg_restore", connection.info.server_version)
        options = ["--clean", "--if-exists"] if clean else []
        self._run(
            [program, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges",
             *options, f"--dbname={self.url}", str(dump)],
            subprocess.DEVNULL,
        )  # fmt: skip

    def _run(self, command: list[str], output: int) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._work, prefix="pgpass-") as passwords:
            environ = dict(os.environ)
            if self._password:
                escaped = self._password.replace("\\", "\\\\").replace(":", "\\:")
                passwords.write(f"*:*:*:*:{escaped}\n")
                passwords.flush()
                environ["PGPASSFILE"] = passwords.name
            try:
                done = subprocess.run(
                    [*command[:1], "--no-password", *command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    env=environ,
                    check=False,
                )
            except OSError as error:
                raise BackupError(f"{command[0]} cannot be started: {error.strerror}") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")
            raise BackupError(f"{Path(command[0]).name} failed: {_first_line(said)}")


def row_counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Rows of each table of the schema that is used."""
    names = connection.execute(
        "SELECT table_name::text FROM information_schema.tables "
        "WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1"
    ).fetchall()
    counts = {}
    for (name,) in names:
        row = connection.execute(
            sql.SQL("SELECT COUNT(*) FROM {}").format(sql.Identifier(name))
        ).fetchone()
        counts[name] = int(row[0]) if row else 0
    return counts


def revision(connection: psycopg.Connection[Any]) -> str | None:
    """The revision of the tables, None when there is none."""
    row = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    if row is None or row[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def others(connection: psycopg.Connection[Any]) -> list[str]:
    """The product's other processes that are connected, by the names of their connections."""
    rows = connection.execute(
        "SELECT DISTINCT application_name::text FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE %s "
        "AND application_name <> %s ORDER BY 1",
        (f"{APPLICATION} %", application_name()),
    ).fetchall()
    return [name for (name,) in rows]


def _program(name: str, server_version: int) -> str:
    """The path of a program that is not older than the server. Raises BackupError."""
    needed = server_version // 10_000
    remedy = f"install PostgreSQL's client programs, version {needed} or later"
    path = shutil.which(name)
    if path is None:
        raise BackupError(f"{name} is not on PATH; {remedy} (Debian: postgresql-client)")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if found is None:
        raise BackupError(f"{path} does not tell its version; {remedy}")
    if int(found[1]) < needed:
        raise BackupError(f"{path} is of version {found[1]}, the server of {needed}; {remedy}")
    return path


def _one(value: str | tuple[str, ...] | None) -> str | None:
    return value[-1] if isinstance(value, tuple) else value


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (errors or lines or ["no message"])[0].rstrip(".")
