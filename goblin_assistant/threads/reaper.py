"""Ends what nobody closed: work that a finaliser must not do itself.

Garbage collection calls finalisers in whatever thread allocates, also in one that holds a lock of ours, of logging or
of the metrics. A finaliser that takes the same lock waits for ever. So it hands its work over, and a thread does it.
`SimpleQueue.put` is made for this: it may be called in the middle of itself.
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
    """The thread and its queue. It is started by whoever makes objects that may need it: a finaliser cannot."""

    def __init__(self) -> None:
        self._left: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._running = False
        self._starting = threading.Lock()

    def start(self) -> None:
        """Make sure that the thread runs."""
        if self._running:
            return
        with (
            self._starting,
            suppress(RuntimeError),
        ):  # no more threads to be had: the next start may be luckier
            if not self._running:
                threading.Thread(target=self._run, name="goblin-reaper", daemon=True).start()
                self._running = True

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have `work` done soon, in another thread. Takes no lock."""
        self._left.put(work)

    def forget(self) -> None:
        """Begin anew in a process that was forked: the thread and the work are its parent's."""
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
"""The one of this process."""
os.register_at_fork(after_in_child=reaper.forget)
