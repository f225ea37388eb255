"""The image of ops/docker, built here: buildah builds it on a base of Debian packages, podman runs
it.

No image can be fetched where the tests run. So the base is made by mmdebstrap, and the packages
come by a folder of wheels, as for a build without a package index. Both are kept in the user's
cache folder. GOBLIN_TEST_CACHE names another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.alert_rules import OPS, ROOT
from tests.support.services import find_binary

DOCKER = OPS / "docker"
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    "base-files", "base-passwd", "ca-certificates", "coreutils", "dash", "libc-bin", "passwd",
    "postgresql-client", "python3-venv",
)  # fmt: skip
BASE = """\
FROM scratch
ADD base.tar /
# What the packages' own scripts would do.
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd \\
    && cp /usr/share/base-passwd/group.master /etc/group && ldconfig
"""


def run(*command: str, cwd: Path = ROOT, timeout: float = 900) -> str:
    """What a program prints; it has to succeed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _cache() -> Path:
    given = os.environ.get("GOBLIN_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    folder = (Path(given) if given else Path.home() / ".cache") / "goblin-assistant-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cached(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The file or folder of this name, made when it is not there yet. Two runs make it once."""
    target = _cache() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with (_cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = target.with_name(target.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.unlink(missing_ok=True)
            make(part)
            part.rename(target)
    return target


def _make_base(target: Path) -> None:
    run(
        *(find_binary("mmdebstrap"), "--quiet", "--variant=extract", "--format=tar"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", '--aptopt=Acquire::Languages "none"'),
        f"--include={','.join(PACKAGES)}",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *(SUITE, str(target)),
    )


def _download_wheels(target: Path) -> None:
    # pip judges markers by the Python that runs it, and the base's is an older 3.11.
    text = (DOCKER / "requirements.txt").read_text() + (
        DOCKER / "build-requirements.txt"
    ).read_text()
    target.mkdir()
    (target / "requirements.txt").write_text(text.replace(" ; python_full_version < '3.11.3'", ""))
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *("--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"),
        *("-r", str(target / "requirements.txt"), "-d", str(target)),
    )


class Containers:
    """buildah and podman with a storage of their own."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            reason = "building an image in a chroot needs root"
            if os.environ.get("GOBLIN_TEST_REQUIRE_SERVICES") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        self._buildah, self._podman = find_binary("buildah"), find_binary("podman")
        find_binary("runc")
        find_binary("mmdebstrap")
        # podman takes no runroot of more than 50 characters.
        self._run = tempfile.mkdtemp(prefix="goblin-run-")
        self._storage = ["--root", str(folder / "storage"), "--runroot", self._run]
        for driver in ("overlay", "vfs"):  # overlay does not go on every file system
            storage = [*self._storage, "--storage-driver", driver]
            done = subprocess.run(
                [self._buildah, *storage, "info"], capture_output=True, check=False
            )
            if done.returncode == 0:
                self._storage = storage
                break

    def build(self, context: Path, dockerfile: Path, tag: str, *options: str) -> None:
        """Build an image in a chroot, with the network of this machine."""
        # Docker's format: the other one has no HEALTHCHECK.
        run(
            *(self._buildah, *self._storage, "bud", "--quiet", "--isolation", "chroot"),
            *("--layers=false", "--format", "docker", "-f", str(dockerfile), "-t", tag),
            *(*options, str(context)),
        )

    def podman_command(self) -> list[str]:
        """podman with the options that all of its commands need."""
        general = ["--runtime", "runc", "--events-backend", "none", "--cgroup-manager", "cgroupfs"]
        return [self._podman, *self._storage, *general]

    def podman(self, *arguments: str, timeout: float = 300) -> str:
        """What podman prints; it has to succeed."""
        return run(*self.podman_command(), *arguments, timeout=timeout)

    def remove(self) -> None:
        """Stop and remove everything, so that the folder can be deleted."""
        self.podman("rm", "--all", "--force", "--volumes", "--time", "0")
        self.podman("rmi", "--all", "--force")
        shutil.rmtree(self._run, ignore_errors=True)


def build_context(folder: Path) -> Path:
    """A copy of the repository with what a clone at work has beside it, and no image may have."""
    context = folder / "context"
    names = ("goblin_assistant", "tests", "ops", "docs")
    for name in names:
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.cfg"), ROOT / "LICENSE"):
        shutil.copy(file, context)
    shutil.copy(ROOT / ".dockerignore", context)
    for path in (".env", ".flaskenv", "goblin_assistant/.env", ".git/config", "instance/goblin.db",
                 "goblin_assistant/left.db", "ops/docker/secrets/secret_key"):  # fmt: skip
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text("canary-of-the-build-context")
    return context


@contextmanager
def built_image(folder: Path) -> Iterator[tuple[Containers, str]]:
    """The containers, and the tag of the image of ops/docker/Dockerfile."""
    containers = Containers(folder)
    with ThreadPoolExecutor(2) as pool:
        requirements = (DOCKER / "requirements.txt").read_text()
        requirements += (DOCKER / "build-requirements.txt").read_text()
        wheels = pool.submit(_cached, "wheels", PYTHON + requirements, _download_wheels)
        base = pool.submit(_cached, "base", f"{SUITE} {PACKAGES}", _make_base)
        wheels.result(), base.result()
    (folder / "base").mkdir()
    (folder / "base" / "Dockerfile").write_text(BASE)
    shutil.copy(base.result(), folder / "base" / "base.tar")
    try:
        containers.build(folder / "base", folder / "base" / "Dockerfile", "localhost/base:test")
        context = build_context(folder)
        containers.build(
            context,
            context / "ops" / "docker" / "Dockerfile",
            "localhost/goblin-assistant:test",
            *("--build-arg", "BASE=localhost/base:test", "--build-arg", "PIP_NO_INDEX=1"),
            *("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"),
            *("--build-context", f"wheels={wheels.result()}"),
        )
        yield containers, "localhost/goblin-assistant:test"
    finally:
        containers.remove()
