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
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore

_READ = select.POLLIN
"""Without POLLPRI: HTTP has no urgent data, and waitress logs a warning for each turn that finds some."""
_WRITE = select.POLLOUT


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


class ChannelServer:
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
