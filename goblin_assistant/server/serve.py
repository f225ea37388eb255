"""`goblin-assistant serve`: waitress with a main loop of our own, until a signal comes."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from typing import Any

from flask import Flask
from waitress.adjustments import Adjustments

from goblin_assistant import lifecycle
from goblin_assistant.config import Config
from goblin_assistant.logs import json_logging
from goblin_assistant.metrics import (
    server_connections,
    server_request_body_bytes,
    server_threads_busy,
    server_threads_max,
    server_unsent_bytes,
)
from goblin_assistant.runtime import Runtime
from goblin_assistant.server import metrics_port, process
from goblin_assistant.server.addresses import plain
from goblin_assistant.server.bodies import PendingBodies
from goblin_assistant.server.connections import (
    OTHER_CONNECTIONS,
    ROOM,
    ConnectionBounds,
    open_channels,
)
from goblin_assistant.server.listener import FULL_PAUSE_SECONDS, Listener
from goblin_assistant.server.loop import make_map
from goblin_assistant.server.reload import Hangup, Reloader
from goblin_assistant.server.shutdown import Shutdown
from goblin_assistant.server.workers import WorkerPool
from goblin_assistant.version import __version__
from goblin_assistant.web.body_limits import BodyLimits

logger = logging.getLogger("goblin_assistant.server")

UNBOUNDED = 2**62
"""Turns off waitress's limit of a body: the parser applies ours, by route."""

AGAIN_SECONDS = 0.001
"""How long the loop waits for events while tasks wait for a thread to be woken."""

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's send buffer of each connection. Without a bound it grows to megabytes for a client
that reads nothing."""

WEIGHED_SECONDS = 0.05
"""How often the unsent bytes of all connections are counted."""


class Server:
    """waitress's parts for one application."""

    def __init__(self, app: Flask, config: Config, descriptors: int = 1024) -> None:
        self._app = app
        self._config = config
        self._runtime: Runtime = app.extensions["goblin"]
        self._map = make_map()
        adjustments = Adjustments(**settings(config, descriptors))
        self._shed_above = adjustments.connection_limit - max(
            2, adjustments.connection_limit // ROOM
        )
        self._bound_chats(self._shed_above, descriptors)
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
                cors_origins=config.cors_origins,
                keep_alive_seconds=config.stream_keepalive_seconds,
            )
            for sockinfo in adjustments.listen
        ]
        for listener in self.listeners:  # what it accepts inherits it
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._bounds = ConnectionBounds(self.listeners, config, self._runtime.chat.slots)
        self._map.on_events = self._dispatcher.collect
        self._tasks_left = False
        self._shutdown = Shutdown(self.listeners, config)
        self._hangup = Hangup(
            Reloader(self._runtime), self._shutdown, self.listeners[0].pull_trigger
        )
        self._watched = 0.0
        self._weighed = 0.0

    def _bound_chats(self, connections: int, descriptors: int) -> None:
        """Lower the number of chats at once, and of those that wait, where few files may be open.
        None of them is ever closed to make room: if each connection had one, nobody could ask for
        /health."""
        slots, waiting = self._runtime.chat.slots, self._config.most_chats_waiting
        room = max(2, connections - OTHER_CONNECTIONS)
        if slots.limit + waiting > room:
            waiting = min(waiting, room // 8)
            most = min(slots.limit, room - waiting)
            logger.warning(
                "few_open_files",
                extra={"open_files": descriptors, "chat_slots": most, "wanted": slots.limit},
            )
            slots.lower(most, waiting)

    @property
    def port(self) -> int:
        """The port of the first listener, also if 0 was configured."""
        return int(self.listeners[0].effective_port)

    def run(self) -> None:
        """Serve until the first signal, then shut down. For the main thread."""
        server_threads_max.set(self._config.threads)
        server_threads_busy.set_function(lambda: max(0, self._dispatcher.active_count))
        server_connections.set_function(
            lambda: sum(len(listener.active_channels) for listener in self.listeners)
        )
        server_request_body_bytes.set_function(lambda: self._bodies.held)
        server_unsent_bytes.set_function(
            lambda: sum(channel.total_outbufs_len for channel in open_channels(self.listeners))
        )
        self._shutdown.handle_signals()
        self._hangup.handle_signal()
        while not self._shutdown.requested:
            self._turn()
        began = time.monotonic()
        self._runtime.monitor.drain()
        self._shutdown.drain(self._turn)
        self._dispatcher.shutdown(timeout=5)
        logger.info("server_stopped", extra={"drain_seconds": round(time.monotonic() - began, 2)})

    def _turn(self, timeout: float = 1.0) -> None:
        self._hangup.turn()
        # A listener closes idle connections, and stops accepting when there are too many.
        for listener in self.listeners:
            self._map.tell(listener)
        now = time.monotonic()
        paused = any(listener.paused_until > now for listener in self.listeners)
        if paused:
            timeout = min(timeout, FULL_PAUSE_SECONDS)
        self._map.turn(AGAIN_SECONDS if self._tasks_left else timeout)
        self._tasks_left = self._dispatcher.hand_out()
        now = time.monotonic()
        paused = any(listener.paused_until > now for listener in self.listeners)
        if paused or len(self._map) > self._shed_above:
            self._bounds.make_room(now, len(self._map), out_of_descriptors=paused)
        if now - self._weighed >= WEIGHED_SECONDS:
            self._weighed = now
            self._bounds.bound_unsent()
        if now - self._watched >= 1.0:
            self._watched = now
            self._bounds.cut_stalled(now)


def settings(config: Config, descriptors: int = 1024) -> dict[str, Any]:
    """waitress's adjustments. `descriptors` is the number of files that the process may open."""
    host = (
        f"[{config.host}]"
        if ":" in config.host and not config.host.startswith("[")
        else config.host
    )
    values: dict[str, Any] = {
        "listen": f"{host}:{config.port}",
        "threads": config.threads,
        # So that a request, also a silent stream, notices that its client has gone.
        "channel_request_lookahead": 1,
        "max_request_body_size": UNBOUNDED,
        "max_request_header_size": 64 * 1024,
        "connection_limit": max(
            min(64, descriptors // 4), min(8192, descriptors - 2 * config.threads - 128)
        ),
        "recv_bytes": 64 * 1024,
        # The memory for a stream whose client reads slowly; then its thread waits. A response that
        # is not streamed is one piece, and no thread waits for it.
        "outbuf_high_watermark": 1024 * 1024,
        "backlog": 1024,
        "channel_timeout": 120,
        "log_socket_errors": False,
        "clear_untrusted_proxy_headers": True,
        "ident": "goblin-assistant",
    }
    if config.trusted_proxy is not None:
        values |= {
            "trusted_proxy": plain(config.trusted_proxy),
            "trusted_proxy_count": config.trusted_proxy_count,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
        }
    return values


def _log_unraisable(hook: sys.UnraisableHookArgs) -> None:
    """Log the error of a finalizer, instead of a traceback on standard error."""
    logger.warning(
        "finalizer_failed",
        extra={"kind": hook.exc_type.__name__, "error": str(hook.exc_value)[:200]},
    )


def serve(app: Flask, config: Config) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. For the main thread."""
    sys.unraisablehook = _log_unraisable
    process.limit_malloc()
    descriptors = process.raise_descriptor_limit()
    try:
        if config.cpu is not None:
            process.pin_to_cpu(config.cpu)
        process.finish_before_switching()
        lifecycle.start(app)
        metrics_port.listen(config)
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
            "chat_slots": app.extensions["goblin"].chat.slots.limit,
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
        lifecycle.stop(app)
        json_logging.flush()
    return code
