"""goblin-assistant backup and restore, on SQLite and PostgreSQL, while real servers run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from click.testing import CliRunner, Result

from goblin_assistant.cli import cli
from goblin_assistant.database import sqlite_copy
from goblin_assistant.database.archives import backups_in, read_manifest
from tests.conftest import PASSWORD, ROOT, Serve, Server, wait_until
from tests.support.accounts_fixtures import database_url, url_of
from tests.support.chat_load import ChatLoad, RoundRobin
from tests.support.databases import assert_books_agree, contents, query

__all__ = ["database_url"]

PRICES = '[prices."echo/*"]\ninput = "1000"\noutput = "1000"\n'
SECRET = "s" * 40


def command(*args: str, url: str, folder: Path, **env: str) -> Result:
    """Run goblin-assistant; no traceback, whatever happens."""
    variables = {
        "SECRET_KEY": SECRET,
        "DATABASE_URL": url,
        "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
        **env,
    }
    done = CliRunner().invoke(cli, args, env=variables)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def succeeds(*args: str, url: str, folder: Path, **env: str) -> str:
    """What it says on standard output."""
    done = command(*args, url=url, folder=folder, **env)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def fails(*args: str, url: str, folder: Path, **env: str) -> str:
    """One sentence on standard error, and exit code 1."""
    done = command(*args, url=url, folder=folder, **env)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups are named relative to it, and no .env is found."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def second_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the same kind."""
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'second' / 'goblin.db'}"
    postgres = request.getfixturevalue("postgres")
    url: str = postgres.create_database()
    return url


class Backed:
    """A server with an account, a key with a budget, and chats."""

    def __init__(self, serve: Serve, url: str, folder: Path) -> None:
        (folder / "goblin.toml").write_text(PRICES)
        self.env = {
            "DATABASE_URL": url,
            "SECRET_KEY": SECRET,
            "GOBLIN_CONFIG_FILE": str(folder / "goblin.toml"),
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
        }
        self.server = serve(**self.env)
        self.server.register()
        self.login = requests.post(
            self.server.url + "/auth/login",
            json={"email": "ada@example.com", "password": PASSWORD},
            timeout=30,
        ).json()
        self.bearer = {"Authorization": f"Bearer {self.login['access_token']}"}
        made = requests.post(
            self.server.url + "/auth/keys",
            json={"name": "team", "scopes": ["chat"], "monthly_budget_usd": "1000.00"},
            headers=self.bearer,
            timeout=30,
        ).json()
        self.key = {"Authorization": f"Bearer {made['key']}"}

    def load(self) -> ChatLoad:
        return ChatLoad(RoundRobin([self.server.url]), [self.key])


def recorded_in(url: str) -> set[str]:
    """The correlation ids of all usage records."""
    return {row[0] for row in query(url, "SELECT correlation_id FROM usage_records")}


