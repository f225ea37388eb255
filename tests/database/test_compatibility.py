"""A release on the tables of a later one: it serves if they allow it, else it refuses with the
reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import requests
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import Engine, inspect, text

from goblin_assistant.commands.database import db
from goblin_assistant.commands.users import users
from goblin_assistant.database.compatibility import known_revisions, schema_status
from goblin_assistant.database.upgrade import (
    _current,
    alembic_config,
    downgrade,
    head_revision,
    upgrade,
)
from goblin_assistant.usage import reports
from goblin_assistant.usage.records import first_id_at
from goblin_assistant.usage.reports import Scope
from tests.conftest import MakeApp, Serve, register, wait_until
from tests.support.accounts_fixtures import database_url, engine
from tests.support.books import entry, open_store, rows

__all__ = ["database_url", "engine"]

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
HEAD = head_revision()
LATER = "0099"
NOVEMBER = 1_793_491_200_000  # 2026-11-01T00:00:00Z, in milliseconds


def make_later(engine: Engine, serves_from: str) -> None:
    """Migrate as a later release does: add a column and a table, and declare which releases may
    serve."""
    with engine.begin() as connection:
        for statement in (
            "ALTER TABLE usage_records ADD COLUMN of_the_future VARCHAR(10)",
            "CREATE TABLE things_of_the_future (id INTEGER PRIMARY KEY)",
            f"UPDATE alembic_version SET version_num = '{LATER}'",
            f"UPDATE schema_compatibility SET revision = '{LATER}', serves_from = '{serves_from}'",
        ):
            connection.execute(text(statement))
    _current.clear()


def run(
    *args: str, url: str, monkeypatch: pytest.MonkeyPatch, command: Any = db, **environ: str
) -> Any:
    for name, value in {"DATABASE_URL": url, "GOBLIN_ENV": "development", **environ}.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(command, list(args))


def test_every_revision_says_who_may_serve_with_its_tables(
    database_url: str, engine: Engine
) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    in_order = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    assert known_revisions() == in_order
    assert all(len(revision) == 4 and revision.isdigit() for revision in in_order)
    downgrade(engine, "0002")
    for revision in in_order[1:]:
        upgrade(engine, revision)
        with engine.connect() as connection:
            row = connection.execute(
                text("SELECT id, revision, serves_from FROM schema_compatibility")
            ).one()
        assert (row.id, row.revision) == (1, revision)
        assert "0001" <= row.serves_from <= revision


def test_the_tables_of_0003_may_be_served_by_every_release_before(engine: Engine) -> None:
    downgrade(engine, "0002")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (email, password_hash, role, settings, token_version, "
                "created_at)"
                " VALUES ('ada@example.com', 'x', 'user', '{}', 0, 1)"
            )
        )
    upgrade(engine, "0003")
    with engine.connect() as connection:
        row = connection.execute(text("SELECT serves_from FROM schema_compatibility")).one()
        limits = connection.execute(
            text("SELECT requests_per_minute, tokens_per_minute FROM users")
        ).one()
    assert (row.serves_from, tuple(limits)) == ("0001", (None, None))
    downgrade(engine, "0002")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT email FROM users")).scalar() == "ada@example.com"
        row = connection.execute(text("SELECT revision FROM schema_compatibility")).one()
    assert row.revision == "0002"


def columns(engine: Engine) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns("usage_records")}


def test_the_column_of_0006_comes_and_goes_and_records_stay(engine: Engine, tmp_path: Path) -> None:
    downgrade(engine, "0005")
    assert "tags" not in columns(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO usage_records (id, created_at, correlation_id, operation, provider, "
                "model_requested, model, prompt_tokens, completion_tokens, cached_tokens, "
                "cache_write_tokens, reasoning_tokens, token_source, duration_ms, queue_ms, "
                "status_code, attempts, fallback, stream, completed) VALUES "
                f"('{first_id_at(NOVEMBER)}', 0, 'c', 'chat_completion', 'p', 'm', 'm', 1, 1, 0, "
                "0, 0, 'provider', 1, 0, 200, 1, false, false, true)"
            )
        )
    upgrade(engine)
    with engine.connect() as connection:
        declared = connection.execute(
            text("SELECT revision, serves_from FROM schema_compatibility")
        ).one()
    assert tuple(declared) == ("0006", "0001")
    page = reports.report(engine, Scope(), NOVEMBER, NOVEMBER + 86_400_000, ("tag:team",))
    assert [(row["tag:team"], row["requests"]) for row in page.rows] == [(None, 1)]
    with open_store(engine, tmp_path) as store:
        store.finish(entry(tags='{"team":"a"}'), None)
    downgrade(engine, "0005")
    assert "tags" not in columns(engine)
    assert rows(engine, "SELECT count(*) FROM usage_records") == [(2,)]


@pytest.mark.parametrize("serves_from", ["0001", HEAD])
def test_a_newer_database_that_is_compatible_is_served(
    database_url: str, engine: Engine, make_app: MakeApp, serves_from: str
) -> None:
    make_later(engine, serves_from)
    app = make_app(database_url=database_url, health_interval=0.05)
    client = app.test_client()
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    assert client.post("/chat/completions", json=CHAT, headers=headers).status_code == 200
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT status_code, of_the_future FROM usage_records")
        ).all()
    assert [tuple(row) for row in rows] == [(200, None)]


def test_a_newer_database_that_is_not_compatible_is_refused_with_the_reason(
    database_url: str, engine: Engine, make_app: MakeApp, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_later(engine, LATER)
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    app = make_app(database_url=database_url, health_interval=0.05)
    client = app.test_client()
    wait_until(lambda: "newer" in client.get("/health/ready").get_data(as_text=True))
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    reason = (
        f"at revision {LATER}, newer than this version ({HEAD}) "
        "and not compatible with it; upgrade this instance"
    )
    assert answer.get_json()["reasons"] == [f"database: {reason}"]
    wait_until(lambda: app.extensions["goblin"].monitor.report("database")["last_check"])
    said = {
        record.__dict__["reason"]
        for record in caplog.records
        if record.message == "schema_not_served"
    }
    assert said == {reason, f"the database is {reason}"}


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE schema_compatibility", "UPDATE schema_compatibility SET revision = 'x'"],
)
def test_a_newer_database_that_does_not_say_so_is_not_compatible(
    engine: Engine, statement: str
) -> None:
    make_later(engine, "0001")
    with engine.begin() as connection:
        connection.execute(text(statement))
    assert "not compatible" in (schema_status(engine).problem or "")


def test_the_tables_of_the_release_before_have_to_be_migrated(
    database_url: str, engine: Engine
) -> None:
    downgrade(engine, "0001")
    assert (
        schema_status(engine).problem
        == "not migrated to this version; run: goblin-assistant db upgrade"
    )
    upgrade(engine)
    assert schema_status(engine).problem is None
    downgrade(engine, "base")
    assert (
        schema_status(engine).problem
        == "not migrated to this version; run: goblin-assistant db upgrade"
    )


def test_commands_on_a_newer_compatible_database_work_and_upgrade_leaves_it_alone(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_later(engine, HEAD)
    monkeypatch.chdir(tmp_path)
    upgraded = run("upgrade", url=database_url, monkeypatch=monkeypatch)
    assert upgraded.exit_code == 0
    assert (
        upgraded.output
        == f"at revision {LATER}, newer than this release ({HEAD}) and compatible with it\n"
    )
    assert run("current", url=database_url, monkeypatch=monkeypatch).exit_code == 0
    listed = run(
        "list",
        url=database_url,
        monkeypatch=monkeypatch,
        command=users,
        GOBLIN_ENV="production",
        SECRET_KEY="s" * 40,
    )
    assert listed.exit_code == 0, listed.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["upgrade"], "not compatible with it; upgrade this instance"),
        (["current"], "not compatible with it; upgrade this instance"),
        (["upgrade", "--revision", "0001"], "use the command of the release that made it"),
        (["downgrade", "--yes", "0001"], "use the command of the release that made it"),
    ],
)
def test_commands_on_a_newer_incompatible_database_say_what_to_do_in_one_sentence(
    database_url: str,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: list[str],
    said: str,
) -> None:
    make_later(engine, LATER)
    monkeypatch.chdir(tmp_path)
    result = run(*args, url=database_url, monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert said in result.output
    assert result.output.count("Error:") == 1


def test_a_database_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("upgrade", url="postgresql://nobody@127.0.0.1:1/x", monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database does not answer")


def test_a_served_instance_goes_on_when_a_later_release_migrates_beside_it(
    engine: Engine, database_url: str, serve: Serve
) -> None:
    server = serve(DATABASE_URL=database_url)
    headers = server.register()
    make_later(engine, HEAD)
    for _ in range(5):
        assert (
            requests.post(
                server.url + "/chat/completions", json=CHAT, headers=headers, timeout=30
            ).status_code
            == 200
        )
    assert requests.get(server.url + "/health/ready", timeout=30).status_code == 200
    assert server.stop() == 0
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM usage_records")) == 5


def test_an_instance_refuses_everything_but_health_and_metrics_on_incompatible_tables(
    engine: Engine, database_url: str, serve: Serve
) -> None:
    serving = serve(DATABASE_URL=database_url)
    headers = serving.register()
    make_later(engine, LATER)
    refusing = serve(DATABASE_URL=database_url)
    reason = f"the database is at revision {LATER}, newer than this version ({HEAD})"
    for method, path in (
        ("POST", "/chat/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/responses"),
        ("POST", "/auth/login"),
        ("GET", "/auth/keys"),
        ("GET", "/no/such/route"),
    ):
        answer = requests.request(
            method, refusing.url + path, json=CHAT, headers=headers, timeout=30
        )
        assert answer.status_code == 503, path
        assert int(answer.headers["Retry-After"]) > 0
        assert reason in answer.text
    answer = requests.post(refusing.url + "/chat/completions", json=CHAT, timeout=30)
    assert answer.json()["error"] == "unavailable"
    for path in ("/health", "/health/live", "/health/all", "/metrics"):
        assert requests.get(refusing.url + path, timeout=30).status_code == 200, path
    # It has checked its tables before. A migration while it runs does not take it out of service.
    answer = requests.post(
        serving.url + "/chat/completions", json=CHAT, headers=headers, timeout=30
    )
    assert answer.status_code == 200


def test_an_instance_serves_again_when_its_tables_are_back(
    engine: Engine, database_url: str, make_app: MakeApp
) -> None:
    make_later(engine, LATER)
    client = make_app(database_url=database_url, health_interval=0.05).test_client()
    assert client.get("/models").status_code == 503
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{HEAD}'"))
    wait_until(lambda: client.get("/models").status_code != 503)
    wait_until(lambda: client.get("/health/ready").status_code == 200, what="a check to succeed")
