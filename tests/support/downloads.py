"""Packages that tests download once, in a cache outside the repository.

A test that cannot have its packages is skipped; with GOBLIN_TEST_REQUIRE_SERVICES=1 it fails.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def missing(reason: str) -> None:
    """Skip the test, or fail it where tests must not be skipped."""
    if os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def cache() -> Path:
    """The folder in which packages are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goblin-assistant"
    base.mkdir(parents=True, exist_ok=True)
    return base


def made_once(
    name: str,
    pins: bytes,
    make: Callable[[Path], subprocess.CompletedProcess[str]],
    *,
    large: bool = False,
) -> Path:
    """The folder that `make` fills, once for each content of `pins`.

    Several test runs may ask at the same time. What is `large` is only downloaded where tests must
    not be skipped.
    """
    base = cache()
    folder = base / f"{name}-{hashlib.sha256(pins).hexdigest()[:16]}"
    with (base / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            if large and os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") != "1":
                missing(
                    f"the packages of {name} take hundreds of megabytes: "
                    "GOBLIN_TEST_REQUIRE_SERVICES=1 downloads them, as .ci/run does"
                )
            half = base / f"{folder.name}.half"
            for _ in range(3):  # a registry may be slow for once
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir()
                try:
                    done = make(half)
                except subprocess.TimeoutExpired as late:
                    done = subprocess.CompletedProcess(late.cmd, 1, "", str(late))
                if done.returncode == 0:
                    break
            else:
                shutil.rmtree(half, ignore_errors=True)
                missing(f"{name} cannot be installed: {done.stderr[-2000:]}")
            half.rename(folder)
    return folder
