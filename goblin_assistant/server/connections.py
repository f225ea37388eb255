"""Which connections are closed when clients stall, or when there are too many."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from goblin_assistant.config import Config
from goblin_assistant.metrics import server_connections_shed_total, server_readers_cut_total
from goblin_assistant.routing.slots import ChatSlots
from goblin_assistant.server.channel import Channel
from goblin_assistant.server.listener import Listener

logger = logging.getLogger("goblin_assistant.server")

RECEIVE_TIMEOUT_SECONDS = 120.0
"""How long a client may take to send one request, from its first byte to its last. A large body
has more (server/channel.py)."""

ROOM = 16
"""A sixteenth of the connections is kept free, by closing those that have waited longest."""

OTHER_CONNECTIONS = 4
"""Descriptors among the connections that no chat may have: the listener's, its trigger's, and two
for health and metrics."""

SPARED = 2
YOUNG_SECONDS = 1.0
"""The newest connections are kept for a second: their requests are on their way. Where all others
have one at work, the request for /health would be the one to go."""

SHED_LOG_SECONDS = 10.0

UNSENT_ROOM = 8
"""Each time an eighth of the bound is freed, so that a flood does not cause it for every
response."""

STALLED_WHEN_FULL_SECONDS = 10.0
"""While all chat slots are taken, a stream whose client reads nothing is closed sooner."""


OVERTIME_SECONDS = 5.0
"""How much longer than GOBLIN_TIMEOUT_TOTAL a client may take for its stream."""


def open_channels(listeners: Sequence[Listener]) -> list[Channel]:
    """The connections of all listeners."""
    return [
        channel for listener in listeners for channel in list(listener.active_channels.values())
    ]


class ConnectionBounds:
    """Closes connections that cost too much. For the main thread."""

    def __init__(self, listeners: Sequence[Listener], config: Config, slots: ChatSlots) -> None:
        self._listeners = listeners
        self._config = config
        self._slots = slots
        self._shed = 0
        self._shed_logged = 0.0

    def cut_stalled(self, now: float) -> None:
        """Close the connections of clients that read nothing or never finish their request."""
        most = self._config.send_timeout_seconds
        full = self._slots.full
        most_running = min(most, STALLED_WHEN_FULL_SECONDS) if full else most
        longest = self._config.timeout_total + OVERTIME_SECONDS
        for channel in open_channels(self._listeners):
            timeout = most_running if channel.requests else most
            unsent = channel.total_outbufs_len
            if channel.watch(now, timeout, RECEIVE_TIMEOUT_SECONDS):
                if unsent:
                    server_readers_cut_total.labels("slots" if timeout < most else "time").inc()
                logger.warning(
                    "client_stalled", extra={"client": channel.addr[0], "unsent": unsent}
                )
            elif channel.requests and unsent and now - channel.queued_at > longest:
                # A client that takes a little now and then would keep its slot for ever.
                channel.handle_close()
                server_readers_cut_total.labels("time").inc()
                logger.warning(
                    "client_too_slow", extra={"client": channel.addr[0], "unsent": unsent}
                )

    def bound_unsent(self) -> None:
        """Keep the unsent bytes of all connections within their bound. Clients that have read
        nothing for longest are closed first."""
        unsent = [
            (channel.last_activity, n, channel)
            for n, channel in enumerate(open_channels(self._listeners))
            if channel.total_outbufs_len
        ]
        held = sum(channel.total_outbufs_len for _, _, channel in unsent)
        if held <= self._config.max_unsent_bytes:
            return
        unsent.sort()
        left, count = held, 0
        for _, _, channel in unsent:
            if left <= self._config.max_unsent_bytes * (1 - 1 / UNSENT_ROOM):
                break
            left -= channel.total_outbufs_len
            channel.handle_close()
            count += 1
        server_readers_cut_total.labels("memory").inc(count)
        logger.warning("readers_cut", extra={"count": count, "unsent": held, "left": left})

    def make_room(self, now: float, watched: int, *, out_of_descriptors: bool) -> None:
        """Close the connections that have waited longest without a whole request. Those with a
        running request stay. `watched` is the number of open descriptors."""
        waiting = [
            (channel.waiting_since(now), number, channel)
            for number, channel in enumerate(open_channels(self._listeners))
            if not channel.requests and not channel.total_outbufs_len
        ]
        waiting.sort()
        newest = [entry for entry in waiting[-SPARED:] if now - entry[0] > YOUNG_SECONDS]
        chosen = (waiting[:-SPARED] + newest)[: max(1, watched // ROOM)]
        for _, _, channel in chosen:
            channel.handle_close()
        if chosen:
            for listener in self._listeners:
                listener.paused_until = 0.0
            server_connections_shed_total.inc(len(chosen))
            self._shed += len(chosen)
        if now - self._shed_logged >= SHED_LOG_SECONDS:
            self._shed_logged = now
            logger.warning(
                "connections_shed",
                extra={
                    "count": self._shed,
                    "open": len(open_channels(self._listeners)),
                    "reason": "no file descriptor left"
                    if out_of_descriptors
                    else "too many connections",
                },
            )
            self._shed = 0
