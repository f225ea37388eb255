"""waitress' main loop and its threads, at the cost of what happens instead of what is open.

waitress asks every connection before every poll() whether it wants to read or write, and is woken at the end of every
request to ask again: with 500 streams open, each request beside them costs a thousand questions. Here epoll knows, and
a connection is asked again only after something happened to it. A request that ends with its connection as it was
before, which is how nearly all end, wakes nobody.

And waitress wakes the thread that has slept longest, so that a pool of 500 is walked through in turn, each with a stack
and a database connection that no cache holds any more. Here the one that slept shortest is woken.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher

_READ = select.POLLIN
"""Without POLLPRI: HTTP has no urgent data, and waitress logs a warning for each turn that finds some."""
_WRITE = select.POLLOUT


WAKES_AT_ONCE = 4
WAKES_PER_SECOND = 1000
"""How fast sleeping threads are woken. Measured at 300 chats at once, 99th percentile of
/health/live: 150 ms without a bound, 10 ms with it; the chats' own answers came no later."""


BURST_EVENTS = 16
AWAKE_THREADS = 8
"""What makes a burst: more events in a turn, or more threads awake, than this. Otherwise threads are
woken as tasks come: collecting always cost 9 % of a chat's CPU with 8 clients."""


def wanted(thing: Any) -> int:
    """What a connection, listener or trigger waits for now, as poll() and epoll say it."""
    mask = _READ if thing.readable() else 0
    if not thing.accepting and thing.writable():
        mask |= _WRITE
    return mask


def _nothing(_events: int) -> None:
    pass


class WatchedMap(dict[int, Any]):
    """waitress' map of descriptors, watched by epoll. All but `tell` is for the main thread."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self.on_events: Callable[[int], None] = _nothing
        """Called with their number before the events of a turn are handled."""
        self._changed: deque[Any] = deque()

    def __setitem__(self, descriptor: int, thing: Any) -> None:
        super().__setitem__(descriptor, thing)
        thing.interest = 0
        self._changed.append(thing)

    def __delitem__(self, descriptor: int) -> None:
        thing = self[descriptor]
        super().__delitem__(descriptor)
        if thing.interest:
            thing.interest = 0
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def tell(self, thing: Any) -> None:
        """Ask `thing` again before the next wait. From any thread; the caller wakes the loop."""
        self._changed.append(thing)

    def turn(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and handle them."""
        changed = self._changed
        while changed:
            self._arm(changed.popleft())
        events = self._epoll.poll(timeout)
        self.on_events(len(events))
        if len(events) > 1:
            # A new connection may get the number of one that was closed a moment ago: its events must not be another's.
            events.sort(key=lambda event: self._accepts(event[0]))
        for descriptor, flags in events:
            thing = self.get(descriptor)
            if thing is not None:
                wasyncore.readwrite(thing, flags)
                self._arm(thing)

    def _accepts(self, descriptor: int) -> bool:
        thing = self.get(descriptor)
        return thing is not None and bool(thing.accepting)

    def _arm(self, thing: Any) -> None:
        descriptor = thing._fileno
        known: Any = self.get(descriptor)
        if known is None or known is not thing:
            return  # closed since
        # Again until it stays: a thread that changes what is wanted compares with `interest` afterwards, so one of the
        # two sees the other.
        while (mask := wanted(thing)) != thing.interest:
            before, thing.interest = thing.interest, mask
            if not mask:
                self._epoll.unregister(descriptor)
            elif before:
                self._epoll.modify(descriptor, mask)
            else:
                self._epoll.register(descriptor, mask)


