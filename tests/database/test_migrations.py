"""Migrations: from nothing, down and up again, and by four processes at once, on SQLite and on
PostgreSQL."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, insert, inspect, select, text

from goblin_assistant.database.compatibility import current_revision
from goblin_assistant.database.models import api_keys, metadata, users
from goblin_assistant.database.upgrade import (
    _current,
    alembic_config,
    downgrade,
    head_revision,
    is_current,
    upgrade,
)
from tests.conftest import ROOT, MakeApp
from tests.support.accounts_fixtures import database_url, engine, engine_for

__all__ = ["database_url", "engine"]

SCRIPTS = ScriptDirectory.from_config(alembic_config())
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def differences(engine: Engine) -> list[Any]:
    """What Alembic's autogenerate would change. Nothing, if migrations and models agree."""
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "render_as_batch": True}
        )
        found: list[Any] = compare_metadata(context, metadata)
        return found


@pytest.fixture
def empty(database_url: str) -> Any:
    """An engine on an empty database."""
    made = engine_for(database_url)
    yield made
    made.dispose()


def test_an_empty_database_gets_exactly_the_tables_of_the_models(empty: Engine) -> None:
    assert current_revision(empty) is None
    assert not is_current(empty)
    upgrade(empty)
    assert is_current(empty)
    assert current_revision(empty) == head_revision() == REVISIONS[-1]
    assert tables(empty) == set(metadata.tables)
    assert differences(empty) == []


def test_down_and_up_again_through_every_revision(empty: Engine) -> None:
    for revision in REVISIONS:
        upgrade(empty, revision)
        assert current_revision(empty) == revision
    for revision in [*reversed(REVISIONS[:-1]), "base"]:
        downgrade(empty, revision)
        assert current_revision(empty) == (None if revision == "base" else revision)
        assert not is_current(empty)
    assert tables(empty) == set()
    upgrade(empty)
    assert differences(empty) == []


def test_a_row_survives_the_way_from_each_earlier_revision(empty: Engine) -> None:
    """A user that was made in an earlier release's tables is there after the migration."""
    for revision in REVISIONS[:-1] or REVISIONS:
        upgrade(empty, revision)
        with empty.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO users (email, password_hash, role, settings, token_version, "
                    "created_at) "
                    "VALUES ('ada@example.com', 'x', 'user', '{}', 0, 1)"
                )
            )
        upgrade(empty)
        with empty.connect() as connection:
            assert connection.execute(select(users)).one().email == "ada@example.com"
        downgrade(empty, "base")


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(users).values(email="ada@example.com", password_hash="x"))
    upgrade(engine)
    _current.clear()
    upgrade(engine)
    with engine.connect() as connection:
        assert len(connection.execute(select(users)).all()) == 1


RACE = """
import sys, json
from pathlib import Path
from sqlalchemy import create_engine
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.upgrade import head_revision, upgrade
from goblin_assistant.database.compatibility import current_revision
engine = create_engine(sys.argv[1], **engine_options(sys.argv[1], 2))
print("ready", flush=True)
sys.stdin.readline()
upgrade(engine)
print(json.dumps(current_revision(engine)))
"""


def test_four_processes_that_start_at_once_all_find_the_tables(database_url: str) -> None:
    url = engine_for(database_url).url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, (out, errors) in [
        (process, process.communicate(timeout=60)) for process in processes
    ]:
        assert process.returncode == 0, errors
        assert json.loads(out) == head_revision()
    engine = engine_for(database_url)
    assert tables(engine) == set(metadata.tables)
    engine.dispose()


def test_migrating_leaves_the_loggers_alone(tmp_path: Path) -> None:
    """Alembic's template calls fileConfig, which switches every other logger off."""
    logger = logging.getLogger("goblin_assistant.some.module")
    made = engine_for(f"sqlite:///{tmp_path / 'a.db'}")
    upgrade(made)
    assert not logger.disabled
    made.dispose()


def test_sqlite_writes_ahead_and_enforces_foreign_keys(tmp_path: Path) -> None:
    made = engine_for(f"sqlite:///{tmp_path / 'a.db'}")
    with made.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 5_000
        assert connection.execute(text("PRAGMA cache_size")).scalar() == -128
    made.dispose()


def test_a_key_without_its_user_is_refused_by_the_database(engine: Engine) -> None:
    orphan = insert(api_keys).values(user_id=99, name="x", prefix="x", key_hash="x", scopes=[])
    with engine.connect() as connection, pytest.raises(Exception, match=r"(?i)foreign key"):
        connection.execute(orphan)


def test_there_is_one_head_and_every_revision_has_a_way_back() -> None:
    assert len(SCRIPTS.get_heads()) == 1
    for script in SCRIPTS.walk_revisions():
        assert callable(script.module.downgrade)


def test_production_is_not_migrated_by_serving(make_app: MakeApp) -> None:
    app = make_app(env="production", secret_key="s" * 40)
    client = app.test_client()
    client.get("/health")
    assert current_revision(app.extensions["goblin"].engine) is None


def test_an_unknown_revision_is_a_clear_failure_and_leaves_no_lock_behind(empty: Engine) -> None:
    with pytest.raises(Exception, match="no_such_revision"):
        upgrade(empty, "no_such_revision")
    upgrade(empty)
    assert is_current(empty)
