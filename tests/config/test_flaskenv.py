"""`flask --app wsgi run` on a fresh clone: `.flaskenv` makes it a development server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, wait_until
from tests.support.services import free_port


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What Flask finds in the folder of a fresh clone."""
    for name in (".flaskenv", "wsgi.py"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def flask(clone: Path, *args: str, **environ: str) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(clone), **environ}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *args]
    return subprocess.Popen(
        command, cwd=clone, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def test_flask_run_serves_in_development_without_any_setting(clone: Path) -> None:
    port = free_port()
    process = flask(clone, "run", "--port", str(port))

    def answer() -> requests.Response | None:
        assert process.poll() is None, "flask run has ended"
        try:
            return requests.get(f"http://127.0.0.1:{port}/health/live", timeout=2)
        except requests.RequestException:
            return None

    try:
        assert wait_until(answer, 30).status_code == 200
        assert (clone / "instance" / "development_secret_key").exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_an_operators_setting_wins_over_flaskenv(clone: Path, where: str) -> None:
    if where == ".env":
        (clone / ".env").write_text("GOBLIN_ENV=production\n")
        process = flask(clone, "routes")
    else:
        process = flask(clone, "routes", GOBLIN_ENV="production")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"SECRET_KEY: required unless GOBLIN_ENV=development" in errors
