"""A local file that has a finished chat's record before its last byte goes out, so that a `kill -9` between answer
and INSERT loses nothing.

One file per process under `<instance folder>/journal/`, one line per record, one `write` per line, no fsync: what is
written is the kernel's and outlives
the process (not the machine: after a power cut the last seconds may be missing). The process holds an flock on its
file; a file whose lock can be had belongs
to nobody any more and is imported, idempotently by record id, at the next start, by a neighbour's monitor or by
`goblin-assistant usage import`.
Put the instance folder on a local disk that outlives the process (in Kubernetes: a volume).

When a file exceeds a size a new one is begun; the old one is deleted once every record in it is in the database.
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
    """The records of this process that the database may not have yet. Safe with any number of threads; files are made
    on first use."""

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
        """Write an entry, once; False when the file system does not take it (logged once until it does again)."""
        # It begins a line of its own, whatever stump a write that was cut short has left before it.
        line = b"\n" + journal_line(entry)
        try:
            with self._lock:
                if entry.id in self._where:
                    return True
                segment = self._current
                if segment is None or segment.size >= self._segment_bytes:
                    segment = self._begin()
                segment.size += len(line)
                segment.waiting.add(entry.id)  # from now on nobody closes it
                self._where[entry.id] = segment
            # Outside the lock: appending is atomic, and the write gives up Python's lock.
            written = os.write(segment.fd, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            self.saved((entry.id,))  # not in this file, in any case
            if not self._failing:
                self._failing = True
                logger.error("journal_write_failed", extra={"error": error.strerror or str(error)})
            return False
        if self._failing:
            self._failing = False
            logger.info("journal_write_recovered")
        return True

    def saved(self, record_ids: Iterable[str]) -> None:
        """The database has the records."""
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
        """Everything in this process's files: also what was saved long since (importing it again changes nothing)."""
        with self._lock:
            paths = [
                segment.path
                for segment in (*self._full, *([self._current] if self._current else ()))
            ]
        for path in paths:
            with contextlib.suppress(OSError), path.open("rb") as file:
                yield from file

    def close(self) -> None:
        """Delete what is saved; leave what is not, for the next start."""
        with self._lock:
            for segment in (*self._full, *([self._current] if self._current else ())):
                if segment.waiting:
                    os.close(segment.fd)
                else:
                    _discard(segment)
            self._full, self._current, self._where = [], None, {}

    def _begin(self) -> _Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._number += 1
            path = self.folder / f"{self._pid}-{os.urandom(4).hex()}-{self._number}{SUFFIX}"
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(fd, fcntl.LOCK_EX)
            # An importer may have had the lock for the moment in between, and have deleted the empty file.
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
        # After a fork. The files belong to the parent; their locks are shared as long as both live.
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
    """A journal whose process has died. Locked while it is open, so that two importers do not meet."""

    path: Path
    _fd: int
    damaged: bool = False

    def lines(self) -> Iterator[bytes]:
        """Its lines, the last one perhaps broken off."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            yield from file

    def done(self) -> None:
        """Everything readable is in the database: delete it, or set it aside when `damaged`."""
        if self.damaged:
            self.path.rename(self.path.with_suffix(DAMAGED_SUFFIX))
        else:
            self.path.unlink()


def orphans(folder: Path) -> Iterator[Orphan]:
    """Journals that no living process holds, oldest first, one at a time; each is unlocked again when the next one is
    asked for."""
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name)
    except FileNotFoundError:
        return
    for path in paths:
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
    """Say once a process that a file is left where it is: the monitor comes by every half minute."""
    if path not in _skipped and len(_skipped) < 1000:
        _skipped.add(path)
        logger.error("usage_journal_skipped", extra={"file": path.name, "error": reason})


def _open(path: Path) -> int | None:
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink() or not isinstance(
            error, FileNotFoundError
        ):  # else another importer was faster
            skipped(path, error.strerror or str(error))
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        skipped(path, "not a regular file")
        return None
    return fd
