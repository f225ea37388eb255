"""Schemathesis makes good and bad requests from the OpenAPI document. No answer of the running
server may contradict it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Serve, Server

SEED = "20261123"

# These end the session that the requests use.
ENDING = ("POST /auth/logout", "POST /auth/password", "PATCH /admin/users/{user_id}")

# Rules that a schema cannot express. A request that fits the schema may still get a 400 for the
# details of an e-mail address, a new password of fewer than 8 characters, an `expires_at` in the
# past, a model that does not exist, a range of days or a cursor of /usage, or because the provider
# refuses it.
MAY_REFUSE = (
    "^/(auth/register|auth/password|auth/keys|admin/users.*|admin/keys/.*|settings/|usage"
    "|chat/completions|v1/chat/completions|v1/embeddings|v1/messages(/count_tokens)?|v1/responses)$"
)
CONFIG = f"""
[[operations]]
include-path-regex = "{MAY_REFUSE}"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409"]
"""


def headers_of_an_admin(server: Server, folder: Path, email: str) -> dict[str, str]:
    """Register, then make the user an admin in the database. The server reads the role with each
    request."""
    headers = server.register(email)
    with sqlite3.connect(folder / "instance" / "goblin.db", timeout=10) as database:
        assert (
            database.execute("UPDATE users SET role = 'admin' WHERE email = ?", (email,)).rowcount
            == 1
        )
    database.close()
    return headers


def run(server: Server, headers: dict[str, str], folder: Path, *choice: str) -> None:
    """One run over the operations of `choice`; fails with the tool's report."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"{server.url}/openapi.json",
            "--header", f"Authorization: {headers['Authorization']}", "--checks", "all", "--mode",
            "all",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", SEED,
            "--workers", "1",
            "--generation-database", "none", "--no-color", "--suppress-health-check", "all",
            "--continue-on-failure",
            *choice,
        ],
        capture_output=True, text=True, cwd=folder, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    assert " passed" in done.stdout


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(GOBLIN_ACCESS_TOKEN_SECONDS="3600", GOBLIN_THREADS="16")


def test_no_answer_contradicts_the_document(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "server0"
    headers = headers_of_an_admin(server, folder, "admin@example.com")
    run(server, headers, tmp_path, *(part for name in ENDING for part in ("--exclude-name", name)))
    for number, name in enumerate(ENDING):
        headers = headers_of_an_admin(server, folder, f"admin{number}@example.com")
        run(server, headers, tmp_path, "--include-name", name)
    server.log_lines()  # every line is JSON
    assert not server.log_lines("unhandled_exception")
