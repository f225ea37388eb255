"""Damaged tables are named in one sentence. A killed migration leaves nothing half done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from goblin_assistant.commands.database import db
from goblin_assistant.commands.users import users
from goblin_assistant.database.compatibility import current_revision
from goblin_assistant.database.upgrade import _current, head_revision, upgrade
from tests.conftest import ROOT, MakeApp, Serve, wait_until
from tests.support.accounts_fixtures import database_url, engine, engine_for

__all__ = ["database_url", "engine"]

KILLED = """
import os, sys
from sqlalchemy import create_engine, event
from goblin_assistant.database.upgrade import upgrade
engine = create_engine(sys.argv[1])
upgrade(engine, "0001")
@event.listens_for(engine, "after_cursor_execute")
def end(_connection, _cursor, statement, *_):
    if statement.lstrip().startswith(sys.argv[2]):
        os._exit(9)
upgrade(engine)
"""

STATEMENTS = [
    "CREATE TABLE schema_compatibility",
    "INSERT INTO schema_compatibility",
    "UPDATE alembic_version",
    "ALTER TABLE users",
]

DAMAGES = {
    "no revision": "DELETE FROM alembic_version",
    "no table of revisions": "DROP TABLE alembic_version",
    "a table of revisions with other columns": (
        "ALTER TABLE alembic_version RENAME COLUMN version_num TO other"
    ),
    "two revisions": "INSERT INTO alembic_version VALUES ('0099')",
    "two rows of compatibility": (
        "INSERT INTO schema_compatibility SELECT 2, revision, serves_from FROM schema_compatibility"
    ),
    "other columns of compatibility": (
        "ALTER TABLE schema_compatibility RENAME COLUMN serves_from TO other"
    ),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_migration_that_is_killed_is_repeated_from_where_it_began(
    database_url: str, statement: str
) -> None:
    made = engine_for(database_url)
    url = made.url.render_as_string(hide_password=False)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, url, statement], cwd=ROOT, timeout=60, check=False
    )
    assert ended.returncode == 9
    assert current_revision(made) == "0001"
    upgrade(made)
    assert current_revision(made) == head_revision()
    made.dispose()


def assert_one_sentence_each(
    url: str, monkeypatch: pytest.MonkeyPatch, folder: Path, said: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    for command, args in ((db, ["current"]), (db, ["upgrade"]), (users, ["list"])):
        _current.clear()
        result = CliRunner().invoke(command, args)
        assert result.exit_code == 1, (args, result.output)
        assert isinstance(result.exception, SystemExit), (args, result.exception)
        error = result.output[result.output.index("Error:") :]
        assert error.count("\n") == 1
        assert said in error


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
def test_damaged_tables_are_one_sentence_for_every_command(
    database_url: str,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    statement: str,
) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))
    assert_one_sentence_each(database_url, monkeypatch, tmp_path, "restore a backup")


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
def test_an_instance_with_damaged_tables_is_not_ready_and_says_why(
    database_url: str, engine: Engine, make_app: MakeApp, statement: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))
    _current.clear()
    client = make_app(database_url=database_url, health_interval=0.05).test_client()
    wait_until(lambda: "restore a backup" in client.get("/health/ready").get_data(as_text=True))
    assert client.get("/health/ready").status_code == 503


def test_a_half_migration_of_an_earlier_release_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    made = engine_for(url)
    upgrade(made, "0001")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE schema_compatibility (id INTEGER)"))
    made.dispose()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    result = CliRunner().invoke(db, ["upgrade"])
    assert result.exit_code == 1
    assert "schema_compatibility" in result.output
    assert "does not answer" not in result.output


def test_a_file_that_is_no_database_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, and long enough to be read\n" * 100)
    url = f"sqlite:///{tmp_path / 'a.db'}"
    assert_one_sentence_each(url, monkeypatch, tmp_path, "not an SQLite database")


def test_a_server_on_a_file_that_is_no_database_is_not_ready_and_says_why(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, and long enough to be read\n" * 100)
    server = serve(DATABASE_URL=f"sqlite:///{tmp_path / 'a.db'}")
    line = server.wait_for_line("schema_not_served")
    assert "not an SQLite database" in line["reason"]
    line = server.wait_for_line("service_unhealthy", service="database")
    assert "not an SQLite database" in line["error"]
