"""Records that wait a moment, so that one transaction takes many of them (docs/adr/0010-gathered-usage-records.md).

A transaction of its own for each record costs more than the INSERT: it gives up Python's lock again and again, in a
thread that runs beside the next request on the same core. The records are in the journal meanwhile; a killed process
loses none.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from goblin_assistant.threads.forking import run_in_child
from goblin_assistant.usage.records import UsageEntry

logger = logging.getLogger("goblin_assistant.usage")

BATCH_SECONDS = 0.01
CAPACITY = 5000
"""Records that may wait, about 2 KB each. Beyond that each is written in the thread of its request: that is slower, and
so slows down what makes them."""
BATCH = 200


class BatchWriter:
    """Hands entries to `write`, at most BATCH at once, in a thread of its own that begins with the first of them."""

    def __init__(
        self, write: Callable[[list[UsageEntry]], None], seconds: float = BATCH_SECONDS
    ) -> None:
        self.seconds = seconds
        self._write = write
        self._waiting: deque[UsageEntry] = deque()
        self._writing = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._emptied = threading.Condition()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        run_in_child(self._reset_after_fork)

    def put(self, entry: UsageEntry) -> bool:
        """Take an entry; False when there are too many, or nobody to write it any more."""
        if self._closed or len(self._waiting) >= CAPACITY:
            return False
        self._waiting.append(entry)
        self._start()
        if not self._wake.is_set():
            self._wake.set()
        if self._closed:  # closed in between: nobody looks again
            self._drain()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until everything taken so far has been handed over; False after `timeout` seconds."""
        with self._emptied:
            if self._waiting:
                self._hurry.set()
                self._wake.set()
            # In this order: the thread says that it is writing before it takes anything out.
            return self._emptied.wait_for(lambda: not self._waiting and not self._writing, timeout)

    def close(self) -> None:
        """Hand over what is there and end the thread."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(30.0)
        self._drain()

    def _reset_after_fork(self) -> None:
        # After a fork. The parent writes its own records; its locks may have been held at that moment.
        self._waiting = deque()
        self._writing = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._emptied = threading.Condition()
        self._starting = threading.Lock()
        self._thread = None

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
            # Cleared before looking: an entry that comes later wakes the thread again.
            self._wake.clear()
            if not self._closed:
                self._hurry.clear()
            self._drain()

    def _drain(self) -> None:
        self._writing = True
        try:
            while self._waiting:
                batch: list[UsageEntry] = []
                try:
                    while len(batch) < BATCH:
                        batch.append(self._waiting.popleft())
                except IndexError:
                    pass
                if batch:
                    self._write(batch)
        except Exception:
            logger.exception("usage_writer_failed")
        finally:
            with self._emptied:
                self._writing = False
                self._emptied.notify_all()
