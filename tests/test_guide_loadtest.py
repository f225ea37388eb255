"""The production guide's commands for installing and for the load test, without a package index and
with less time under load."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import requests

from tests.conftest import ROOT, Serve, wait_until
from tests.support.services import find_binary, free_port
from tests.test_docs import GUIDE, blocks


def bash(block: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    """Run a block as it is pasted into a shell whose environment is activated."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_guides_installation_gives_a_working_command(tmp_path: Path) -> None:
    """The tests' own packages stand for the index. So it fails, too, when constraints.txt names
    other versions than those that are tested."""
    (block,) = blocks(GUIDE, "install")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    job = bash(
        block + "\ngoblin-assistant --version\nlocust --version\n",
        clone,
        PYTHONPATH=sysconfig.get_path("purelib"),
        PIP_NO_INDEX="1",
        # The switch is inverted: https://github.com/pypa/pip/issues/5735
        PIP_NO_BUILD_ISOLATION="0",
    )
    printed, _ = job.communicate(timeout=120)
    assert job.returncode == 0, printed
    assert "goblin-assistant, version" in printed
    assert printed.splitlines()[-1].startswith("locust ")
    assert (clone / ".venv" / "bin" / "goblin-assistant").exists()


def test_the_guides_headless_run_says_that_it_measures_429s(serve: Serve, tmp_path: Path) -> None:
    (block,) = blocks(GUIDE, "headless")
    server = serve(RATELIMIT_ENABLED="true")
    # More users in less time: about as many requests.
    changes = {
        "localhost:8001": f"127.0.0.1:{server.port}",
        "--users 10 --spawn-rate 2 --run-time 60s": "--users 50 --spawn-rate 50 --run-time 12s",
    }
    job = bash(edited(block, changes), ROOT)
    printed, _ = job.communicate(timeout=90)
    assert "This run measured 429s" in printed
    assert "RATELIMIT_ENABLED=false" in printed
    assert "Traceback" not in printed


def test_the_guides_web_page_shows_the_verdicts_tab(serve: Serve) -> None:
    (block,) = blocks(GUIDE, "web")
    server, port = serve(), free_port()
    block = edited(block, {"localhost:8001": f"127.0.0.1:{server.port}"})
    job = bash(block, ROOT, LOCUST_WEB_PORT=str(port), LOCUST_WEB_HOST="127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(url), 30, "Locust's web page")
    assert requests.get(url + "/verdict", timeout=60).status_code == 200
    os.killpg(job.pid, signal.SIGTERM)
    printed, _ = job.communicate(timeout=30)
    assert "Traceback" not in printed


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).status_code == 200
    except requests.RequestException:
        return False


def test_the_guides_make_loadtest_prints_the_verdict(tmp_path: Path) -> None:
    find_binary("make")
    (block,) = blocks(GUIDE, "load")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" --seconds 6\n')
    python.chmod(0o755)
    for stamp in (".made", ".runtime", ".dev"):  # set up already
        (tmp_path / ".venv" / stamp).touch()
    job = bash(block, tmp_path, PYTHONPATH=str(ROOT), PYTHON=sys.executable)
    printed, _ = job.communicate(timeout=120)
    # Whether the targets are met is the machine's matter.
    assert "Targets of the production guide, measured over" in printed
    assert "Verdict: " in printed
    assert [title for title in TITLES if title not in printed] == []


TITLES = ("Health checks", "Chat completions", "Auth login")


def edited(block: str, changes: dict[str, str]) -> str:
    """The block with other addresses and times, which must be in it."""
    for old, new in changes.items():
        assert old in block
        block = block.replace(old, new)
    return block
