"""A wheel is complete, and all that it needs has a version in constraints.txt."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line.strip()}


def needed(python: str) -> set[str]:
    """The packages that an installation with the extra `otel` needs with this Python, by what those
    here say."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    versions = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    lines = config["options"]["install_requires"] + config["options.extras_require"]["otel"]
    left = [Requirement(line) for line in lines.split("\n") if line]
    found: set[tuple[str, frozenset[str]]] = set()
    while left:
        one = left.pop()
        this = (canonicalize_name(one.name), frozenset(one.extras))
        if this in found:
            continue
        found.add(this)
        with contextlib.suppress(metadata.PackageNotFoundError):  # not needed by this Python
            for inner in map(Requirement, metadata.requires(one.name) or []):
                environments = [{**versions, "extra": extra} for extra in ("", *one.extras)]
                if inner.marker is None or any(map(inner.marker.evaluate, environments)):
                    left.append(inner)
    return {name for name, _ in found}


@pytest.mark.parametrize("python", ["3.11.2", "3.11.9", "3.12.3", "3.13.1"])
def test_every_package_of_an_installation_has_a_version_that_was_tested(python: str) -> None:
    # Debian 12 has 3.11.2, where redis needs async-timeout.
    assert needed(python) - pinned() == set()
