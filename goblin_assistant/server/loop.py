"""waitress's main loop, on epoll. Its cost grows with activity, not with open connections.

waitress asks every connection before every poll() whether it wants to read or write, and wakes up
at the end of every request to ask again. With 500 open streams, each other request costs a
thousand calls. Here a connection is asked only after an event of its own. A request that leaves
its connection unchanged, as nearly all do, does not wake the loop.
"""

from __future__ import annotations

import contextlib
import select
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore

_READ = select.POLLIN
"""Without POLLPRI: HTTP has no urgent data, and waitress would log a warning for it every turn."""
_WRITE = select.POLLOUT


def wanted(thing: Any) -> int:
    """The events that a connection, listener or trigger waits for, as bits of poll() and epoll."""
    mask = _READ if thing.readable() else 0
    if not thing.accepting and thing.writable():
        mask |= _WRITE
    return mask


def _nothing(_events: int) -> None:
    pass


class WatchedMap(dict[int, Any]):
    """waitress's map of descriptors, watched by epoll. All but `tell` is for the main thread."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self.on_events: Callable[[int], None] = _nothing
        """Called with the number of a turn's events before they are handled."""
        self._changed: deque[Any] = deque()

    def __setitem__(self, descriptor: int, thing: Any) -> None:
        super().__setitem__(descriptor, thing)
        thing.interest = 0
        thing.descriptor = descriptor
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
            # Listeners last: a new connection may get the descriptor of one that was just closed,
            # and must not get its events.
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
        descriptor = thing.descriptor
        known: Any = self.get(descriptor)
        if known is None or known is not thing:
            return  # closed since
        # Repeat until it is stable. A thread that changes what is wanted compares with `interest`
        # afterwards, so that one of the two sees the change.
        while (mask := wanted(thing)) != thing.interest:
            before, thing.interest = thing.interest, mask
            if not mask:
                self._epoll.unregister(descriptor)
            elif before:
                self._epoll.modify(descriptor, mask)
            else:
                self._epoll.register(descriptor, mask)


class PolledMap(dict[int, Any]):
    """The same without epoll: waitress's own loop."""

    def __init__(self) -> None:
        super().__init__()
        self.on_events: Callable[[int], None] = _nothing
        """Never called: tasks go to threads while the events of a turn are handled."""

    def tell(self, thing: Any) -> None:
        """Does nothing: every turn asks everything."""

    def turn(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and handle them."""
        wasyncore.loop(timeout=timeout, use_poll=True, map=self, count=1)


def make_map() -> WatchedMap | PolledMap:
    """A map on epoll, or on poll() where the system has no epoll."""
    return WatchedMap() if hasattr(select, "epoll") else PolledMap()


class ChannelServer:
    """The listener as one connection sees it. Its trigger names the connection, and wakes the loop
    only when the connection waits for other events than before."""

    __slots__ = (
        "_channel", "_listener", "add_task", "adj", "application", "bodies", "body_limits",
        "effective_port", "server_name",
    )  # fmt: skip

    def __init__(self, listener: Any, channel: Any) -> None:
        self._listener = listener
        self._channel = channel
        # Constant, and read for every request: without __getattr__.
        self.add_task = listener.add_task
        self.adj = listener.adj
        self.application = self._kept_alive if listener.keep_alive_seconds else listener.application
        self.effective_port = listener.effective_port
        self.server_name = listener.server_name
        self.body_limits = listener.body_limits
        self.bodies = listener.bodies

    @property
    def draining(self) -> bool:
        """Whether responses close their connection."""
        return bool(self._listener.draining)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def _kept_alive(self, environ: Any, start_response: Any) -> Any:
        """The application, with the offer to keep its streams alive (web/keep_alive.py)."""
        environ["goblin.keep_alive"] = self._channel.keep_alive
        return self._listener.application(environ, start_response)

    def pull_trigger(self) -> None:
        """Called by a thread that has written, or ended a request."""
        channel = self._channel
        if wanted(channel) != channel.interest:
            self._listener.watched.tell(channel)
            self._listener.pull_trigger()
