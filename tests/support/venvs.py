"""Virtual environments for Python clients whose requirements are not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.downloads import made_once


def python_with(project: Path) -> Path:
    """The interpreter of an environment with what `project`'s requirements.txt pins."""
    requirements = project / "requirements.txt"

    def make(folder: Path) -> subprocess.CompletedProcess[str]:
        # Without activation scripts nothing in it holds the folder's path, which changes.
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            return made
        return subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder),
            "install", "--quiet", "--no-deps", "--retries=5", "-r", str(requirements)],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    pins = requirements.read_bytes() + sys.version.encode()
    return made_once(project.name, pins, make) / "bin" / "python"
