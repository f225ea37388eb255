"""A listening socket: accepts connections in bursts, and pauses when no descriptor is left."""

from __future__ import annotations

import errno
import time
from typing import Any

from waitress.server import TcpWSGIServer

from goblin_assistant.server.bodies import PendingBodies
from goblin_assistant.server.channel import Channel
from goblin_assistant.server.loop import PolledMap, WatchedMap
from goblin_assistant.web.body_limits import BodyLimits

FULL_PAUSE_SECONDS = 0.2
"""How long no connection is accepted after no descriptor was left."""

ACCEPTED_AT_ONCE = 64


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket."""

    channel_class = Channel
    draining = False
    paused_until = 0.0

    def __init__(
        self,
        app: Any,
        watched: WatchedMap | PolledMap,
        *,
        limits: BodyLimits,
        bodies: PendingBodies,
        cors_origins: list[str],
        keep_alive_seconds: float,
        **kwargs: Any,
    ) -> None:
        self.watched = watched
        self.body_limits = limits
        self.bodies = bodies
        self.cors_origins = cors_origins
        self.keep_alive_seconds = keep_alive_seconds
        super().__init__(app, watched, **kwargs)

    def accept(self) -> Any:
        """As waitress. When no descriptor is left, accepting pauses: otherwise the waiting
        connection would wake the loop again at once."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.paused_until = time.monotonic() + FULL_PAUSE_SECONDS
            raise

    def handle_accept(self) -> None:
        """As waitress, but many connections per turn: all are accepted before threads are woken."""
        for _ in range(ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before or not self.readable():
                return

    def readable(self) -> bool:
        """As waitress, but not while paused. It would log a line for each connection at the limit;
        the main loop makes room and says so (connections.py)."""
        if len(self.watched) >= self.adj.connection_limit:
            return False
        return bool(super().readable()) and time.monotonic() >= self.paused_until

    def maintenance(self, now: float) -> None:
        """As waitress, which marks idle connections; the loop then closes them."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.will_close:
                self.watched.tell(channel)

    def accept_waiting(self) -> None:
        """Accept the connections that wait: closing the listener would reset them."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
