"""Writes log lines: a bounded queue and one thread, so that a full pipe never blocks a worker.

When nobody reads, or the disk is full, the queue fills. Further lines are dropped and counted
(`log_records_dropped_total`).
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from goblin_assistant.metrics import log_records_dropped_total

QUEUE_LINES = 10_000
GATHER_SECONDS = 0.01
"""How long lines gather: then one write and one thread switch serve all of them."""

_NEWLINE = ord("\n")

logger = logging.getLogger("goblin_assistant.logs")


def open_log(path: Path) -> int:
    """A descriptor that appends to the file. A new file is for its owner only; one that exists
    keeps its mode, so that an operator can let a log shipper's group read it."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class QueueingHandler(logging.Handler):
    """Formats at once, writes later: to the file `path`, else to `stream`, else to standard output
    without Python's buffer. Raises OSError for a file that cannot be opened."""

    def __init__(
        self,
        formatter: logging.Formatter,
        stream: TextIO | None = None,
        capacity: int = QUEUE_LINES,
        path: Path | None = None,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._path = path
        self._file = None if path is None else open_log(path)
        self._reopening = False
        self._torn = False
        self._capacity = capacity
        self._lines: deque[str] = deque()
        self._ready = threading.Event()
        self._writing = False
        self._stopping = False
        self._flushing = 0
        self.start_writer()

    def start_writer(self) -> None:
        """Start the thread."""
        self._writer = threading.Thread(target=self._write_forever, name="log-writer", daemon=True)
        self._writer.start()

    def start_in_child(self) -> None:
        """Start again in a forked child, with an empty queue: the parent writes the lines in its
        own."""
        self._lines = deque()
        self._ready = threading.Event()
        self._writing = False
        self._flushing = 0
        self.start_writer()

    def writes_to(self, stream: TextIO | None, path: Path | None) -> bool:
        """Whether its lines go there."""
        return self._stream is stream and self._path == path

    def writing(self) -> bool:
        """Whether the thread is alive."""
        return self._writer.is_alive()

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging.Handler, without its lock: appending to a deque is atomic."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line, or drop and count it."""
        assert self.formatter is not None
        self.emit_line(self.formatter.format(record))

    def emit_line(self, line: str) -> None:
        """Queue a finished line."""
        if len(self._lines) >= self._capacity:
            log_records_dropped_total.inc()
            return
        self._lines.append(line)
        if not self._ready.is_set():
            self._ready.set()

    def reopen(self) -> None:
        """Have the thread open the file again: lines that are queued go into the new one."""
        if self._path is not None:
            self._reopening = True
            self._ready.set()

    def flush_within(self, timeout: float) -> bool:
        """Wait until everything queued is written; False after `timeout` seconds."""
        self._flushing += 1
        try:
            end = time.monotonic() + timeout
            # In this order: the writer sets `_writing` before it empties the queue.
            while self._lines or self._writing:
                self._ready.set()
                if time.monotonic() >= end:
                    return False
                time.sleep(0.002)
            return True
        finally:
            self._flushing -= 1

    def close(self) -> None:
        """Write what is queued, for at most two seconds, and end the thread."""
        self.flush_within(2.0)
        self._stopping = True
        self._ready.set()
        super().close()

    def _write_forever(self) -> None:
        while True:
            self._ready.wait()
            if not self._flushing and not self._stopping:
                time.sleep(GATHER_SECONDS)
            self._ready.clear()
            self._writing = True
            if self._reopening:
                self._reopening = False
                self._open_again()
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            if lines:
                self._write("\n".join(lines) + "\n", len(lines))
            self._writing = False
            if self._stopping and not self._lines:
                if self._file is not None:
                    os.close(self._file)
                return

    def _open_again(self) -> None:
        assert self._path is not None
        assert self._file is not None
        try:
            opened = open_log(self._path)
        except OSError as error:
            # Into the old file, which this process still has.
            logger.error(
                "log_file_not_reopened", extra={"file": str(self._path), "error": str(error)}
            )
            return
        if os.path.sameopenfile(opened, self._file):
            os.close(opened)
            return
        os.close(self._file)
        self._file = opened
        self._torn = False
        logger.info("log_file_reopened", extra={"file": str(self._path)})

    def _write(self, text: str, count: int) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._write_fd(text.encode("utf-8", "replace"))
        except (OSError, ValueError, AttributeError):
            # The reader has gone (`serve | head`), standard output is closed or the disk is full;
            # serving goes on.
            log_records_dropped_total.inc(count)

    def _write_fd(self, data: bytes) -> None:
        fd = sys.stdout.fileno() if self._file is None else self._file
        # A full disk may have cut a line, which the next one must not continue.
        view = memoryview(b"\n" + data if self._torn else data)
        while view:
            try:
                written = os.write(fd, view)
            except BlockingIOError:
                select.select([], [fd], [], 1.0)
            else:
                self._torn = view[written - 1] != _NEWLINE
                view = view[written:]
