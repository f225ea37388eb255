"""The machine and versions of a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "Flask",
    "Werkzeug",
    "waitress",
    "urllib3",
    "requests",
    "orjson",
    "pydantic",
    "SQLAlchemy",
    "argon2-cffi",
    "locust",
)


def describe() -> dict[str, str]:
    """Processor, kernel, Python and packages, by name."""
    facts = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "compiler": _first_line(["cc", "--version"]),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def revision(root: Path) -> str:
    """The measured commit, if this is a checkout."""
    return _first_line(["git", "-C", str(root), "rev-parse", "--short", "HEAD"])


def load_average() -> str:
    """The load average of the last minute: what else the machine was doing."""
    return f"{os.getloadavg()[0]:.2f}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _first_line(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
