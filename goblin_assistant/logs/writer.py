"""Writes log lines: a bounded queue and one thread, so that a full pipe never blocks a worker.

When nobody reads, the queue fills. Further lines are dropped and counted
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
from typing import TextIO

from goblin_assistant.metrics import log_records_dropped_total

QUEUE_LINES = 10_000
GATHER_SECONDS = 0.01
"""How long lines gather: then one write and one thread switch serve all of them."""


class QueueingHandler(logging.Handler):
    """Formats at once, writes later. `stream` None is standard output, without Python's buffer."""

    def __init__(
        self,
        formatter: logging.Formatter,
        stream: TextIO | None = None,
        capacity: int = QUEUE_LINES,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.stream = stream
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
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            if lines:
                self._write("\n".join(lines) + "\n", len(lines))
            self._writing = False
            if self._stopping and not self._lines:
                return

    def _write(self, text: str, count: int) -> None:
        try:
            if self.stream is not None:
                self.stream.write(text)
                self.stream.flush()
            else:
                self._write_fd(text.encode("utf-8", "replace"))
        except (OSError, ValueError, AttributeError):
            # The reader has gone (`serve | head`) or standard output is closed; serving goes on.
            log_records_dropped_total.inc(count)

    @staticmethod
    def _write_fd(data: bytes) -> None:
        fd = sys.stdout.fileno()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                select.select([], [fd], [], 1.0)
