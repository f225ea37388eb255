"""The image of ops/docker, built and run: few rights, nothing extra inside, a drain on SIGTERM."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from goblin_assistant.web.page_files import page_files
from tests.conftest import free_port, wait_until
from tests.support.accounts_fixtures import engine_for
from tests.support.books import add_user
from tests.support.databases import query
from tests.support.images import Containers, built_image
from tests.support.runbooks import FOLDER, site_block
from tests.support.services import PostgresServer, find_binary

NAME = "goblin-assistant-1"
"""As the runbooks look for it."""
CHAT = {"model": "sim/echo", "messages": [{"role": "user", "content": "one two three four"}]}
STREAM = {
    "model": "sim/echo",
    "messages": [{"role": "user", "content": " ".join(f"word{n}" for n in range(60))}],
    "stream": True,
}
GOBLIN_TOML = """\
[providers.sim]
kind = "echo"
options = { tokens_per_second = 20 }
"""
DATA = "/var/lib/goblin-assistant"
WALK = """
import json, os, stat
found = []
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
    for name in folders + files:
        path = os.path.join(folder, name)
        state = os.lstat(path)
        link = stat.S_ISLNK(state.st_mode)
        found.append([path, state.st_uid, state.st_mode & 0o7777 if not link else 0])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Containers, str]]:
    """The containers, and the tag of the image."""
    with built_image(tmp_path_factory.mktemp("image")) as built:
        yield built


