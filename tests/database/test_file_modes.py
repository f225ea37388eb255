"""Only the owner may read what an instance keeps."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text

from goblin_assistant.database.engine import engine_options
from tests.conftest import ROOT, Serve


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_sqlites_files_are_private_also_those_of_an_earlier_release(tmp_path: Path) -> None:
    path = tmp_path / "goblin.db"
    for _ in range(2):
        url = f"sqlite:///{path}"
        engine = create_engine(url, **engine_options(url, 2))
        try:
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS t (x)"))
                files = sorted(tmp_path.glob("goblin.db*"))
                assert path in files
                assert {mode(file) for file in files} == {0o600}
        finally:
            engine.dispose()
        path.chmod(0o644)


def test_a_new_instance_folder_is_private(tmp_path: Path) -> None:
    from goblin_assistant import create_app
    from goblin_assistant.config import Config
    from tests.conftest import close_app

    folder = tmp_path / "new" / "instance"
    app = create_app(Config.load({"env": "development", "instance_dir": folder}, environ={}))
    try:
        assert mode(folder) == 0o700
    finally:
        close_app(app)


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the processes of the test inherit."""
    before = os.umask(request.param)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.usefixtures("umask")
def test_whatever_the_umask_is_nobody_else_reads_what_an_instance_keeps(
    serve: Serve, tmp_path: Path
) -> None:
    home = tmp_path / "srv"
    instance = home / "goblin" / "instance"
    variables = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
        "GOBLIN_ENV": "development", "GOBLIN_INSTANCE_DIR": str(instance),
    }  # fmt: skip
    goblin = [sys.executable, "-m", "goblin_assistant"]

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [*goblin, *arguments], env=variables, cwd=tmp_path, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode()

    run("db", "upgrade")  # before the first start: it makes the folders
    server = serve(GOBLIN_INSTANCE_DIR=str(instance), GOBLIN_LOG_FILE=str(home / "server.log"))
    headers = server.register()
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=body, headers=headers, timeout=60
    )
    assert answer.status_code == 200
    run("backup", str(home / "backups"))

    made = [home, *home.rglob("*")]
    assert {path.suffix for path in made} >= {".db", ".jsonl", ".log"}
    assert {path.name: oct(mode(path)) for path in made if mode(path) & 0o077} == {}
