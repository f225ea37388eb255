"""Tests of a program that is run where the loopback interface is the only network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import node
from tests.support.services import find_binary

_INSIDE = 'ip link set lo up && exec "$@"'


def run_alone(project: Path, tmp_path: Path, *, passed: int, large: bool = False) -> None:
    """Run the tests of a project, such as claude_code/inside.py, after its packages are installed.
    `passed` of them pass, and none is skipped."""
    find_binary("ip")
    alone = [find_binary("unshare"), "--user", "--map-root-user", "--net"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"network namespaces are not allowed here: {tried.stderr.strip()}")
    node.installed(project, large=large)  # before the network is away
    done = subprocess.run(
        [*alone, "sh", "-c", _INSIDE, "sh", sys.executable, "-m", "pytest", "-q",
        "-p", "no:cacheprovider", f"--basetemp={tmp_path}/inside", str(project / "inside.py")],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout
