"""The threads that run requests.

waitress wakes the thread that has slept longest, so that a pool of 500 is used in turn, each
thread with a stack and a database connection that is in no cache. Here the thread that slept
shortest is woken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from waitress.task import ThreadedTaskDispatcher

from goblin_assistant.metrics import queue_wait_seconds

WAKES_AT_ONCE = 4
WAKES_PER_SECOND = 1000
"""How fast sleeping threads are woken. Measured with 300 chats at once: the 99th percentile of
/health/live is 150 ms without this bound and 10 ms with it; the chats take no longer."""


BURST_EVENTS = 16
AWAKE_THREADS = 8
"""A burst is more events in a turn, or more threads awake, than this. Otherwise threads are woken
as tasks arrive: to collect always costs 9 % of a chat's CPU with 8 clients."""


class _Sleeper:
    """The lock on which a thread sleeps, and the task that it is woken with."""

    __slots__ = ("lock", "task")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.task: Any = None


class WorkerPool(ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's threads. The one that went to sleep last is woken first, with its task.

    Threads share the GIL with the main loop, which needs it after each system call. If a burst
    wakes sixty threads at once, each is ahead of the main loop, and a health request waits for the
    whole burst. So in a burst the tasks of a turn are collected. At its end health requests come
    first; for the others a few threads are woken, then one each millisecond. A thread that is
    awake takes the next task at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asleep: list[_Sleeper] = []
        self._urgent: deque[Any] = deque()
        self._urgent_was_last = False
        self._collecting = False
        self._observe_wait = queue_wait_seconds.labels("server_thread").observe
        self._may_wake = 0.0
        self._handed_out = 0.0

    def handler_thread(self, thread_no: int) -> None:
        """What a thread runs."""
        sleeper = _Sleeper()
        while True:
            with self.lock:
                if self.stop_count > 0:
                    self.active_count -= 1
                    self.stop_count -= 1
                    self.threads.discard(thread_no)
                    self.thread_exit_cv.notify()
                    return
                task = self._next_of_thread()
                if task is None:
                    self.active_count -= 1
                    self._asleep.append(sleeper)
            if task is None:
                sleeper.lock.acquire()
                task, sleeper.task = sleeper.task, None
                if task is None:
                    continue  # woken to stop
            self._observe_wait(time.monotonic() - task.queued_at)
            try:
                task.service()
            except BaseException:
                self.logger.exception("Exception when servicing %r", task)
            task = None

    def _next_of_thread(self) -> Any:
        """A thread's next task. While the main loop collects, only an urgent one: the main loop
        wakes threads for the others at the end of its turn."""
        if not self._collecting:
            return self._next()
        if self._urgent:
            return self._urgent.popleft()
        if self.queue:
            self._may_wake += 1
        return None

    def _next(self) -> Any:
        """The next task. At most every other one is urgent, so that urgent ones cannot starve the
        rest."""
        if self._urgent and not (self._urgent_was_last and self.queue):
            self._urgent_was_last = True
            return self._urgent.popleft()
        self._urgent_was_last = False
        return self.queue.popleft() if self.queue else None

    def add_task(self, task: Any) -> None:
        """Wake a thread for the task, or queue it."""
        task.queued_at = time.monotonic()
        with self.lock:
            if self._collecting or not self._asleep:
                (self._urgent if getattr(task, "urgent", False) else self.queue).append(task)
                return
            sleeper = self._asleep.pop()
            self.active_count += 1
            sleeper.task = task
        sleeper.lock.release()

    def collect(self, events: int) -> None:
        """In a burst, keep tasks until `hand_out`. The main loop calls it before it handles
        events."""
        if events > BURST_EVENTS or self.active_count > AWAKE_THREADS:
            self._collecting = True

    def hand_out(self) -> bool:
        """Wake threads for the collected tasks. True while threads sleep and tasks are left: then
        call it again within a millisecond."""
        if not self._collecting:
            return False
        woken: list[_Sleeper] = []
        with self.lock:
            if not self.queue and not self._urgent:
                self._collecting = False
                return False
            now = time.monotonic()
            earned = (now - self._handed_out) * WAKES_PER_SECOND
            self._may_wake = max(self._may_wake, min(WAKES_AT_ONCE, self._may_wake + earned))
            self._handed_out = now
            while self._asleep and (self._may_wake >= 1 or (self._urgent and not woken)):
                task = self._urgent.popleft() if self._urgent and not woken else self._next()
                if task is None:
                    break
                self._may_wake = max(0.0, self._may_wake - 1)
                sleeper = self._asleep.pop()
                self.active_count += 1
                sleeper.task = task
                woken.append(sleeper)
            self._collecting = bool(self._asleep and (self.queue or self._urgent))
        for sleeper in woken:
            sleeper.lock.release()
        return self._collecting

    def set_thread_count(self, count: int) -> None:
        """Start threads, or stop them."""
        super().set_thread_count(count)
        with self.lock:
            if not count:  # the shutdown cancels what is in waitress's queue
                self.queue.extend(self._urgent)
                self._urgent.clear()
            woken, self._asleep = (self._asleep, []) if self.stop_count else ([], self._asleep)
            self.active_count += len(woken)
        for sleeper in woken:
            sleeper.lock.release()
