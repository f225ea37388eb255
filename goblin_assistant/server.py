"""`goblin-assistant serve`: waitress with a main loop of our own, so that SIGTERM ends it gently.

On SIGTERM or SIGINT: readiness answers 503; after GOBLIN_DRAIN_DELAY_SECONDS the listener is closed; answers say
`Connection: close`; running requests may finish for GOBLIN_GRACE_SECONDS; what is left then is cut and logged; exit 0.
A second signal ends the process at once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from goblin_assistant import json_logging, lifecycle, metrics_endpoint, process_setup
from goblin_assistant.config import Config
from goblin_assistant.extensions import Runtime
from goblin_assistant.metrics import server_threads_busy, server_threads_max
from goblin_assistant.server_channel import Channel
from goblin_assistant.server_loop import Threads, make_map
from goblin_assistant.version import __version__

logger = logging.getLogger("goblin_assistant.server")

RECEIVE_TIMEOUT_SECONDS = 120.0
"""How long a client may take to send one request, from its first byte to its last."""

BODY_SLACK = 1024 * 1024
"""The server reads this much beyond GOBLIN_MAX_BODY_BYTES: up to there the application answers 413 itself, with its
headers."""

QUIET_SECONDS = 0.25
"""How long nothing may happen on any connection before a drained server ends."""

SECOND_SIGNAL_EXIT = 1


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket."""

    channel_class = Channel
    draining = False

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
        self._dispatcher = Threads()
        self._dispatcher.set_thread_count(adjustments.threads)
        self.listeners = [
            Listener(app.wsgi_app, self._map, dispatcher=self._dispatcher, adj=adjustments, sockinfo=sockinfo)
            for sockinfo in adjustments.listen
        ]
        self._signals = 0
        self._watched = 0.0

    @property
    def port(self) -> int:
        """The port that is really listened on."""
        return int(self.listeners[0].effective_port)

    def run(self) -> None:
        """Serve until the first signal, then drain. Call it in the main thread."""
        server_threads_max.set(self._config.threads)
        server_threads_busy.set_function(lambda: max(0, self._dispatcher.active_count))
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        while not self._signals:
            self._turn()
        self._drain()

    def _turn(self, timeout: float = 1.0) -> None:
        for listener in self.listeners:
            self._map.tell(listener)  # it closes idle connections, and stops accepting when there are too many
        self._map.turn(timeout)
        now = time.monotonic()
        if now - self._watched >= 1.0:
            self._watched = now
            for channel in self._channels():
                if channel.watch(now, self._config.send_timeout_seconds, RECEIVE_TIMEOUT_SECONDS):
                    logger.warning("client_stalled", extra={"client": channel.addr[0]})

    def _channels(self) -> list[Channel]:
        return [channel for listener in self.listeners for channel in list(listener.active_channels.values())]

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
        logger.info("draining", extra={"requests": busy, "grace_seconds": self._config.grace_seconds})
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
        cut = [channel.requests[0] for channel in channels if channel.requests]
        if cut:
            paths = [f"{request.command} {request.path}"[:200] for request in cut[:50]]
            logger.warning("requests_cut", extra={"count": len(cut), "requests": paths})
        for channel in channels:
            channel.handle_close()


def settings(config: Config, descriptors: int = 1024) -> dict[str, Any]:
    """waitress' adjustments for a configuration; `descriptors` is how many files the process may open."""
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    values: dict[str, Any] = {
        "listen": f"{host}:{config.port}",
        "threads": config.threads,
        # Lets a request learn that its client has gone, and a silent stream with it.
        "channel_request_lookahead": 1,
        "max_request_body_size": config.max_body_bytes + BODY_SLACK,
        "max_request_header_size": 64 * 1024,
        "connection_limit": max(64, min(8192, descriptors - 2 * config.threads - 128)),
        "recv_bytes": 64 * 1024,
        # A client that reads slowly costs this much memory, then its thread waits.
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


def serve(app: Flask, config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Call it in the main thread."""
    process_setup.limit_malloc()
    descriptors = process_setup.raise_descriptor_limit()
    metrics_server = None
    try:
        if config.cpu is not None:
            process_setup.pin_to_cpu(config.cpu)
        process_setup.finish_before_switching()
        lifecycle.start(app)
        metrics_server = metrics_endpoint.serve_standalone(config)
        server = Server(app, config, descriptors)
    except OSError as error:
        logger.error("cannot_start", extra={"error": str(error), "host": config.host, "port": config.port})
        json_logging.flush()
        return 1
    process_setup.freeze_startup_objects()
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
    try:
        server.run()
    finally:
        if metrics_server is not None:
            metrics_server.shutdown()
            metrics_server.server_close()
        lifecycle.stop(app)
        json_logging.flush()
    return 0
