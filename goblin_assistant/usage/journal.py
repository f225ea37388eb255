"""A local file with the record of each finished chat, so that a `kill -9` loses none.

A record is written before the last byte of its answer: one line, one `write`, no fsync. So it
outlives the process, but after a power cut the last seconds may be missing. Files are in `<instance
folder>/journal/`; put that folder on a local disk that outlives the process (in Kubernetes: a
volume).

A process holds an flock on its file. A file without a lock belongs to a dead process. It is
imported, idempotently by record id, at the next start, by the monitor of another instance, or by
`goblin-assistant usage import`.

A full file is followed by a new one, and deleted once all of its records are in the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from goblin_assistant.config.folders import make_private
from goblin_assistant.threads.forking import run_in_child
from goblin_assistant.usage.records import UsageEntry, journal_line

logger = logging.getLogger("goblin_assistant.usage")

SEGMENT_BYTES = 4 * 1024 * 1024
SUFFIX = ".jsonl"
DAMAGED_SUFFIX = ".damaged"


@dataclass(slots=True)
class _Segment:
    fd: int
    path: Path
    size: int = 0
    waiting: set[str] = field(default_factory=set)  # records in it that are not in the database yet


class Journal:
    """The journal of this process. Shared by all threads; files are created on first use."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._current: _Segment | None = None
        self._full: list[_Segment] = []
        self._where: dict[str, _Segment] = {}
        self._pid = os.getpid()
        self._number = 0
        self._failing = False
        run_in_child(self._reset_after_fork)

    def append(self, entry: UsageEntry) -> bool:
        """Write an entry once. False on an error of the file system, which is logged once."""
        # The newline comes first: an earlier write may have been cut short.
        line = b"\n" + journal_line(entry)
        try:
            with self._lock:
                if entry.id in self._where:
                    return True
                segment = self._current
                if segment is None or segment.size >= self._segment_bytes:
                    segment = self._begin()
                segment.size += len(line)
                segment.waiting.add(entry.id)  # keeps the file open
                self._where[entry.id] = segment
            # Outside the lock: appending is atomic, and the write releases Python's lock.
            written = os.write(segment.fd, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            self.saved((entry.id,))  # it is not in this file
            if not self._failing:
                self._failing = True
                logger.error("journal_write_failed", extra={"error": error.strerror or str(error)})
            return False
        if self._failing:
            self._failing = False
            logger.info("journal_write_recovered")
        return True

    def saved(self, record_ids: Iterable[str]) -> None:
        """Note that the database has the records; delete files that are done with."""
        with self._lock:
            for record_id in record_ids:
                segment = self._where.pop(record_id, None)
                if segment is None:
                    continue
                segment.waiting.discard(record_id)
                if not segment.waiting and segment is not self._current:
                    self._full.remove(segment)
                    _discard(segment)

    def waiting(self) -> int:
        """Records that the database does not have yet."""
        return len(self._where)

    def lines(self) -> Iterator[bytes]:
        """All lines of this process's files, including those that are saved already."""
        with self._lock:
            paths = [
                segment.path
                for segment in (*self._full, *([self._current] if self._current else ()))
            ]
        for path in paths:
            with contextlib.suppress(OSError), path.open("rb") as file:
                yield from file

    def close(self) -> None:
        """Delete files whose records are all saved; leave the others for the next start."""
        with self._lock:
            for segment in (*self._full, *([self._current] if self._current else ())):
                if segment.waiting:
                    os.close(segment.fd)
                else:
                    _discard(segment)
            self._full, self._current, self._where = [], None, {}

    def _begin(self) -> _Segment:
        make_private(self.folder)
        while True:
            self._number += 1
            path = self.folder / f"{self._pid}-{os.urandom(4).hex()}-{self._number}{SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # An importer may have locked and deleted the empty file meanwhile.
            if _is_at(fd, path):
                break
            os.close(fd)
        old = self._current
        self._current = _Segment(fd, path)
        if old is not None:
            if old.waiting:
                self._full.append(old)
            else:
                _discard(old)
        return self._current

    def _reset_after_fork(self) -> None:
        # The files belong to the parent. Their locks are shared while both processes live.
        self._lock = threading.Lock()
        for segment in (*self._full, *([self._current] if self._current else ())):
            os.close(segment.fd)
        self._pid = os.getpid()
        self._full, self._current, self._where = [], None, {}


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _discard(segment: _Segment) -> None:
    with contextlib.suppress(FileNotFoundError):
        segment.path.unlink()
    os.close(segment.fd)


@dataclass(slots=True)
class Orphan:
    """A journal of a dead process, locked against other importers."""

    path: Path
    _fd: int
    damaged: bool = False

    def lines(self) -> Iterator[bytes]:
        """Its lines. The last one may be incomplete."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            yield from file

    def done(self) -> None:
        """Delete the file after its import, or rename it when it is `damaged`."""
        if self.damaged:
            self.path.rename(self.path.with_suffix(DAMAGED_SUFFIX))
        else:
            self.path.unlink()


def orphans(folder: Path) -> Iterator[Orphan]:
    """Journals of dead processes, oldest first. Each is unlocked when the next one is taken."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name):
        fd = _open(path)
        if fd is None:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _is_at(fd, path):
                yield Orphan(path, fd)
        finally:
            os.close(fd)


_skipped: set[Path] = set()


def skipped(path: Path, reason: str) -> None:
    """Log once per process that a file is skipped: the monitor tries every half minute."""
    if path not in _skipped and len(_skipped) < 1000:
        _skipped.add(path)
        logger.error("usage_journal_skipped", extra={"file": path.name, "error": reason})


def _open(path: Path) -> int | None:
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        # A file that is gone was imported by another process.
        if path.is_symlink() or not isinstance(error, FileNotFoundError):
            skipped(path, error.strerror or str(error))
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        skipped(path, "not a regular file")
        return None
    return fd
