"""`goblin-assistant serve`: waitress with a main loop of our own, so that SIGTERM ends it gently.

On SIGTERM or SIGINT: readiness answers 503; after GOBLIN_DRAIN_DELAY_SECONDS the listener is closed; answers say
`Connection: close`; running requests may finish for GOBLIN_GRACE_SECONDS; what is left then is cut and logged; exit 0.
A second signal ends the process at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from goblin_assistant import lifecycle
from goblin_assistant.config import Config
from goblin_assistant.logs import json_logging
from goblin_assistant.metrics import (
    server_connections,
    server_connections_shed_total,
    server_readers_cut_total,
    server_request_body_bytes,
    server_threads_busy,
    server_threads_max,
    server_unsent_bytes,
)
from goblin_assistant.runtime import Runtime
from goblin_assistant.server import process
from goblin_assistant.server.bodies import PendingBodies
from goblin_assistant.server.channel import Channel
from goblin_assistant.server.loop import make_map
from goblin_assistant.server.workers import WorkerPool
from goblin_assistant.version import __version__
from goblin_assistant.web import metrics_endpoint
from goblin_assistant.web.body_limits import BodyLimits

logger = logging.getLogger("goblin_assistant.server")

RECEIVE_TIMEOUT_SECONDS = 120.0
"""How long a client may take to send one request, from its first byte to its last."""

UNBOUNDED = 2**62
"""waitress's own limit of a body; ours go by route and are counted by the parser."""

ROOM = 16
"""One part in so many of the connections is kept free, by closing those that have waited longest."""

FULL_PAUSE_SECONDS = 0.2
"""How long nobody is accepted after the process could open no further descriptor."""

SHED_LOG_SECONDS = 10.0

ACCEPTED_AT_ONCE = 64

