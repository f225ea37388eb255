"""Does the work that finalisers leave.

Garbage collection calls a finaliser in any thread, also in one that holds a lock of ours, of
logging or of the metrics. A finaliser that takes the same lock waits for ever, so it hands its
work to a thread. `SimpleQueue.put` is reentrant and made for this.
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
    """The thread and its queue. Who makes an object with such a finaliser calls `start`: a
    finaliser cannot."""

    def __init__(self) -> None:
        self._left: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._running = False
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if self._running:
            return
        # RuntimeError: no thread is available; the next start tries again.
        with self._starting, suppress(RuntimeError):
            if not self._running:
                threading.Thread(target=self._run, name="goblin-reaper", daemon=True).start()
                self._running = True

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have `work` done in the thread. Takes no lock."""
        self._left.put(work)

    def forget(self) -> None:
        """Start again in a forked child: the thread and the work are the parent's."""
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
"""The reaper of this process."""
os.register_at_fork(after_in_child=reaper.forget)