class PolledMap(dict[int, Any]):
    """The same without epoll, where the system has none: waitress' own loop."""

    def __init__(self) -> None:
        super().__init__()
        self.on_events: Callable[[int], None] = _nothing
        """Never called: tasks go to threads while the events of a turn are handled."""

    def tell(self, thing: Any) -> None:
        """Everything is asked every time."""

    def turn(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and handle them."""
        wasyncore.loop(timeout=timeout, use_poll=True, map=self, count=1)


def make_map() -> WatchedMap | PolledMap:
    """The best that the system offers."""
    return WatchedMap() if hasattr(select, "epoll") else PolledMap()


class Seat:
    """What a connection takes for its server: the listener, but a pulled trigger says whose it is, and only wakes the
    loop when there is something new for it."""

    __slots__ = (
        "_channel", "_listener", "add_task", "adj", "application", "bodies", "body_limits", "effective_port",
        "server_name",
    )  # fmt: skip

    def __init__(self, listener: Any, channel: Any) -> None:
        self._listener = listener
        self._channel = channel
        # What every request asks for, and what does not change.
        self.add_task = listener.add_task
        self.adj = listener.adj
        self.application = listener.application
        self.effective_port = listener.effective_port
        self.server_name = listener.server_name
        self.body_limits = listener.body_limits
        self.bodies = listener.bodies

    @property
    def draining(self) -> bool:
        """Whether answers say goodbye."""
        return bool(self._listener.draining)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def pull_trigger(self) -> None:
        """Called by a thread that has written, or ended a request."""
        channel = self._channel
        if wanted(channel) != channel.interest:
            self._listener._map.tell(channel)
            self._listener.pull_trigger()


class _Bed:
    """Where a thread sleeps, and the task that it is woken with."""

    __slots__ = ("lock", "task")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.task: Any = None


class Threads(ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's threads; the one that went to sleep last is woken first, with its task in its hands.

    Threads that run Python share one lock, and the main loop needs it after each system call. Sixty
    that are woken at once by a burst stand before the main loop each time, and a health request
    behind the burst waits for all of it. So in a burst the tasks of a turn are collected; at its
    end health requests come first, and of the others a few threads are woken, then one each
    millisecond. A thread that is awake takes the next task without waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asleep: list[_Bed] = []
        self._urgent: deque[Any] = deque()
        self._urgent_was_last = False
        self._collecting = False
        self._may_wake = 0.0
        self._handed_out = 0.0

    def handler_thread(self, thread_no: int) -> None:
        """A thread's life."""
        bed = _Bed()
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
                    self._asleep.append(bed)
            if task is None:
                bed.lock.acquire()
                task, bed.task = bed.task, None
                if task is None:
                    continue  # woken to stop
            try:
                task.service()
            except BaseException:
                self.logger.exception("Exception when servicing %r", task)
            task = None

    def _next_of_thread(self) -> Any:
        """What a thread does next. While the main loop takes requests in, it only does what is
        urgent: the main loop wakes it again at the end of its turn."""
        if not self._collecting:
            return self._next()
        if self._urgent:
            return self._urgent.popleft()
        if self.queue:
            self._may_wake += 1
        return None

    def _next(self) -> Any:
        """The next task; every other one is not urgent, so that a flood of urgent ones leaves room."""
        if self._urgent and not (self._urgent_was_last and self.queue):
            self._urgent_was_last = True
            return self._urgent.popleft()
        self._urgent_was_last = False
        return self.queue.popleft() if self.queue else None

    def add_task(self, task: Any) -> None:
        """Have a thread do it, or the next that has time."""
        with self.lock:
            if self._collecting or not self._asleep:
                (self._urgent if getattr(task, "urgent", False) else self.queue).append(task)
                return
            bed = self._asleep.pop()
            self.active_count += 1
            bed.task = task
        bed.lock.release()

    def collect(self, events: int) -> None:
        """In a burst, keep tasks until `hand_out`. For the main loop, before it handles `events`."""
        if events > BURST_EVENTS or self.active_count > AWAKE_THREADS:
            self._collecting = True

    def hand_out(self) -> bool:
        """Wake threads for what was collected. True while threads sleep and tasks are left: call it
        again within a millisecond."""
        if not self._collecting:
            return False
        woken: list[_Bed] = []
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
                bed = self._asleep.pop()
                self.active_count += 1
                bed.task = task
                woken.append(bed)
            self._collecting = bool(self._asleep and (self.queue or self._urgent))
        for bed in woken:
            bed.lock.release()
        return self._collecting

    def set_thread_count(self, count: int) -> None:
        """Start threads, or stop them."""
        super().set_thread_count(count)
        with self.lock:
            if not count:  # shutting down cancels what is in waitress's queue
                self.queue.extend(self._urgent)
                self._urgent.clear()
            woken, self._asleep = (self._asleep, []) if self.stop_count else ([], self._asleep)
            self.active_count += len(woken)
        for bed in woken:
            bed.lock.release()