def get(server: Server, path: str, headers: dict[str, str]) -> Any:
    answer = requests.get(server.url + path, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_backup_under_load_is_one_state_and_the_last_one_is_restored_to_the_row(
    serve: Serve, database_url: str, second_url: str, tmp_path: Path
) -> None:
    backed = Backed(serve, database_url, tmp_path)
    backups = tmp_path / "backups"
    with backed.load() as load:
        load.wait_for_more(60)
        before = set(load.answered)
        wait_until(lambda: before <= recorded_in(database_url), 30)
        said = succeeds("backup", str(backups), url=database_url, folder=tmp_path)
        assert "SECRET_KEY" in said
        assert "goblin.toml" in said
        load.wait_for_more(60)
    assert load.failed == []
    (first,) = backups_in(backups)
    assert first.stat().st_mode & 0o777 == 0o600
    metrics = backed.server.metrics()
    noted = metrics["backup_last_success_timestamp_seconds"]
    assert backed.server.stop() == 0

    succeeds("restore", str(first), url=second_url, folder=tmp_path)
    manifest = read_manifest(first)
    restored, whole = contents(second_url), contents(database_url)
    assert {table: len(rows) for table, rows in restored.items()} == manifest.rows
    assert set(restored["usage_records"]) <= set(whole["usage_records"])
    assert before <= recorded_in(second_url)
    assert_books_agree(second_url)

    succeeds("backup", str(backups), url=database_url, folder=tmp_path)
    assert float((tmp_path / "instance" / "backup_last_success").read_text()) >= noted
    restore = ("restore", str(backups), "--force")
    succeeds(*restore, url=second_url, folder=tmp_path)
    assert contents(second_url) == whole
    assert_books_agree(second_url)

    again = serve(**{**backed.env, "DATABASE_URL": second_url})
    # Access token, key, budget and session are good.
    (shown,) = get(again, "/auth/keys", backed.bearer)["keys"]
    assert shown["name"] == "team"
    with ChatLoad(RoundRobin([again.url]), [backed.key], threads=1) as load:
        load.wait_for_more(3)
    assert load.failed == []
    pair = {"refresh_token": backed.login["refresh_token"]}
    assert requests.post(again.url + "/auth/refresh", json=pair, timeout=30).status_code == 200
    assert again.stop() == 0
    assert set(load.answered) <= recorded_in(second_url)
    assert_books_agree(second_url)


def test_restore_refuses_a_database_in_use_and_one_that_is_not_empty(
    serve: Serve, database_url: str, tmp_path: Path
) -> None:
    server = serve(DATABASE_URL=database_url)
    server.register()
    backups = tmp_path / "backups"
    succeeds("backup", str(backups), url=database_url, folder=tmp_path)
    said = fails("restore", str(backups), "--force", url=database_url, folder=tmp_path)
    assert "stop" in said
    assert server.stop() == 0
    there = contents(database_url)
    said = fails("restore", str(backups), url=database_url, folder=tmp_path)
    assert "--force" in said
    assert contents(database_url) == there


def test_chats_after_the_backup_come_back_from_the_journal_of_a_killed_server(
    serve: Serve, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'goblin.db'}"
    backed = Backed(serve, url, tmp_path)
    with backed.load() as load:
        load.wait_for_more(20)
        succeeds("backup", "backups", url=url, folder=tmp_path)
        load.wait_for_more(20)
    assert load.failed == []
    backed.server.process.kill()
    backed.server.wait()
    said = succeeds("restore", "backups", "--force", url=url, folder=tmp_path)
    assert "journal" in said
    again = serve(**backed.env)
    wait_until(lambda: set(load.answered) <= recorded_in(url), 60)
    assert again.stop() == 0
    assert_books_agree(url)
    (kept,) = tmp_path.glob("goblin.db.replaced-*Z")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_copy_keeps_one_state_while_others_write_between_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_copy, "PAGES", 1)
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 50)
        steps: list[int] = []

        def write(done: int, _total: int) -> None:
            steps.append(done)
            assert len(steps) < 1000, "the copy begins anew and anew"
            writer.execute("INSERT INTO t VALUES (?)", ("y" * 1000,))

        sqlite_copy.copy(source, target, write)
    assert steps == sorted(steps)
    assert len(steps) > 10
    assert sqlite_copy.row_counts(target) == {"t": 50}


@pytest.fixture
def migrated(tmp_path: Path) -> str:
    """A SQLite database without rows, whose backup is in `backups`."""
    url = f"sqlite:///{tmp_path / 'goblin.db'}"
    succeeds("db", "upgrade", url=url, folder=tmp_path)
    succeeds("backup", "backups", url=url, folder=tmp_path)
    return url


