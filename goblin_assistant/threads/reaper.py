"""Runs the work of finalisers in a thread of its own.

Garbage collection may run a finaliser in any thread, even one that holds a lock of this product, of
logging or of the metrics. If the finaliser takes the same lock, it deadlocks. So it hands its work
to this thread. `SimpleQueue.put` is reentrant for this purpose.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

logger = logging.getLogger("goblin_assistant")


class Reaper:
    """The thread and its queue. Code that makes an object with such a finaliser must call `start`:
    a finaliser cannot start a thread."""

    def __init__(self) -> None:
        self._left: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._running = False
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread, if it is not running."""
        if self._running:
            return
        # RuntimeError: no thread can be started now; the next call tries again.
        with self._starting, suppress(RuntimeError):
            if not self._running:
                threading.Thread(target=self._run, name="goblin-reaper", daemon=True).start()
                self._running = True

    def hand_over(self, work: Callable[[], object]) -> None:
        """Run `work` in the thread. Takes no lock."""
        self._left.put(work)

    def forget(self) -> None:
        """Reset in a forked child: the thread and the queued work belong to the parent."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        try:
            while True:
                work = self._left.get()
                try:
                    work()
                except Exception:
                    logger.exception("reaper_failed")
                del work
        finally:
            self._running = False


reaper = Reaper()
"""The only reaper of this process."""
os.register_at_fork(after_in_child=reaper.forget)
