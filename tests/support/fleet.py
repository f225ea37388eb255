"""Several instances that share PostgreSQL and Redis, behind nginx: a deployment in small."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

from tests.support.services import find_binary, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120.0
SECRET = "0123456789abcdef" * 3

LOCATION = """
        proxy_pass http://goblin;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_connect_timeout 2s;
        proxy_read_timeout 310s;
        proxy_next_upstream error timeout http_502;
        proxy_next_upstream_tries 3;
"""
UNBUFFERED = "proxy_buffering off;"


def wait_for(what: str, predicate: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until it is true. Raises AssertionError that names it."""
    end = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class Instance:
    """One `goblin-assistant serve`, which may be ended and started again on its port."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Its own address."""
        return f"http://127.0.0.1:{self.port}"

    def begin(self, prefix: Sequence[str] = ()) -> None:
        """Start it without waiting. `prefix` is a command that runs it."""
        self.port = self.port or free_port()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "goblin_assistant", "serve"],
                cwd=self.folder,
                env={**self.environment, "GOBLIN_PORT": str(self.port)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Start it and wait until it is ready. At the first start, another port if that is
        taken."""
        first = not self.port
        self.begin()
        for _ in range(5):
            wait_for(f"{self.folder.name} to be ready", lambda: self.ready() or self.ended())
            if not self.ended():
                return
            assert first, self.log.read_text()
            self.port = 0
            self.begin()
        raise AssertionError(self.log.read_text())

    def ready(self) -> bool:
        """Whether it takes requests."""
        try:
            return requests.get(self.url + "/health/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def ended(self) -> bool:
        """Whether there is no such process."""
        return self.process is None or self.process.poll() is not None

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, and wait; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and does not answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Fleet:
    """`count` instances in production, on one database."""

    def __init__(self, folder: Path, count: int, toml: str = "", **environment: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "goblin.toml").write_text(toml)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "SECRET_KEY": SECRET,
            "GOBLIN_CONFIG_FILE": str(folder / "goblin.toml"),
            "GOBLIN_INSTANCES": str(count),
            "GOBLIN_TRUSTED_PROXY": "127.0.0.1",
            "GOBLIN_THREADS": "32",
            **environment,
        }
        self.instances = [
            Instance(
                folder / f"instance{number}",
                {
                    **self.environment,
                    "GOBLIN_INSTANCE_DIR": str(folder / f"instance{number}" / "data"),
                },
            )
            for number in range(count)
        ]

    def command(self, *arguments: str, typed: str = "") -> str:
        """What `goblin-assistant ARGUMENTS` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "goblin_assistant", *arguments],
            cwd=self.folder,
            env={**self.environment, "GOBLIN_INSTANCE_DIR": str(self.folder / "data")},
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Start all instances. The database must be migrated."""
        for instance in self.instances:
            instance.begin()
        for instance in self.instances:
            if instance.ended():
                instance.port = 0
                instance.start()
            wait_for("an instance to be ready", instance.ready)

    def restart_one_by_one(self) -> None:
        """A rolling restart: each instance ends by SIGTERM, and the next one waits until it is
        ready again."""
        for instance in self.instances:
            instance.stop()
            instance.start()

    def stop(self) -> None:
        """Kill all."""
        for instance in self.instances:
            instance.kill()

    def upstream(self) -> str:
        """nginx's upstream block. A refused connection is tried elsewhere at once, so no instance
        has to be counted out."""
        servers = "".join(
            f"    server 127.0.0.1:{one.port} max_fails=0;\n" for one in self.instances
        )
        return (
            f"upstream goblin {{\n    zone goblin 64k;\n    least_conn;\n{servers}"
            "    keepalive 32;\n}\n"
        )


class Proxy:
    """nginx before a fleet, with a port for each named location. `urls` by name."""

    def __init__(self, folder: Path, upstream: str, locations: Mapping[str, str]) -> None:
        self.binary = find_binary("nginx")
        self.folder = folder
        self.upstream = upstream
        self.locations = locations
        self.urls: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Run it, on other ports if one is taken."""
        for _ in range(5):
            ports = {name: free_port() for name in self.locations}
            self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            config = self.folder / "nginx.conf"
            config.write_text(self._config(ports))
            with tempfile.TemporaryFile() as errors:
                self.process = subprocess.Popen(
                    [
                        self.binary, "-c", str(config), "-p", str(self.folder),
                        "-g", "daemon off;",
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )  # fmt: skip
            wait_for("nginx", lambda: self._ended() or all(map(_answers, self.urls.values())))
            if not self._ended():
                return
        raise AssertionError((self.folder / "error.log").read_text())

    def _ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def _config(self, ports: Mapping[str, int]) -> str:
        kept = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        servers = "".join(
            f"server {{\n    listen 127.0.0.1:{ports[name]};\n    client_max_body_size 20m;\n"
            f"    location ^~ /metrics {{ return 404; }}\n"
            f"    location / {{{LOCATION}        {more}\n    }}\n}}\n"
            for name, more in self.locations.items()
        )
        return (
            f"worker_processes 1;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log;\nevents {{ worker_connections 2048; }}\n"
            f"http {{\n{kept}access_log off;\nproxy_http_version 1.1;\n"
            f"{self.upstream}{servers}}}\n"
        )

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


def _answers(url: str) -> bool:
    try:
        requests.get(url + "/health/live", timeout=5)
    except requests.RequestException:
        return False
    return True
