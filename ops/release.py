"""Everything that a release consists of, in one folder: `make release`, or

    python ops/release.py dist

wheel and sdist of the last commit, built twice with the same result; requirements.txt with the hash
of each dependency; a list of them (SBOM, CycloneDX); CHECKSUMS (`sha256sum -c CHECKSUMS`).

requirements.txt is made from pip's own report, not by another resolver: it has the very files that
pip takes here under constraints.txt. So it is for the platform that it names.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SBOM = "sbom.cdx.json"


def version() -> str:
    """The version of the package."""
    found: str = runpy.run_path(str(ROOT / "goblin_assistant" / "version.py"))["__version__"]
    return found


def build(into: Path) -> list[Path]:
    """Wheel and sdist of the last commit, from a copy without anything else."""
    when = _git("log", "-1", "--format=%ct").decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as tree:
            tree.extractall(folder, filter="data")
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), folder],
            check=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": when},
            stdout=subprocess.DEVNULL,
        )
    (wheel,) = into.glob("*.whl")
    (sdist,) = into.glob("*.tar.gz")
    same_bytes(sdist, int(when))
    return [wheel, sdist]


def same_bytes(sdist: Path, when: int) -> None:
    """Write an sdist again without what differs from build to build: times, owners, order."""
    plain = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=plain, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(gzip.compress(plain.getvalue(), 9, mtime=0))


def pip_report() -> dict[str, Any]:
    """What pip would install here, with the hash of each file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as tree:
            tree.extractall(Path(folder) / "source", filter="data")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
             "--disable-pip-version-check", "--report", str(report),
             "-c", str(ROOT / "constraints.txt"), str(Path(folder) / "source")],
            check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def requirements(report: dict[str, Any]) -> str:
    """requirements.txt of a report, but for the package itself; without any address."""
    lines = []
    for item in report["install"]:
        name, number = item["metadata"]["name"], item["metadata"]["version"]
        if name == "goblin-assistant":
            continue
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is None:
            raise SystemExit(f"pip gives no SHA-256 of {name} {number}")
        lines.append(f"{name.lower()}=={number} --hash=sha256:{sha256}\n")
    return (
        f"# Made for {platform.python_implementation()} "
        f"{'.'.join(platform.python_version_tuple()[:2])} on {platform.system()} "
        f"{platform.machine()}: pip install --require-hashes -r requirements.txt\n"
        + "".join(sorted(lines))
    )


def sbom(requirements_file: Path) -> str:
    """The dependencies in CycloneDX, without addresses of a package index."""
    done = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible",
         "--of", "JSON", str(requirements_file)],
        check=True, capture_output=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(done.stdout)
    for component in document["components"]:
        del component["description"]  # the line of the file
        for reference in component.pop("externalReferences"):
            component.setdefault("hashes", reference.get("hashes", []))
    document["metadata"].pop("tools")
    document["metadata"]["component"] = {
        "type": "application",
        "bom-ref": "goblin-assistant",
        "name": "goblin-assistant",
        "version": version(),
        "purl": f"pkg:pypi/goblin-assistant@{version()}",
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def checksums(files: list[Path]) -> str:
    """As sha256sum prints them."""
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(files)
    )


def _git(*args: str) -> bytes:
    return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True).stdout


def main() -> None:
    """Fill the folder anew."""
    parser = argparse.ArgumentParser(description="Build a release.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-dependencies", action="store_true", help="wheel and sdist only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        first, second, third = (Path(work) / name for name in ("first", "second", "third"))
        files, again = build(first), build(second)
        if checksums(files) != checksums(again):
            raise SystemExit("two builds of the same commit differ:\n" + checksums(files + again))
        if not given.no_dependencies:
            third.mkdir()
            files += [third / "requirements.txt", third / SBOM]
            files[-2].write_text(requirements(pip_report()))
            files[-1].write_text(sbom(files[-2]))
        shutil.rmtree(given.folder, ignore_errors=True)
        given.folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, given.folder)
        sums = checksums(files)
        (given.folder / "CHECKSUMS").write_text(sums)
    print(f"goblin-assistant {version()} of {_git('rev-parse', 'HEAD').decode().strip()}:")
    print(sums, end="")


if __name__ == "__main__":
    main()
