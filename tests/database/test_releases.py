"""Forward from the first release's tables; forward and back between releases under load."""

from __future__ import annotations

import sqlite3
import threading
import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from click.testing import CliRunner
from sqlalchemy import create_engine

from goblin_assistant.cli import cli
from goblin_assistant.database.compatibility import schema_status
from goblin_assistant.version import __version__
from tests.conftest import PASSWORD, Serve, Server
from tests.database.test_compatibility import LATER, make_later
from tests.database.test_migrations import differences
from tests.support.accounts_fixtures import KINDS, engine_for, settings, url_of
from tests.support.chat_load import ChatLoad, RoundRobin
from tests.support.databases import assert_books_agree, contents, query

FIXTURES = Path(__file__).parent / "fixtures"
KEYS = {
    "sqlite": (
        "gob_MTO610J1ZQDiNLUAWMczlWq4MY9kbfb9dIzG6rqT_Fc",
        "gob_DrvTP3xzOkSvqcbw4zwKpuKqHiVlGGdVEx3lpLak6BA",
    ),
    "postgresql": (
        "gob_WNgbHz4IbO-1fVewGIOp148h_mIpP-3wqBxBAmjZWcU",
        "gob_0TXYTUoySeYIX2T854It8-E6EGOIKHtT2vsZxyFtxys",
    ),
}
SECRET = "s" * 40
PRICES = '[prices."echo/*"]\ninput = "1000"\noutput = "1000"\n'
USERS = ("ada@example.com", "grace@example.com")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of database."""
    name: str = request.param
    return name


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of the kind."""
    return url_of(kind, request, tmp_path)


@pytest.fixture
def first_tables(kind: str, url: str) -> str:
    """The URL of a database as version 0.1.0 left it."""
    script = (FIXTURES / f"0.1.0-{kind}.sql").read_text()
    if kind == "sqlite":
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(script)
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(script.encode())
    return url


def db(*args: str, url: str, folder: Path) -> Any:
    """`goblin-assistant db ...`; no traceback, whatever happens."""
    environ = {"DATABASE_URL": url, "SECRET_KEY": SECRET, "GOBLIN_INSTANCE_DIR": str(folder)}
    done = CliRunner().invoke(cli, ["db", *args], env=environ)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def environment(url: str, folder: Path) -> dict[str, str]:
    """What all instances share."""
    (folder / "goblin.toml").write_text(PRICES)
    toml = str(folder / "goblin.toml")
    return {"DATABASE_URL": url, "SECRET_KEY": SECRET, "GOBLIN_CONFIG_FILE": toml}


