"""The file of a backup: a tar archive of a manifest and the database.

    goblin-2026-11-27T03-45-12.123Z.tar
        manifest.json   what it holds: version, revision, rows of each table, SHA-256
        database        SQLite: the database file; PostgreSQL: pg_dump's custom format

It is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from goblin_assistant.config.folders import make_private

FORMAT = 1
_MANIFEST = "manifest.json"
_DATABASE = "database"
_NAME = re.compile(r"goblin-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z\.tar")
_PARTIAL = ".goblin-partial-"
_LOCK = ".goblin-backup.lock"
_CHUNK = 1024 * 1024
_MOST_MANIFEST_BYTES = 1024 * 1024


class BackupError(Exception):
    """A backup cannot be made, read or restored. The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. `kind` is sqlite or postgresql; `rows` counts those of each table."""

    format: int
    created_at: str
    version: str
    kind: str
    revision: str
    rows: dict[str, int]
    sha256: str
    bytes: int


def now() -> datetime:
    """The time, for a name and a manifest."""
    return datetime.now(UTC)


def file_name(created: datetime) -> str:
    """The name of a backup: names sort by time."""
    return f"goblin-{created:%Y-%m-%dT%H-%M-%S}.{created.microsecond // 1000:03d}Z.tar"


def backups_in(folder: Path) -> list[Path]:
    """The backups of a folder, oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A folder of its own within `folder`, for a backup in the making.

    What a killed backup left is removed. BackupError while another one runs.
    """
    make_private(folder)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup into {folder} is running") from None
        for left in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as work:
            yield Path(work)
    finally:
        os.close(lock)


def pack(database: Path, manifest: Manifest, target: Path) -> None:
    """Write the archive beside `database` and move it to `target`. Both are on one disk."""
    partial = database.with_name("archive")
    about = json.dumps(asdict(manifest), indent=2).encode() + b"\n"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(_member(_MANIFEST, len(about)), io.BytesIO(about))
            with database.open("rb") as content:
                archive.addfile(_member(_DATABASE, manifest.bytes), content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(target)
    _sync_folder(target.parent)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _sync_folder(folder: Path) -> None:
    # A renamed file outlives a power cut only when its folder is on the disk as well.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete all but the `keep` newest backups; those that went."""
    old = backups_in(folder)[:-keep]
    for path in old:
        path.unlink()
    return old


def sha256(path: Path) -> str:
    """The hash of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(path: Path, target: Path) -> Manifest:
    """Write the archive's database to `target`, which must not exist, and check its hash.

    BackupError when the archive is not complete and undamaged; `target` is then of no use.
    """
    damaged = f"{path.name} is damaged"
    try:
        with tarfile.open(path, mode="r:") as archive:
            manifest = _read_manifest(archive, path)
            content = archive.extractfile(_DATABASE)
            if content is None:
                raise BackupError(f"{damaged}: {_DATABASE} is no file")
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                found = _copy(content, file)
    except KeyError:
        raise BackupError(f"{damaged}: there is no {_DATABASE} in it") from None
    except tarfile.TarError as error:
        raise BackupError(f"{damaged}: {error}; use another backup") from None
    if found != manifest.sha256:
        raise BackupError(f"{damaged}: its SHA-256 is not the manifest's; use another backup")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest alone. Raises BackupError."""
    try:
        with tarfile.open(path, mode="r:") as archive:
            return _read_manifest(archive, path)
    except tarfile.TarError as error:
        raise BackupError(f"{path.name} is damaged: {error}; use another backup") from None


def _read_manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    try:
        file = archive.extractfile(_MANIFEST)
        values = {} if file is None else dict(json.loads(file.read(_MOST_MANIFEST_BYTES)))
        if values["format"] != FORMAT:
            raise BackupError(
                f"{path.name} has format {values['format']}, this version reads {FORMAT}; "
                "use the version that made it"
            )
        manifest = Manifest(**values)
        if all(type(count) is int for count in manifest.rows.values()):
            return manifest
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise BackupError(f"{path.name} is damaged: it has no readable {_MANIFEST}; use another backup")


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()
