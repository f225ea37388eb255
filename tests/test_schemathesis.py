"""Schemathesis against a running server: requests made from the document, good and bad; no answer may contradict it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import requests

from tests.conftest import PASSWORD, Serve

SEED = "20261123"


def admin_token(url: str, folder: Path) -> str:
    """Create an admin as an operator does, by the command line, and log in."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "GOBLIN_ENV": "development",
        "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
    }
    subprocess.run(
        [
            sys.executable, "-c", "from goblin_assistant.cli import main; main()",
            "users", "create", "admin@example.com", "--role", "admin", "--password-stdin",
        ],
        input=PASSWORD, text=True, env=environment, cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    answer = requests.post(f"{url}/auth/login", json={"email": "admin@example.com", "password": PASSWORD}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def test_no_answer_contradicts_the_document(serve: Serve, tmp_path: Path) -> None:
    server = serve(GOBLIN_ACCESS_TOKEN_SECONDS="3600")
    token = admin_token(server.url, tmp_path / "server0")
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
            "--header", f"Authorization: Bearer {token}", "--checks", "all", "--mode", "all",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "12", "--seed", SEED, "--workers", "2",
            "--generation-database", "none", "--no-color", "--suppress-health-check", "all",
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    server.log_lines()  # every line is JSON
    assert not server.log_lines("unhandled_exception")