AGAIN_SECONDS = 0.001
"""How long the loop waits for events while requests are left that no thread was woken for."""

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's buffer for each client. Left to itself it grows to megabytes for a client that takes
nothing, and a stream fills it first."""

UNSENT_ROOM = 8
"""One cutting frees an eighth of the bound, so that a flood does not cause one for each answer."""

WEIGHED_SECONDS = 0.05
"""How often the unsent bytes of all connections are added up."""

STALLED_WHEN_FULL_SECONDS = 10.0
"""While every chat slot is taken, a stream whose client takes nothing gives its slot back sooner."""

QUIET_SECONDS = 0.25
"""How long nothing may happen on any connection before a drained server ends."""

SECOND_SIGNAL_EXIT = 1


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket."""

    channel_class = Channel
    draining = False
    paused_until = 0.0

    def __init__(
        self, app: Any, *args: Any, limits: BodyLimits, bodies: PendingBodies, **kwargs: Any
    ) -> None:
        self.body_limits = limits
        self.bodies = bodies
        super().__init__(app, *args, **kwargs)

    def accept(self) -> Any:
        """As waitress; without a descriptor to spare, nobody is accepted for a moment: the waiting
        connection would wake the loop again at once."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.paused_until = time.monotonic() + FULL_PAUSE_SECONDS
            raise

    def handle_accept(self) -> None:
        """As waitress, but not one connection a turn: those that wait come in before threads are
        woken for the first of them."""
        for _ in range(ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before or not self.readable():
                return

    def readable(self) -> bool:
        """As waitress, but not while paused."""
        return bool(super().readable()) and time.monotonic() >= self.paused_until

    def maintenance(self, now: float) -> None:
        """As waitress: mark connections that have been idle for long; and have them looked at."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.will_close:
                self._map.tell(channel)

    def accept_waiting(self) -> None:
        """Take in whoever has connected already: closing the listener would reset them."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()


class Server:
    """waitress' parts around one application."""

    def __init__(self, app: Flask, config: Config, descriptors: int = 1024) -> None:
        self._app = app
        self._config = config
        self._runtime: Runtime = app.extensions["goblin"]
        self._map = make_map()
        adjustments = Adjustments(**settings(config, descriptors))
        self._shed_above = adjustments.connection_limit - max(
            2, adjustments.connection_limit // ROOM
        )
        self._shed = 0
        self._shed_logged = 0.0
        self._bodies = PendingBodies(config.pending_body_bytes)
        self._dispatcher = WorkerPool()
        self._dispatcher.set_thread_count(adjustments.threads)
        self.listeners = [
            Listener(
                app.wsgi_app,
                self._map,
                dispatcher=self._dispatcher,
                adj=adjustments,
                sockinfo=sockinfo,
                limits=BodyLimits(config.max_body_bytes),
                bodies=self._bodies,
            )
            for sockinfo in adjustments.listen
        ]
        for listener in self.listeners:  # what it accepts inherits it
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._map.on_events = self._dispatcher.collect
        self._tasks_left = False
        self._signals = 0
        self._watched = 0.0
        self._weighed = 0.0

    @property
    def port(self) -> int:
        """The port that is really listened on."""
        return int(self.listeners[0].effective_port)

    def run(self) -> None:
        """Serve until the first signal, then drain. Call it in the main thread."""
        server_threads_max.set(self._config.threads)
        server_threads_busy.set_function(lambda: max(0, self._dispatcher.active_count))
        server_connections.set_function(
            lambda: sum(len(listener.active_channels) for listener in self.listeners)
        )
        server_request_body_bytes.set_function(lambda: self._bodies.held)
        server_unsent_bytes.set_function(
            lambda: sum(channel.total_outbufs_len for channel in self._channels())
        )
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        while not self._signals:
            self._turn()
        self._drain()

    def _turn(self, timeout: float = 1.0) -> None:
        for listener in self.listeners:
            self._map.tell(
                listener
            )  # it closes idle connections, and stops accepting when there are too many
        now = time.monotonic()
        paused = any(listener.paused_until > now for listener in self.listeners)
        if paused:
            timeout = min(timeout, FULL_PAUSE_SECONDS)
        self._map.turn(AGAIN_SECONDS if self._tasks_left else timeout)
        self._tasks_left = self._dispatcher.hand_out()
        now = time.monotonic()
        paused = any(listener.paused_until > now for listener in self.listeners)
        if paused or len(self._map) > self._shed_above:
            self._make_room(now, out_of_descriptors=paused)
        if now - self._weighed >= WEIGHED_SECONDS:
            self._weighed = now
            self._bound_unsent()
        if now - self._watched >= 1.0:
            self._watched = now
            self._watch(now)

    def _watch(self, now: float) -> None:
        """Close the connections of clients that take nothing or never finish their request."""
        most = self._config.send_timeout_seconds
        full = self._runtime.chat.slots.full
        most_running = min(most, STALLED_WHEN_FULL_SECONDS) if full else most
        for channel in self._channels():
            timeout = most_running if channel.requests else most
            unsent = channel.total_outbufs_len
            if channel.watch(now, timeout, RECEIVE_TIMEOUT_SECONDS):
                if unsent:
                    server_readers_cut_total.labels("slots" if timeout < most else "time").inc()
                logger.warning(
                    "client_stalled", extra={"client": channel.addr[0], "unsent": unsent}
                )

    def _bound_unsent(self) -> None:
        """Keep the unsent bytes of all connections within their bound: those go first whose clients
        have taken nothing for longest."""
        unsent = [
            (channel.last_activity, n, channel)
            for n, channel in enumerate(self._channels())
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

    def _make_room(self, now: float, *, out_of_descriptors: bool) -> None:
        """Close the connections that have waited longest: without a request, or with one that is only
        half there. Those with a request at work stay."""
        waiting = [
            (channel.waiting_since(now), number, channel)
            for number, channel in enumerate(self._channels())
            if not channel.requests and not channel.total_outbufs_len
        ]
        waiting.sort()
        chosen = waiting[: max(1, len(self._map) // ROOM)]
        for _, _, channel in chosen:
            channel.handle_close()
        if chosen:
            for listener in self.listeners:
                listener.paused_until = 0.0
            server_connections_shed_total.inc(len(chosen))
            self._shed += len(chosen)
        if now - self._shed_logged >= SHED_LOG_SECONDS:
            self._shed_logged = now
            logger.warning(
                "connections_shed",
                extra={
                    "count": self._shed,
                    "open": len(self._channels()),
                    "reason": "no file descriptor left"
                    if out_of_descriptors
                    else "too many connections",
                },
            )
            self._shed = 0

    def _channels(self) -> list[Channel]:
        return [
            channel
            for listener in self.listeners
            for channel in list(listener.active_channels.values())
        ]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("second_signal", extra={"signal": signal.Signals(number).name})
            json_logging.flush(0.5)
            os._exit(SECOND_SIGNAL_EXIT)
        self.listeners[0].pull_trigger()  # ends the wait in poll()

    def _drain(self) -> None:
        began = time.monotonic()
        self._runtime.monitor.drain()
        busy = sum(channel.busy() for channel in self._channels())
        logger.info(
            "draining", extra={"requests": busy, "grace_seconds": self._config.grace_seconds}
        )
        for listener in self.listeners:
            listener.draining = True
        while time.monotonic() < began + self._config.drain_delay_seconds:
            self._turn(0.1)
        for listener in self.listeners:
            listener.accept_waiting()
            # Only the listening socket: the trigger that comes with it still wakes the loop.
            wasyncore.dispatcher.close(listener)
        end = time.monotonic() + self._config.grace_seconds
        quiet_since = time.monotonic()
        while time.monotonic() < end:
            self._turn(0.05)
            if any(channel.busy() for channel in self._channels()):
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= QUIET_SECONDS:
                break
        self._cut()
        self._dispatcher.shutdown(timeout=5)
        logger.info("server_stopped", extra={"drain_seconds": round(time.monotonic() - began, 2)})

    def _cut(self) -> None:
        channels = self._channels()
        # A slice: a thread may end the request between a look at the list and its first element.
        cut = [request for channel in channels for request in channel.requests[:1]]
        if cut:
            paths = [f"{request.command} {request.path}"[:200] for request in cut[:50]]
            logger.warning("requests_cut", extra={"count": len(cut), "requests": paths})
        for channel in channels:
            channel.handle_close()


def settings(config: Config, descriptors: int = 1024) -> dict[str, Any]:
    """waitress' adjustments for a configuration; `descriptors` is how many files the process may open."""
    host = (
        f"[{config.host}]"
        if ":" in config.host and not config.host.startswith("[")
        else config.host
    )
    values: dict[str, Any] = {
        "listen": f"{host}:{config.port}",
        "threads": config.threads,
        # Lets a request learn that its client has gone, and a silent stream with it.
        "channel_request_lookahead": 1,
        "max_request_body_size": UNBOUNDED,
        "max_request_header_size": 64 * 1024,
        "connection_limit": max(
            min(64, descriptors // 4), min(8192, descriptors - 2 * config.threads - 128)
        ),
        "recv_bytes": 64 * 1024,
        # A stream's client that reads slowly costs this much memory, then its thread waits. An answer
        # that is there as a whole is one piece, and no thread waits for it.
        "outbuf_high_watermark": 1024 * 1024,
        "backlog": 1024,
        "channel_timeout": 120,
        "log_socket_errors": False,
        "clear_untrusted_proxy_headers": True,
        "ident": "goblin-assistant",
    }
    if config.trusted_proxy is not None:
        values |= {
            "trusted_proxy": config.trusted_proxy,
            "trusted_proxy_count": config.trusted_proxy_count,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
        }
    return values


def _log_unraisable(hook: sys.UnraisableHookArgs) -> None:
    """Errors of finalizers go to the log, not as a traceback to standard error."""
    logger.warning(
        "finalizer_failed",
        extra={"kind": hook.exc_type.__name__, "error": str(hook.exc_value)[:200]},
    )


def serve(app: Flask, config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Call it in the main thread."""
    sys.unraisablehook = _log_unraisable
    process.limit_malloc()
    descriptors = process.raise_descriptor_limit()
    metrics_server = None
    try:
        if config.cpu is not None:
            process.pin_to_cpu(config.cpu)
        process.finish_before_switching()
        lifecycle.start(app)
        metrics_server = metrics_endpoint.serve_standalone(config)
        server = Server(app, config, descriptors)
    except OSError as error:
        logger.error(
            "cannot_start", extra={"error": str(error), "host": config.host, "port": config.port}
        )
        json_logging.flush()
        return 1
    process.freeze_startup_objects()
    logger.info(
        "server_started",
        extra={
            "url": f"http://{config.host}:{server.port}",
            "version": __version__,
            "threads": config.threads,
            "chat_slots": config.slots,
            "pid": os.getpid(),
        },
    )
    code = 0
    try:
        server.run()
    except Exception:
        logger.exception("server_failed")
        code = 1
    finally:
        if metrics_server is not None:
            metrics_server.shutdown()
            metrics_server.server_close()
        lifecycle.stop(app)
        json_logging.flush()
    return code
