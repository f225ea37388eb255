"""`make release`: the same commit gives the same files; dependencies are named with their hash."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from goblin_assistant.version import __version__
from tests.conftest import ROOT

HASH = "5f70bf18d4d0b2e2d5b2a9ea7c5e8c9a3f1e2d3c4b5a69788796a5b4c3d2e1f0"


@pytest.fixture
def release() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "ops" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*names: str, archive: bool = True) -> dict[str, object]:
    """As `pip install --report` gives it, from an index of one's own."""
    own = {"metadata": {"name": "goblin-assistant", "version": "0"}, "download_info": {}}
    info = {"archive_info": {"hashes": {"sha256": HASH}}} if archive else {}
    others = [
        {
            "metadata": {"name": name, "version": "1.2.3"},
            "download_info": {"url": f"https://index.example/{name}.whl", **info},
        }
        for name in names
    ]
    return {"install": [own, *others]}


def test_wheel_and_sdist_are_built_twice_and_are_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "ops" / "release.py"), "--no-dependencies", "dist"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "dist").iterdir()}
    wheel = f"goblin_assistant-{__version__}-py3-none-any.whl"
    assert names == {wheel, f"goblin_assistant-{__version__}.tar.gz", "CHECKSUMS"}
    subprocess.run(["sha256sum", "-c", "CHECKSUMS"], cwd=tmp_path / "dist", check=True)
    with zipfile.ZipFile(tmp_path / "dist" / wheel) as archive:
        assert archive.testzip() is None


def test_requirements_name_every_dependency_with_its_hash_and_no_index(release: ModuleType) -> None:
    first, *lines = release.requirements(report("Zope", "flask")).splitlines()
    assert first.startswith("# Made for ")
    assert lines == [f"{name}==1.2.3 --hash=sha256:{HASH}" for name in ("flask", "zope")]
    with pytest.raises(SystemExit, match="no SHA-256 of flask"):
        release.requirements(report("flask", archive=False))


def test_the_sbom_is_cyclonedx_and_names_no_index(release: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(release.requirements(report("flask", "waitress")))
    text = release.sbom(file)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert "simple" not in text
    document = json.loads(text)
    assert document["metadata"]["component"]["version"] == __version__
    assert [
        (component["name"], component["version"], component["hashes"])
        for component in document["components"]
    ] == [(name, "1.2.3", [{"alg": "SHA-256", "content": HASH}]) for name in ("flask", "waitress")]
