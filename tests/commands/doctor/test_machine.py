"""Lines about the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.commands.doctor import machine
from goblin_assistant.commands.doctor.machine import MIB
from tests.commands.doctor.conftest import SECRET, MakeContext, only, verdict
from tests.conftest import ROOT
from tests.support.services import find_binary


def doctor_under(limits: str, folder: Path, **env: str) -> dict[str, dict[str, Any]]:
    """The findings, by subject, of the command run by a shell that has set its limits."""
    done = subprocess.run(
        ["bash", "-c", f'{limits}; exec "$0" -m goblin_assistant doctor --json', sys.executable],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SECRET_KEY": SECRET,
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return {found["subject"]: found for found in json.loads(done.stdout)["findings"]}


def test_folder_passes_when_it_can_be_written(context: MakeContext) -> None:
    assert verdict(machine.folder(context())) == "ok"


def test_folder_fails_when_it_cannot_be_made(context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(machine.folder(context(instance_dir=tmp_path / "file" / "instance")))
    assert found.verdict == "failure"
    assert "not a directory" in found.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_fails_for_a_user_who_may_not_write_it(tmp_path: Path) -> None:
    """In development the secret is written while the settings are read: no traceback either."""
    (tmp_path / "instance").mkdir(mode=0o755)
    os.chown(tmp_path / "instance", 65534, 65534)
    # Root without the capability to ignore permissions is a user like others.
    become = [find_binary("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
    for environment in ("development", "production"):
        done = subprocess.run(
            [*become, sys.executable, "-m", "goblin_assistant", "doctor", "--json"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "GOBLIN_ENV": environment,
                **({"SECRET_KEY": SECRET} if environment == "production" else {}),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 1
        faults = [f for f in json.loads(done.stdout)["findings"] if f["verdict"] == "failure"]
        assert any("permission denied" in fault["message"] for fault in faults)
        assert all(fault["fix"] for fault in faults)


def test_disk_passes_with_room(context: MakeContext) -> None:
    assert verdict([machine.disk_line(50_000 * MIB, 100_000 * MIB)]) == "ok"


@pytest.mark.parametrize(
    ("free", "expected"), [(100 * MIB, "failure"), (1000 * MIB, "warning"), (0, "failure")]
)
def test_disk_fails_when_it_is_nearly_full(free: int, expected: str) -> None:
    assert verdict([machine.disk_line(free, 100_000 * MIB)]) == expected


def test_disk_passes_or_fails_by_the_file_system_of_the_folder(context: MakeContext) -> None:
    made = context()
    made.config.instance_dir.mkdir()
    found = os.statvfs(made.config.instance_dir)
    measured = only(machine.disk(made)).message
    assert f"of {found.f_blocks * found.f_frsize / MIB:,.0f}" in measured


def test_open_files_passes_with_many(tmp_path: Path) -> None:
    hard = int(
        subprocess.run(
            ["bash", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True
        ).stdout
    )
    if hard < 8192:
        pytest.skip("this machine allows fewer open files")
    assert doctor_under("true", tmp_path)["open files"]["verdict"] == "ok"


def test_open_files_fails_with_64(tmp_path: Path) -> None:
    found = doctor_under("ulimit -n 64", tmp_path)["open files"]
    assert found["verdict"] == "failure"
    assert "LimitNOFILE" in found["fix"]
    assert doctor_under("ulimit -n 1024", tmp_path)["open files"]["verdict"] == "warning"


def test_processes_passes_without_a_limit(tmp_path: Path) -> None:
    found = doctor_under("ulimit -u unlimited 2>/dev/null || ulimit -u 4096", tmp_path)
    assert found["processes"]["verdict"] == "ok"


def test_processes_fails_with_fewer_than_the_servers_threads(tmp_path: Path) -> None:
    found = doctor_under("ulimit -u 100", tmp_path, GOBLIN_THREADS="64")["processes"]
    assert found["verdict"] == "failure"
    assert "TasksMax" in found["fix"]


def test_clock_passes_when_it_agrees_with_what_was_asked(context: MakeContext) -> None:
    assert verdict(machine.clock(context(clocks=[("Redis", 0.4), ("the database", -1.1)]))) == "ok"


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ([("Redis", 0.1), ("the database", -4.0)], "warning"),
        ([("Redis", 3600.0)], "failure"),
        ([], "warning"),
    ],
)
def test_clock_fails_when_it_differs_or_nothing_was_asked(
    context: MakeContext, clocks: list[tuple[str, float]], expected: str
) -> None:
    assert verdict(machine.clock(context(clocks=clocks))) == expected
