"""Real Redis, PostgreSQL, nginx and Chroma on free ports, for tests that a fake would not satisfy.

A test whose program is not installed is skipped. With GOBLIN_TEST_REQUIRE_SERVICES=1 it fails.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def find_binary(name: str, *folders: str) -> str:
    """The path of a program, or skip (fail when services are required)."""
    path = shutil.which(
        name,
        path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin", *folders]),
    )
    if path is None:
        if os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


def _own_ports() -> Iterator[int]:
    """Ports below the range of outgoing connections, in a random order. Each worker of pytest-xdist
    has its own, so that none gets a port that another has chosen and not opened yet."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(range(12000 + worker, 32000, workers))
    random.SystemRandom().shuffle(ports)
    return itertools.cycle(ports)


_ports = _own_ports()


def free_port() -> int:
    """A free port that no other test of this run gets."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports never end")


def _wait(predicate: Callable[[], Any], what: str, timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not start within {timeout} s")
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RedisServer:
    """redis-server without persistence. `pause()` makes it hang: it accepts and does not answer."""

    def __init__(self, folder: Path) -> None:
        self.binary = find_binary("redis-server")
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start (again) on the same port, empty."""
        self.process = subprocess.Popen(
            [
                self.binary,
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        _wait(lambda: _listens(self.port), "redis-server")

    def stop(self) -> None:
        """Kill it; clients see a refused connection."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class PostgresServer:
    """A PostgreSQL cluster in a temporary folder, without fsync.

    It refuses to run as root, so root becomes `postgres`.
    """

    def __init__(self, folder: Path) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        folders = [str(path) for path in versions]
        self.binary = find_binary("postgres", *folders)
        initdb = find_binary("initdb", *folders)
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        data = folder / "data"
        data.mkdir(parents=True)
        self._as: list[str] = []
        self.user = "postgres"
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self._as = [
                find_binary("setpriv"),
                f"--reuid={account.pw_uid}",
                f"--regid={account.pw_gid}",
                "--clear-groups",
                "--pdeathsig=INT",  # a test run that is killed leaves no server behind
            ]
            os.chown(data, account.pw_uid, account.pw_gid)
            for parent in data.parents:  # pytest's folders are private to root
                if parent.stat().st_uid == 0 and str(parent).startswith(("/tmp/", "/var/tmp/")):
                    parent.chmod(parent.stat().st_mode | 0o011)
        subprocess.run(
            [*self._as, initdb, "-D", str(data), "-A", "trust", "--no-sync", "-U", self.user],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=data,
        )

    def start(self) -> None:
        """Start (again) on the same port, with the data of before."""
        self.process = subprocess.Popen(
            [
                *self._as, self.binary, "-D", str(self.folder / "data"), "-p", str(self.port),
                "-k", "", "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=300",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder / "data",
        )  # fmt: skip
        _wait(self._answers, "postgres")

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back, clients are disconnected."""
        if self.process is not None:
            self.resume()
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP to all of its processes: connections stay open without answers."""
        assert self.process is not None
        for pid in (self.process.pid, *self._backends()):
            with contextlib.suppress(ProcessLookupError):  # a worker that has just ended
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        for pid in (*self._backends(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _backends(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def url(self, database: str) -> str:
        """The address of a database, as DATABASE_URL takes it."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


def balanced(*ports: int) -> str:
    """nginx in front of instances on these ports; for `Nginx.start`."""
    servers = "\n".join(
        f"    server 127.0.0.1:{port} max_fails=2 fail_timeout=5s;" for port in ports
    )
    return f"""
upstream goblin {{
    zone goblin 64k;
    least_conn;
{servers}
    keepalive 32;
}}
server {{
    listen 127.0.0.1:{{port}};
    location / {{
        proxy_pass http://goblin;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_next_upstream error timeout http_502;
        proxy_next_upstream_tries 2;
        proxy_buffering off;
    }}
}}
"""


@contextlib.contextmanager
def shared_servers(folder: Path) -> Iterator[tuple[PostgresServer, RedisServer]]:
    """PostgreSQL and Redis, as several instances share them."""
    with contextlib.ExitStack() as stack:
        postgres = PostgresServer(folder / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        (folder / "redis").mkdir()
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        yield postgres, redis


class Nginx:
    """nginx with the test's configuration. `{port}` and `{folder}` are filled in."""

    def __init__(self, folder: Path) -> None:
        self.binary = find_binary("nginx")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, http: str) -> None:
        """Run with `http` as the contents of the http block."""
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        body = http.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
        config = self.folder / "nginx.conf"
        config.write_text(
            f"worker_processes 1;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log;\nevents {{ worker_connections 1024; }}\n"
            f"http {{\n{temporary}access_log off;\n{body}\n}}\n"
        )
        self.process = subprocess.Popen(
            [self.binary, "-c", str(config), "-p", str(self.folder), "-g", "daemon off;"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _wait(lambda: self._up(), "nginx")

    def _up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            assert self.process.stderr is not None
            raise AssertionError(f"nginx ended: {self.process.stderr.read().decode()}")
        return _listens(self.port)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """The test's own running Redis; `.url`."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One running PostgreSQL for the session; do not stop it."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of a new, empty database of the session's PostgreSQL."""
    return postgres.create_database()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A running PostgreSQL that the test may stop and start."""
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """nginx, not yet running: `nginx.start(http_block)`."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    server = Nginx(folder)
    yield server
    server.stop()


class Chroma:
    """A Chroma server with a data folder of its own; `.url`."""

    def __init__(self, folder: Path) -> None:
        self.binary = find_binary("chroma", str(Path(sys.executable).parent))
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start (again) on the same port, with the data of before."""
        self.process = subprocess.Popen(
            [
                self.binary,
                "run",
                "--path",
                str(self.folder),
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
            ],
            cwd=self.folder,
            env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait(lambda: _listens(self.port), "chroma")

    def stop(self) -> None:
        """Kill it; clients see a refused connection."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def chroma(tmp_path: Path) -> Iterator[Chroma]:
    """A running Chroma that the test may stop and start."""
    folder = tmp_path / "chroma"
    folder.mkdir()
    server = Chroma(folder)
    server.start()
    yield server
    server.stop()
