"""Fixtures for all tests: an application per test, a real server, and waiting without sleep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from werkzeug.test import TestResponse

from tests.support.fake_upstream import fake_upstream  # noqa: F401 -- fixture
from tests.support.services import (  # noqa: F401 -- fixtures
    free_port,
    nginx,
    own_postgres,
    postgres,
    postgres_url,
    redis_server,
)

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery staple"

# No deadline for an example: machines that run tests are busy. The same examples everywhere: a run
# that fails can be repeated.
settings.register_profile(
    "untimed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


# The files that take longest, longest first: workers begin with these, so that none is left alone
# with one at the end.
LONG = (
    "ops/test_image.py",
    "test_alerts.py",
    "ops/test_one_page.py",
    "web/test_nasty_bodies.py",
    "commands/prove/test_prove.py",
    "gameday/test_played.py",
    "ops/test_proxies.py",
    "test_loadtest.py",
    "clients/test_agents.py",
    "database/test_releases.py",
    "providers/test_fault_table.py",
    "calls/test_settling.py",
    "test_docs.py",
    "test_benchmarks.py",
    "ops/test_runbooks_under_fault.py",
    "server/test_readers.py",
    "usage/test_money.py",
    "web/test_schemathesis.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For workers of pytest-xdist, the tests of LONG come first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {f"tests/{name}": number for number, name in enumerate(LONG)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def silent_log() -> Iterator[None]:
    """Applications in this process log to no standard output: their thread writes between tests
    too, where pytest captures nothing. Tests use caplog or a real server."""
    from goblin_assistant.logs.json_logging import QueueingHandler

    write = QueueingHandler._write_fd

    def only_files(handler: QueueingHandler, data: bytes) -> None:
        if handler._file is not None:
            write(handler, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueueingHandler, "_write_fd", only_files)
        yield


@pytest.fixture(autouse=True)
def patient_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may not hash a password within the product's two seconds."""
    monkeypatch.setattr("goblin_assistant.accounts.passwords._WAIT_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applications in this process hash passwords at a thousandth of the cost. Real servers do it
    at the real one, and so does tests/accounts/test_users.py."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("goblin_assistant.accounts.passwords._HASHER", cheap)


def wait_until(predicate: Callable[[], Any], timeout: float = 30.0, what: str = "") -> Any:
    """Return the first truthy value of `predicate()`, called every few milliseconds.

    AssertionError after `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        if value := predicate():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not true within {timeout} s: {what or predicate}")
        time.sleep(0.005)


class BufferedClient(FlaskClient):
    """Reads every answer to its end and closes it, as a server does. So work that waits for the
    last byte is done.
    """

    def open(self, *args: Any, buffered: bool = True, **kwargs: Any) -> TestResponse:
        return super().open(*args, buffered=buffered, **kwargs)


class MakeApp(Protocol):
    """`make_app(ratelimit_enabled=True, ...)`: overrides are attribute names of Config."""

    def __call__(self, **overrides: Any) -> Flask: ...


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """A factory of applications in development mode, each with its own SQLite file.

    Limits are off, and no checks run in the background.
    """
    from goblin_assistant import create_app
    from goblin_assistant.config import Config
    from goblin_assistant.logs import json_logging

    made: list[Flask] = []

    def make(**overrides: Any) -> Flask:
        values: dict[str, Any] = {
            "env": "development",
            "instance_dir": tmp_path / f"instance{len(made)}",
            "ratelimit_enabled": False,
            "health_interval": 3600,
            "log_level": "DEBUG",
            **overrides,
        }
        app = create_app(Config.load(values, environ={}, dotenv=tmp_path / "absent.env"))
        # Tests read the database right after an answer. Batches: usage/test_batches.py.
        app.extensions["goblin"].usage.batch_writer.seconds = 0.0
        # Under TESTING, Flask raises again what the 500 handler should answer.
        app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
        app.test_client_class = BufferedClient
        made.append(app)
        return app

    yield make
    for app in made:
        close_app(app)
    json_logging.flush()


def close_app(app: Flask) -> None:
    """Stop an application's threads and close its connections."""
    from goblin_assistant import lifecycle

    lifecycle.stop(app)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An application with the defaults of `make_app`."""
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A test client of `app`."""
    return app.test_client()


def register(
    client: FlaskClient, email: str = "ada@example.com", password: str = PASSWORD
) -> dict[str, Any]:
    """Create an account; the answer holds access_token and refresh_token, as a login's does."""
    answer = client.post("/auth/register", json={"email": email, "password": password})
    assert answer.status_code in (200, 201), answer.get_data(as_text=True)
    body: dict[str, Any] = answer.get_json()
    if "access_token" not in body:
        answer = client.post("/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.get_data(as_text=True)
        body = answer.get_json()
    return body


@pytest.fixture
def auth_headers(client: FlaskClient) -> dict[str, str]:
    """Headers of a logged-in user of `app`."""
    return {"Authorization": f"Bearer {register(client)['access_token']}"}


class Server:
    """A running `goblin-assistant serve`. A thread reads its standard output, so that the pipe
    never fills.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.output: list[bytes] = []
        self.errors: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, into), daemon=True)
            for pipe, into in ((process.stdout, self.output), (process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, into: list[bytes]) -> None:
        for line in pipe:
            into.append(line)

    def log_lines(self, message: str | None = None) -> list[dict[str, Any]]:
        """Every log line so far, parsed; only those with `message` if given.

        A line that is not a JSON object fails the test.
        """
        lines = [json.loads(line) for line in list(self.output)]
        return [line for line in lines if message is None or line["message"] == message]

    def wait_for_line(self, message: str, timeout: float = 30.0, **fields: Any) -> dict[str, Any]:
        """The first log line with this message and these fields."""

        def find() -> dict[str, Any] | None:
            lines = self.log_lines(message)
            return next(
                (line for line in lines if all(line.get(k) == v for k, v in fields.items())), None
            )

        line: dict[str, Any] = wait_until(find, timeout, f"log line {message} {fields}")
        return line

    def metrics(self) -> dict[str, float]:
        """A scrape: from sample name with labels, as written, to value."""
        return parse_metrics(requests.get(self.url + "/metrics", timeout=60).text)

    def register(self, email: str = "ada@example.com", password: str = PASSWORD) -> dict[str, str]:
        """Create an account; the headers of its user."""
        account = {"email": email, "password": password}
        body = self.patiently("/auth/register", account)
        if "access_token" not in body:
            body = self.patiently("/auth/login", account)
        return {"Authorization": f"Bearer {body['access_token']}"}

    def patiently(self, path: str, body: dict[str, str]) -> dict[str, str]:
        """What it answers to a POST. A busy machine may hash no password in time: that is a 503,
        and asked again when its Retry-After says."""
        end = time.monotonic() + 120
        while True:
            answer = requests.post(self.url + path, json=body, timeout=60)
            if answer.status_code != 503 or time.monotonic() > end:
                break
            time.sleep(float(answer.headers["Retry-After"]))
        assert answer.status_code in (200, 201), answer.text
        made: dict[str, str] = answer.json()
        return made

    def wait_until_up(self) -> None:
        """Wait until it answers."""
        wait_until(self._up, 60, "the server to answer")

    def _up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(
                f"the server ended: {b''.join(self.output + self.errors).decode()}"
            )
        try:
            return requests.get(self.url + "/health/live", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 40.0) -> int:
        """Send a signal, wait for the end, return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait(timeout)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait until a stopping server has ended and its output is read; its exit code."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(30)
        return code


def parse_metrics(text: str) -> dict[str, float]:
    """`{'name{label="x"}': value}` of a scrape in Prometheus's text format."""
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


class Serve(Protocol):
    """`serve(GOBLIN_THREADS="8", ...)`: environment variables of the server."""

    def __call__(self, wait: bool = True, **env: str) -> Server: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A factory of real servers, each a process on a free port, killed at the end of the test."""
    with serving(tmp_path) as start:
        yield start


@contextmanager
def serving(base: Path) -> Iterator[Serve]:
    """The same for any scope: servers in folders of `base`, killed at the end of the block."""
    servers: list[Server] = []

    def start(wait: bool = True, **env: str) -> Server:
        port = int(env.pop("GOBLIN_PORT", free_port()))
        folder = base / f"server{len(servers)}"
        folder.mkdir(exist_ok=True)
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
            "GOBLIN_PORT": str(port),
            "RATELIMIT_ENABLED": "false",
            **env,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "goblin_assistant", "serve"],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server = Server(process, port)
        servers.append(server)
        if wait:
            server.wait_until_up()
        return server

    try:
        yield start
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.process.kill()
            server.process.wait()
            for pipe in (server.process.stdout, server.process.stderr):
                assert pipe is not None
                pipe.close()
