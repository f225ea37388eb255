"""The writing side of the log: a bounded queue and one thread, so that a full pipe never blocks a worker."""

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
GATHER_SECONDS = (
    0.01  # how long the writer lets lines gather: one write and one thread switch for all of them
)


class QueueingHandler(logging.Handler):
    """Formats at once, writes later. `stream` None means standard output, past Python's own buffer."""

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
        """Begin anew after a fork, which copies the queue but no threads: the lines in it are the parent's to write."""
        self._lines = deque()
        self._ready = threading.Event()
        self._writing = False
        self._flushing = 0
        self.start_writer()

    def writing(self) -> bool:
        """Whether the thread lives."""
        return self._writer.is_alive()

    def handle(self, record: logging.LogRecord) -> bool:
        """Without logging.Handler's lock: appending to a deque is atomic, and 64 threads would queue up for it."""
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
        """Wait until everything queued has been written; False if that took longer than `timeout` seconds."""
        self._flushing += 1
        try:
            end = time.monotonic() + timeout
            # In this order: the writer says that it is writing before it empties the queue.
            while self._lines or self._writing:
                self._ready.set()
                if time.monotonic() >= end:
                    return False
                time.sleep(0.002)
            return True
        finally:
            self._flushing -= 1

    def close(self) -> None:
        """Write what is there, for at most two seconds, and end the thread."""
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
            # The reader has gone (`serve | head`), or standard output is closed. Serving goes on.
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