def rewrite(path: Path, **changes: Any) -> None:
    """The same archive with another manifest."""
    with tarfile.open(path) as archive:
        members = [(item, archive.extractfile(item)) for item in archive.getmembers()]
        contents = {item.name: file.read() for item, file in members if file is not None}
    manifest = {**json.loads(contents["manifest.json"]), **changes}
    contents["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as archive:
        for name, data in contents.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            part = path.with_name("part")
            part.write_bytes(data)
            with part.open("rb") as file:
                archive.addfile(item, file)
            part.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Any, str]] = {
    "one bit": (flip, "SHA-256"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
    "no archive": (lambda path: path.write_bytes(b"not a tar archive" * 100), "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "newer tables": (lambda path: rewrite(path, revision="0099"), "does not know"),
    "another kind": (lambda path: rewrite(path, kind="postgresql"), "DATABASE_URL names sqlite"),
    "another format": (lambda path: rewrite(path, format=2), "use the version that made it"),
    "no rows": (lambda path: rewrite(path, rows=None), "no readable manifest"),
    "other rows": (lambda path: rewrite(path, rows={"users": 7}), "not as many"),
}


def test_a_damaged_or_foreign_backup_is_refused_and_changes_nothing(
    migrated: str, tmp_path: Path
) -> None:
    (backup,) = backups_in(tmp_path / "backups")
    good, there = backup.read_bytes(), (tmp_path / "goblin.db").read_bytes()
    for damage, (make, expected) in DAMAGES.items():
        backup.write_bytes(good)
        make(backup)
        said = fails("restore", str(backup), "--force", url=migrated, folder=tmp_path)
        assert expected in said, damage
        assert (tmp_path / "goblin.db").read_bytes() == there, damage
        assert not list(tmp_path.glob(".goblin-partial-*")), damage


def test_a_backup_that_cannot_be_written_is_one_sentence_and_leaves_nothing(
    migrated: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    fails("backup", "file/below", url=migrated, folder=tmp_path)
    missing = f"sqlite:///{tmp_path / 'nowhere.db'}"
    assert "no database" in fails("backup", "backups", url=missing, folder=tmp_path)
    assert not (tmp_path / "nowhere.db").exists()
    (tmp_path / "text.db").write_text("this is not a database, but long enough to be read " * 9)
    text = f"sqlite:///{tmp_path / 'text.db'}"
    assert "not a database" in fails("backup", "backups", url=text, folder=tmp_path)
    assert "empty" not in fails("restore", "nothing-here", url=missing, folder=tmp_path)
    (tmp_path / "none").mkdir()
    assert "no backup in" in fails("restore", "none", url=missing, folder=tmp_path)
    assert len(backups_in(tmp_path / "backups")) == 1
    assert not list((tmp_path / "backups").glob(".goblin-partial-*"))


FULL = """
import resource, signal, sys
# As a full disk: writing fails in the middle of a file.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), -1))
from goblin_assistant.__main__ import main
main()
"""


@pytest.mark.parametrize("most", [40_000, 110_000], ids=["the copy", "the archive"])
def test_a_full_disk_leaves_no_backup_behind(migrated: str, tmp_path: Path, most: int) -> None:
    environ = {
        **os.environ, "DATABASE_URL": migrated, "SECRET_KEY": SECRET, "PYTHONPATH": str(ROOT),
        "GOBLIN_INSTANCE_DIR": str(tmp_path / "instance"),
    }  # fmt: skip
    full = subprocess.run(
        [sys.executable, "-c", FULL, str(most), "backup", "other"],
        env=environ, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 1
    assert full.stderr.startswith("Error: ")
    assert full.stderr.count("\n") == 1, full.stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".goblin-backup.lock"]


def test_keep_deletes_the_oldest_and_nothing_that_is_not_a_backup(
    migrated: str, tmp_path: Path
) -> None:
    backups = tmp_path / "backups"
    mine = backups / "goblin-of-mine.tar"
    mine.write_text("")
    (backups / ".goblin-partial-killed").mkdir()
    for year in range(2010, 2020):
        (backups / f"goblin-{year}-01-01T00-00-00.000Z.tar").write_text("")
    newest = backups_in(backups)[-1]
    said = succeeds("backup", "backups", "--keep", "3", url=migrated, folder=tmp_path)
    assert "deleted 9 older, kept 3" in said
    left = backups_in(backups)
    assert len(left) == 3
    assert left[1] == newest
    assert mine.exists()
    assert not (backups / ".goblin-partial-killed").exists()


RECORDING = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline > {seen}.args
tr '\\0' '\\n' < /proc/$$/environ > {seen}.environ
case "$1" in --version) ;; *) cp -p "$PGPASSFILE" {seen}.pgpass ;; esac
exec {real} "$@"
"""


def test_the_password_of_postgresql_is_in_no_list_of_processes(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_of("postgresql", request, tmp_path)
    address = url.replace("postgres@", "postgres:canary%3Aword@")
    succeeds("db", "upgrade", url=address, folder=tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore"):
        script = programs / name
        real = shutil.which(name)
        script.write_text(RECORDING.format(seen=tmp_path / name, real=real))
        script.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    succeeds("backup", "backups", url=address, folder=tmp_path, PATH=path)
    succeeds("restore", "backups", "--force", url=address, folder=tmp_path, PATH=path)
    for name in ("pg_dump", "pg_restore"):
        assert "postgresql://" in (tmp_path / f"{name}.args").read_text()
        assert "canary" not in (tmp_path / f"{name}.args").read_text()
        pgpass = tmp_path / f"{name}.pgpass"
        assert pgpass.read_text() == "*:*:*:*:canary\\:word\n"
        assert pgpass.stat().st_mode & 0o777 == 0o600
    environ = (tmp_path / "pg_dump.environ").read_text()
    assert "PGPASSFILE=" in environ
    assert "PGPASSWORD" not in environ


def test_programs_of_postgresql_that_are_missing_or_old_are_named(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_of("postgresql", request, tmp_path)
    assert "no tables" in fails("backup", "backups", url=url, folder=tmp_path)
    none = tmp_path / "none"
    none.mkdir()
    said = fails("backup", "backups", url=url, folder=tmp_path, PATH=str(none))
    assert "pg_dump is not on PATH" in said
    assert "postgresql-client" in said
    old = none / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(0o755)
    said = fails("backup", "backups", url=url, folder=tmp_path, PATH=f"{none}:/usr/bin:/bin")
    assert "is of version 9" in said
    away = "postgresql://postgres@127.0.0.1:1/x"
    assert "does not answer" in fails("backup", "backups", url=away, folder=tmp_path)


def test_restoring_over_tables_that_the_backup_does_not_have_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_of("postgresql", request, tmp_path)
    succeeds("db", "upgrade", url=url, folder=tmp_path)
    succeeds("backup", "backups", url=url, folder=tmp_path)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE of_the_future (id integer)")
    said = fails("restore", "backups", "--force", url=url, folder=tmp_path)
    assert "of_the_future" in said
    assert "new, empty database" in said