class Running:
    """A container of the image as an operator would start it: `serve` on a port of this machine."""

    def __init__(self, containers: Containers, tag: str, folder: Path) -> None:
        self.containers = containers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "secret-key").write_text("s" * 48 + "\n")
        (folder / "goblin.toml").write_text(GOBLIN_TOML)
        self.options = [
            *("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
            *("--memory", "512m", "--network", "host", "--no-healthcheck"),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
            *("--tmpfs", "/tmp", "--volume", f"data:{DATA}"),
            *("--volume", f"{folder / 'secret-key'}:/run/secrets/secret_key:ro"),
            *("--volume", f"{folder / 'goblin.toml'}:/etc/goblin-assistant/goblin.toml:ro"),
            *("--env", "SECRET_KEY_FILE=/run/secrets/secret_key"),
            *("--env", "GOBLIN_HOST=127.0.0.1", "--env", f"GOBLIN_PORT={self.port}", tag),
        ]

    def once(self, *command: str) -> str:
        """What a command of the product prints, in a container of its own."""
        return self.containers.podman("run", "--rm", *self.options, *command)

    def start(self) -> None:
        """Serve, and wait until it is ready."""
        self.containers.podman("run", "--detach", "--name", NAME, *self.options)
        wait_until(self._ready, 120, "the container to be ready")

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/ready", timeout=60).status_code == 200
        except requests.RequestException:
            return False

    def inside(self, *command: str) -> str:
        """What a program in the running container prints."""
        return self.containers.podman("exec", NAME, *command)


@pytest.fixture(scope="module")
def app(
    image: tuple[Containers, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Running, dict[str, str]]:
    """A container that serves, and the headers of an API key."""
    folder = tmp_path_factory.mktemp("container")
    running = Running(*image, folder)
    running.once("db", "upgrade")
    password = folder / "password"
    password.write_text("correct horse battery staple")
    running.once("config")
    made = running.containers.podman(
        *("run", "--rm", "--volume", f"{password}:/password:ro", "--entrypoint", "sh"),
        *running.options,
        *("-c", "goblin-assistant users create ada@example.com --password-stdin < /password"),
    )
    assert "ada@example.com" in made
    key = json.loads(
        running.once("keys", "create", "ada@example.com", "--name", "image", "--json")
    )["key"]
    running.start()
    return running, {"Authorization": f"Bearer {key}"}


def test_it_answers_health_and_a_chat(app: tuple[Running, dict[str, str]]) -> None:
    running, headers = app
    assert requests.get(f"{running.url}/health", timeout=30).status_code == 200
    answer = requests.post(
        f"{running.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert "one two three four" in answer.json()["choices"][0]["message"]["content"]


def test_it_serves_the_page_with_all_of_its_files(app: tuple[Running, dict[str, str]]) -> None:
    running, _ = app
    assert f"/static/{page_files().hash}/" in requests.get(running.url, timeout=60).text
    for name, file in page_files().files.items():
        answer = requests.get(f"{running.url}/static/{page_files().hash}/{name}", timeout=60)
        assert (answer.status_code, answer.content) == (200, file.plain), name


def test_its_health_check_is_a_command_that_works_inside(
    app: tuple[Running, dict[str, str]], image: tuple[Containers, str]
) -> None:
    running, _ = app
    (described,) = json.loads(running.containers.podman("image", "inspect", image[1]))
    check = described.get("HealthCheck") or described["Healthcheck"]
    kind, *command = check["Test"]
    assert kind == "CMD"
    running.inside(*command)
    with pytest.raises(AssertionError, match="Connection refused"):
        running.containers.podman("exec", "--env", "GOBLIN_PORT=1", NAME, *command)
    labels = described["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert described["Config"]["User"] == "10001:10001"


def test_it_is_nobody_and_can_write_to_its_folder_only(
    app: tuple[Running, dict[str, str]],
) -> None:
    running, _ = app
    assert running.inside("id", "-u").strip() == "10001"
    assert running.inside("id", "-g").strip() == "10001"
    running.inside("touch", f"{DATA}/x", "/tmp/x")
    for path in ("/x", "/opt/goblin-assistant/x", "/etc/goblin-assistant/x", "/usr/bin/x"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            running.inside("touch", path)
    status = running.inside("cat", "/proc/1/status")
    rights = dict(line.split(":", 1) for line in status.splitlines())
    assert int(rights["CapEff"], 16) == int(rights["CapBnd"], 16) == 0
    assert rights["NoNewPrivs"].strip() == "1"


def test_nothing_is_in_the_image_that_does_not_belong_there(image: tuple[Containers, str]) -> None:
    containers, tag = image
    shown = containers.podman(
        *("run", "--rm", "--network", "none", "--no-healthcheck"),
        *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
        *("--user", "0", "--entrypoint", "python", tag, "-c", WALK),
    )
    files: list[tuple[str, int, int]] = json.loads(shown)
    paths = [path for path, _, _ in files]
    assert "/opt/goblin-assistant/bin/goblin-assistant" in paths
    names = {path.rpartition("/")[2] for path in paths}
    unwanted = {".git", ".env", ".flaskenv", "conftest.py", "goblin.db", "left.db", "secret_key"}
    assert names & {*unwanted, "gcc", "cc", "make", "git"} == set()
    ours = [path for path in paths if path.startswith("/opt/goblin-assistant/")]
    assert [path for path in ours if path.endswith(("/bin/pip", "/pip", "/setuptools"))] == []
    assert not [path for path in paths if path.startswith(("/build", "/wheels"))]
    # What the server can change: its folder. What everybody can: folders for temporary files.
    assert [path for path, owner, _ in files if owner == 10001] == [DATA]
    assert {path for path, _, mode in files if mode & 0o002} <= {
        "/tmp",
        "/var/tmp",
        "/run/lock",
        "/var/lock",
    }


def test_the_runbooks_read_its_log_with_dockers_commands(
    app: tuple[Running, dict[str, str]], tmp_path: Path
) -> None:
    running, _ = app
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nexec {shlex.join(running.containers.podman_command())} "$@"\n')
    docker.chmod(0o755)
    find_binary("jq")
    done: subprocess.CompletedProcess[str] | None = None

    def is_told() -> bool:
        nonlocal done
        done = subprocess.run(
            ["bash", "-c", site_block(FOLDER / "README.md") + "logs | jq -r .message"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOGS": "docker"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return "ready" in done.stdout.splitlines()

    # Readiness is answered before the line about it is written.
    wait_until(is_told, 120, "the line `ready` in Docker's log")


def test_a_backup_of_postgresql_is_made_and_restored_inside(
    app: tuple[Running, dict[str, str]], postgres: PostgresServer, tmp_path: Path
) -> None:
    running, _ = app
    folder = tmp_path / "backups"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    kept, other = postgres.create_database(), postgres.create_database()

    def inside(url: str, *command: str) -> str:
        options = ("--env", f"DATABASE_URL={url}", "--volume", f"{folder}:/backups")
        return running.containers.podman("run", "--rm", *options, *running.options, *command)

    inside(kept, "db", "upgrade")
    engine = engine_for(kept)
    add_user(engine, "ada@example.com")
    engine.dispose()
    assert "/backups/goblin-" in inside(kept, "backup", "/backups")
    inside(other, "restore", "/backups")
    assert query(other, "SELECT email FROM users") == [("ada@example.com",)]


def test_a_stream_that_runs_ends_whole_after_sigterm(app: tuple[Running, dict[str, str]]) -> None:
    running, headers = app
    with requests.post(
        f"{running.url}/v1/chat/completions",
        json=STREAM,
        headers=headers,
        timeout=120,
        stream=True,
    ) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith(b"data: ")
        running.containers.podman("kill", "--signal", "TERM", NAME)
        rest: list[Any] = [line for line in lines if line]
    assert rest[-1] == b"data: [DONE]"
    assert any(b"word59" in line for line in rest)
    assert running.containers.podman("wait", NAME).strip() == "0"
    log = [json.loads(line) for line in running.containers.podman("logs", NAME).splitlines()]
    assert "draining" in [line["message"] for line in log]
    assert log[-1]["message"] == "server_stopped"
