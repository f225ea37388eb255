"""A database in SQL_ASCII, as `initdb` makes it where no locale is set."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
from click.testing import CliRunner

from goblin_assistant.cli import cli
from tests.support.accounts_fixtures import engine_for
from tests.support.books import rows
from tests.support.services import PostgresServer

NAME = "Jürgen Kobold"


def test_it_is_migrated_served_and_backed_up_like_any_other(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = f"ascii_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' "
            "LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    url = postgres.url(name)
    environment = {
        "DATABASE_URL": url,
        "SECRET_KEY": "s" * 40,
        "GOBLIN_INSTANCE_DIR": str(tmp_path / "instance"),
    }
    password = "correct horse battery staple"
    for command, given in (
        (["db", "upgrade"], None),
        (["users", "create", "ada@example.com", "--password-stdin"], password),
        (["keys", "create", "ada@example.com", "--name", NAME], None),
        (["backup", str(tmp_path / "backups")], None),
    ):
        done = CliRunner().invoke(cli, command, env=environment, input=given)
        assert done.exit_code == 0, (command, done.output, done.exception)
    engine = engine_for(url)
    assert rows(engine, "SELECT name FROM api_keys") == [(NAME,)]
    engine.dispose()
