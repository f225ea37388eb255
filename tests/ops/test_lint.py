"""The linters of shell, YAML, Dockerfiles and compose files find nothing in ops/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.alert_rules import OPS, ROOT
from tests.support.services import find_binary

BIN = str(Path(sys.executable).parent)
SCRIPTS = sorted(
    path
    for path in OPS.rglob("*")
    if path.is_file() and path.read_bytes()[:2] == b"#!" and path.suffix != ".py"
)
DOCKERFILES = sorted(OPS.rglob("Dockerfile*"))
COMPOSE_FILES = sorted(OPS.rglob("compose*.yaml"))


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A linter of the environment that the tests run in."""
    return subprocess.run(
        [find_binary(program, BIN), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    assert SCRIPTS
    assert_clean(run("shellcheck", "--enable=quote-safe-variables", *map(str, SCRIPTS)))


def test_every_script_may_be_executed() -> None:
    assert [str(path) for path in SCRIPTS if not os.access(path, os.X_OK)] == []


def test_yamllint_finds_nothing() -> None:
    assert_clean(run("yamllint", "--strict", "-c", str(OPS / ".yamllint.yaml"), str(OPS)))


def test_hadolint_finds_nothing_in_the_dockerfiles() -> None:
    assert DOCKERFILES
    assert_clean(run("hadolint", *map(str, DOCKERFILES)))


def test_compose_files_are_valid_by_the_schema_of_the_compose_specification() -> None:
    assert COMPOSE_FILES
    assert_clean(
        run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, COMPOSE_FILES))
    )


@pytest.mark.parametrize(
    ("program", "name", "text", "options"),
    [
        ("shellcheck", "script.sh", "#!/bin/sh\ncat $1\n", []),
        ("yamllint", "file.yaml", "a: 1\na: 2\n", ["-c", str(OPS / ".yamllint.yaml")]),
        ("hadolint", "Dockerfile", "FROM debian\nRUN apt-get install curl\n", []),
        (
            "check-jsonschema",
            "compose.yaml",
            "services: {a: {image: b, port: [1]}}\n",
            ["--builtin-schema", "vendor.compose-spec"],
        ),
    ],
)
def test_the_linters_find_a_fault(
    program: str, name: str, text: str, options: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert run(program, *options, str(tmp_path / name)).returncode == 1
