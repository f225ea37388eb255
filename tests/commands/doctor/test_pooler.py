"""Doctor's line about a pooler in front of PostgreSQL, with real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from goblin_assistant.commands.doctor import pooler, storage
from goblin_assistant.commands.doctor.findings import Finding
from tests.commands.doctor.conftest import MakeContext, only
from tests.support.pgbouncer import PgBouncer, with_limits

IGNORED = "ignore_startup_parameters = options"


@contextmanager
def finding(
    make: MakeContext, folder: Path, url: str, mode: str, more: str = "", **settings: object
) -> Iterator[Finding]:
    """Doctor's line about the pooler, or about the database where there is none."""
    with PgBouncer(folder / "bouncer", url, mode, more) as bouncer:
        made = make(database_url=bouncer.url, **settings)
        said = list(pooler.sessions(made))
        yield said[0] if said else only(storage.database(made))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_database_line_says_what_to_set_when_the_pooler_refuses_the_limits(
    context: MakeContext,
    postgres_url: str,
    tmp_path: Path,
    mode: str,
) -> None:
    with finding(context, tmp_path, postgres_url, mode) as said:
        assert said.verdict == "failure"
        assert "GOBLIN_DATABASE_POOLER=transaction" in said.message
        assert IGNORED in said.message


def test_sessions_fails_when_transaction_mode_is_not_configured(
    context: MakeContext,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    url = with_limits(postgres_url)
    with finding(context, tmp_path, url, "transaction", IGNORED) as said:
        assert said.verdict == "failure"
        assert said.fix == "Set GOBLIN_DATABASE_POOLER=transaction on all instances."


def test_sessions_warns_when_nobody_ends_a_slow_statement(
    context: MakeContext,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    transaction = {"database_pooler": "transaction"}
    with finding(context, tmp_path, postgres_url, "transaction", **transaction) as said:
        assert said.verdict == "warning"
        for statement in said.fix.split("; ")[:2]:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                name = urlsplit(postgres_url).path[1:]
                assert statement.startswith('ALTER ROLE "postgres" SET ')
                # For this database only: other tests have the same role.
                here = statement.replace(" SET ", f' IN DATABASE "{name}" SET ')
                connection.execute(here.encode())
    with finding(context, tmp_path / "2", postgres_url, "transaction", **transaction) as said:
        assert said.verdict == "ok"
        assert "in transaction mode, as configured" in said.message


def test_sessions_passes_in_session_mode_and_without_a_pooler(
    context: MakeContext,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    url = with_limits(postgres_url)
    with finding(context, tmp_path, url, "session", IGNORED) as said:
        assert said.verdict == "ok"
    direct = only(pooler.sessions(context(database_url=postgres_url)))
    assert (direct.verdict, "none in transaction mode" in direct.message) == ("ok", True)
    assert list(pooler.sessions(context())) == [], "SQLite has no pooler"
