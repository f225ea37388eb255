"""Many usage records in one transaction (docs/adr/0010-gathered-usage-records.md).

A transaction for each record costs more than the INSERT: it releases Python's lock several times,
on the core that serves the next request. Until they are written the records are in the journal, so
a killed process loses none.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from goblin_assistant.threads.forking import run_in_child

T = TypeVar("T")

logger = logging.getLogger("goblin_assistant.usage")

BATCH_SECONDS = 0.01
CAPACITY = 5000
"""Records that may wait, about 2 KB each. When full, the request's own thread writes its record:
back-pressure."""
BATCH = 200


class BatchWriter(Generic[T]):
    """Hands entries to `write`, at most BATCH at once, in a thread that starts with the first."""

    def __init__(self, write: Callable[[list[T]], None], seconds: float = BATCH_SECONDS) -> None:
        self.seconds = seconds
        self._write = write
        self._closed = False
        self._reset()
        run_in_child(self._reset)

    def _reset(self) -> None:
        # After a fork the parent writes its own records. Its locks may have been held then.
        self._waiting: deque[T] = deque()
        # Entries taken out of `_waiting`, and those of them that are written, both under `_moved`.
        self._taken = self._written = 0
        self._moved = threading.Condition()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether an entry waits or is being written."""
        return bool(self._waiting) or self._taken != self._written

    def put(self, entry: T) -> bool:
        """Take an entry. False when too many are waiting, or after `close`."""
        if self._closed or len(self._waiting) >= CAPACITY:
            return False
        self._waiting.append(entry)
        self._start()
        if not self._wake.is_set():
            self._wake.set()
        if self._closed:  # closed meanwhile: the thread may have ended
            self._drain()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all entries so far have been handed over; False after `timeout` seconds."""
        with self._moved:
            last = self._taken + len(self._waiting)  # not later ones, which may never end
            if self._waiting:
                self._hurry.set()
                self._wake.set()
            return self._moved.wait_for(lambda: self._written >= last, timeout)

    def close(self) -> None:
        """Hand over the waiting entries and end the thread."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(30.0)
        self._drain()

    def _start(self) -> None:
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        with self._starting:  # the first entry, or the first after a fork
            if (self._thread is None or not self._thread.is_alive()) and not self._closed:
                self._thread = threading.Thread(target=self._run, name="usage-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._hurry.wait(self.seconds)
            # Cleared first: a later entry wakes the thread again.
            self._wake.clear()
            if not self._closed:
                self._hurry.clear()
            self._drain()

    def _drain(self) -> None:
        while batch := self._take():
            try:
                self._write(batch)
            except Exception:
                logger.exception("usage_writer_failed")
            finally:
                with self._moved:
                    self._written += len(batch)
                    self._moved.notify_all()

    def _take(self) -> list[T]:
        with self._moved:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._taken += len(batch)
        return batch
