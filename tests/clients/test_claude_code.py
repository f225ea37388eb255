"""Claude Code, unmodified, where the loopback interface is the only network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import node
from tests.support.services import find_binary

FOLDER = Path(__file__).parent / "claude_code"
INSIDE = 'ip link set lo up && exec "$@"'


def test_claude_code_answers_calls_tools_and_compacts(tmp_path: Path) -> None:
    find_binary("ip")
    alone = [find_binary("unshare"), "--user", "--map-root-user", "--net"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"network namespaces are not allowed here: {tried.stderr.strip()}")
    node.installed(FOLDER)  # before the network is away
    done = subprocess.run(
        [*alone, "sh", "-c", INSIDE, "sh", sys.executable, "-m", "pytest", "-q",
        "-p", "no:cacheprovider", f"--basetemp={tmp_path}/inside", str(FOLDER / "inside.py")],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