def log_in(server_url: str, email: str = USERS[0]) -> str:
    """The refresh token of a new session."""
    body = {"email": email, "password": PASSWORD}
    answer = requests.post(server_url + "/auth/login", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["refresh_token"]
    return token


def test_the_first_releases_database_is_migrated_and_everything_in_it_goes_on(
    serve: Serve, kind: str, first_tables: str, tmp_path: Path
) -> None:
    before = contents(first_tables)
    said = db("current", url=first_tables, folder=tmp_path)
    assert said.exit_code == 1
    assert "not migrated to this version; run: goblin-assistant db upgrade" in said.output
    said = db("upgrade", url=first_tables, folder=tmp_path)
    assert said.exit_code == 0, said.output
    assert db("current", url=first_tables, folder=tmp_path).exit_code == 0
    engine = engine_for(first_tables)
    assert differences(engine) == []
    engine.dispose()
    after = contents(first_tables)
    for table, rows in before.items():
        if table != "alembic_version":
            # Columns are added behind the others, empty.
            width = len(rows[0]) if rows else 0
            assert [row[:width] for row in after[table]] == rows
            assert all(set(row[width:]) <= {None} for row in after[table])
    server = serve(**environment(first_tables, tmp_path))
    for email in USERS:
        log_in(server.url, email)
    headers = [{"Authorization": f"Bearer {key}"} for key in KEYS[kind]]
    with ChatLoad(RoundRobin([server.url]), headers, threads=2) as load:
        load.wait_for_more(6)
    assert load.failed == []
    assert server.stop() == 0
    assert_books_agree(first_tables)
    (count,) = query(first_tables, "SELECT COUNT(*) FROM usage_records")
    assert count == (6 + len(load.answered),)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with version 0.1.1, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("earlier")
    (wheel,) = FIXTURES.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


class Logins:
    """Sessions that begin and go on while the block runs, by one thread."""

    def __init__(self, instances: RoundRobin) -> None:
        self.count = 0
        self.failed: list[str] = []
        self._instances = instances
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Logins:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(90)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                with self._instances.next() as url:
                    token = log_in(url)
                with self._instances.next() as url:
                    answer = requests.post(
                        url + "/auth/refresh", json={"refresh_token": token}, timeout=60
                    )
                    assert answer.status_code == 200, answer.text
                self.count += 1
            except (AssertionError, requests.RequestException) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                return


class Deployment:
    """Two instances of which one after the other is replaced under load."""

    def __init__(self, serve: Serve, shared: dict[str, str], earlier: Path) -> None:
        self._serve = serve
        self._shared = shared
        self._earlier = {"PYTHONPATH": str(earlier)}
        self.running = [self.start("0.1.1"), self.start("0.1.1")]
        self.instances = RoundRobin([server.url for server in self.running])

    def start(self, version: str) -> Server:
        """A server of a version."""
        other = self._earlier if version == "0.1.1" else {}
        server = self._serve(**self._shared, **other)
        about = requests.get(server.url + "/openapi.json", timeout=30).json()["info"]
        assert about["version"] == version
        return server

    def replace(self, version: str, load: ChatLoad) -> None:
        """Replace both, with chats before, between and after."""
        for _ in range(2):
            load.wait_for_more(12)
            old = self.running.pop(0)
            new = self.start(version)
            self.running.append(new)
            self.instances.add(new.url)
            load.wait_for_more(12)
            self.instances.take_out(old.url)
            assert old.stop() == 0
        load.wait_for_more(12)


@pytest.fixture
def deployment(serve: Serve, url: str, earlier: Path, tmp_path: Path) -> Deployment:
    """Two instances of version 0.1.1."""
    return Deployment(serve, environment(url, tmp_path), earlier)


def test_two_instances_go_forward_to_this_release_and_back_under_load_and_lose_nothing(
    deployment: Deployment, url: str, tmp_path: Path
) -> None:
    first = deployment.running[0]
    bearer = first.register()
    headers, before = [], []
    for name in ("one", "two"):
        spec = {"name": name, "scopes": ["chat"], "monthly_budget_usd": "1000.00"}
        made = requests.post(first.url + "/auth/keys", json=spec, headers=bearer, timeout=30)
        headers.append({"Authorization": f"Bearer {made.json()['key']}"})
        # Version 0.1.1 may refuse one of two chats at once that are a key's first of the month.
        with ChatLoad(RoundRobin([first.url]), headers[-1:], threads=1) as alone:
            alone.wait_for_more(1)
        before += alone.answered
    with ChatLoad(deployment.instances, headers) as load, Logins(deployment.instances) as logins:
        load.wait_for_more(12)
        assert db("upgrade", url=url, folder=tmp_path).exit_code == 0
        deployment.replace(__version__, load)
        # A later release has added to the tables; both older ones may serve with them.
        engine = create_engine(settings(url).sqlalchemy_url)
        make_later(engine, "0003")
        found = schema_status(engine)
        engine.dispose()
        assert (found.current, found.problem) == (LATER, None)
        deployment.replace("0.1.1", load)
        forward = logins.count
    assert load.failed == []
    assert logins.failed == []
    assert forward > 0
    for server in deployment.running:
        assert server.stop() == 0
    recorded = query(url, "SELECT correlation_id FROM usage_records WHERE completed")
    assert sorted(row[0] for row in recorded) == sorted(before + load.answered)
    assert_books_agree(url)
