"""A wheel is complete: migrations, the docs page, the type marker."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_a_wheel_holds_everything_that_the_package_needs(tmp_path: Path) -> None:
    # From a copy: setuptools leaves a build folder behind.
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            ".",
        ],
        cwd=source,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".flaskenv", ".env"))]
    inside = {name for name in names if name.startswith("goblin_assistant/")}
    package = source / "goblin_assistant"
    expected = {
        str(path.relative_to(source))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert expected - inside == set()
