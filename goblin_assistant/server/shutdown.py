"""What SIGTERM and SIGINT do: drain, cut what is left, and end.

After the first signal readiness answers 503, and responses carry `Connection: close`. The listeners
close after GOBLIN_DRAIN_DELAY_SECONDS. Then running requests have GOBLIN_GRACE_SECONDS to finish.
What is left is cut and logged, and the exit code is 0. A second signal ends the process at once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType

from waitress import wasyncore

from goblin_assistant.config import Config
from goblin_assistant.logs import json_logging
from goblin_assistant.server.connections import open_channels
from goblin_assistant.server.listener import Listener

logger = logging.getLogger("goblin_assistant.server")

QUIET_SECONDS = 0.25
"""A draining server ends when for this long no request has run, and nobody is connected."""

IDLE_SECONDS = 1.0
"""How long it waits while idle connections are open. A proxy that keeps some sends its next
requests over them; each answer tells it to close that connection. A request that crosses the
closing is lost: no proxy repeats a POST."""

SECOND_SIGNAL_EXIT = 1


class Shutdown:
    """Waits for a signal, and shuts the server down. For the main thread."""

    def __init__(self, listeners: Sequence[Listener], config: Config) -> None:
        self._listeners = listeners
        self._config = config
        self._signals = 0

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signals > 0

    def handle_signals(self) -> None:
        """Install the handlers of SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.on_signal)
        signal.signal(signal.SIGINT, self.on_signal)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT, or a SIGHUP that means the same."""
        self._signals += 1
        if self._signals > 1:
            logger.warning("second_signal", extra={"signal": signal.Signals(number).name})
            json_logging.flush(0.5)
            os._exit(SECOND_SIGNAL_EXIT)
        self._listeners[0].pull_trigger()  # ends the wait in poll()

    def drain(self, turn: Callable[[float], None]) -> None:
        """Refuse what is new, and return when running requests have finished or were cut.

        `turn` runs the main loop once and waits at most so many seconds for events.
        """
        busy = sum(channel.busy() for channel in open_channels(self._listeners))
        logger.info(
            "draining", extra={"requests": busy, "grace_seconds": self._config.grace_seconds}
        )
        for listener in self._listeners:
            listener.draining = True
        closing = time.monotonic() + self._config.drain_delay_seconds
        while time.monotonic() < closing:
            turn(0.1)
        for listener in self._listeners:
            listener.accept_waiting()
            # Only the listening socket: its trigger must still wake the loop.
            wasyncore.dispatcher.close(listener)
        end = time.monotonic() + self._config.grace_seconds
        quiet_since = time.monotonic()
        while time.monotonic() < end:
            turn(0.05)
            if any(channel.busy() for channel in open_channels(self._listeners)):
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self._enough() and _close_idle(self._listeners):
                break
        abort(self._listeners)

    def _enough(self) -> float:
        return IDLE_SECONDS if open_channels(self._listeners) else QUIET_SECONDS


def _close_idle(listeners: Sequence[Listener]) -> bool:
    """Close the connections on which nothing has arrived that is not read yet; whether these were
    all."""
    waiting = False
    for channel in open_channels(listeners):
        if _has_unread(channel.socket):
            waiting = True
        else:
            channel.handle_close()
    return not waiting


def _has_unread(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:  # nothing yet, or the client has gone
        return False


def abort(listeners: Sequence[Listener]) -> None:
    """Close every connection, and log the requests that this cuts."""
    channels = open_channels(listeners)
    # A slice, because a thread may remove the request between a test and the access.
    running = [request for channel in channels for request in channel.requests[:1]]
    if running:
        paths = [f"{request.command} {request.path}"[:200] for request in running[:50]]
        logger.warning("requests_cut", extra={"count": len(running), "requests": paths})
    for channel in channels:
        channel.handle_close()
