"""A server that cannot start logs one line of JSON and exits with 1."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, free_port


def start(folder: Path, limits: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """`serve` under limits of the shell, until it ends."""
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "GOBLIN_ENV": "development",
        "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
        "GOBLIN_PORT": str(free_port()),
        **env,
    }
    command = f"{limits} exec {sys.executable} -m goblin_assistant serve"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=variables,
        capture_output=True,
        timeout=60,
        check=False,
    )


def why(ended: subprocess.CompletedProcess[bytes]) -> str:
    """The one `cannot_start` line; every line is JSON, and there is no traceback."""
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    (found,) = [line for line in lines if line["message"] == "cannot_start"]
    return str(found.get("error"))


@pytest.mark.parametrize("kilobytes", [60_000, 100_000, 200_000, 400_000])
def test_too_little_memory_is_said_in_one_line(tmp_path: Path, kilobytes: int) -> None:
    assert why(start(tmp_path, f"ulimit -v {kilobytes};"))


def test_too_few_descriptors_are_said_in_one_line(tmp_path: Path) -> None:
    assert "Too many open files" in why(start(tmp_path, "ulimit -n 9;"))


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in why(
        start(tmp_path, GOBLIN_INSTANCE_DIR=str(tmp_path / "file" / "x"))
    )


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "goblin.db"
    assert "unable to open" in why(start(tmp_path, DATABASE_URL=f"sqlite:///{missing}"))


@pytest.mark.parametrize("name", ["GOBLIN_PORT", "GOBLIN_METRICS_PORT"])
def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in why(start(tmp_path, **{name: str(taken.getsockname()[1])}))


def test_a_wrong_setting_still_exits_2_with_its_name(tmp_path: Path) -> None:
    ended = start(tmp_path, GOBLIN_THREADS="many")
    assert ended.returncode == 2
    assert b"GOBLIN_THREADS" in ended.stderr
