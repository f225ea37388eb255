"""Upstream calls that can be cut from outside: by a client that has gone, or by a limit in time.

A thread that waits for a provider sits in recv() and cannot look up. One thread per process looks for all of them:
every quarter of a second it asks each call whether its client has gone or its time is up, and if so shuts the call's
socket down. recv() then returns at once, also while the provider has not sent a single byte.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from goblin_assistant.providers.base import Call
from goblin_assistant.providers.response_head import QuickResponse

logger = logging.getLogger("goblin_assistant.providers")

INTERVAL = 0.25
"""Seconds between looks; a cut call is over within this and a little more."""

CORK_BYTES = 65536
"""A larger body is not copied behind its head."""

Cut = Literal["", "client_gone", "deadline", "first_token"]

HeaderLines = Mapping[tuple[str, tuple[str, ...]], bytes]
"""Headers that go with every request of a provider, as http.client's putheader() is given them, with the lines that it
makes of them."""

NO_LINES: HeaderLines = {}


def header_lines(headers: Mapping[str, str]) -> HeaderLines:
    """Have http.client check and encode headers now, so that nobody has to with each request."""
    lines: dict[tuple[str, tuple[str, ...]], bytes] = {}
    for name, value in headers.items():
        probe = HTTPConnection("localhost")
        probe.putrequest("GET", "/", skip_host=True, skip_accept_encoding=True)
        # One that cannot be sent (a line feed in a key) fails with each request, as an error of the provider.
        with contextlib.suppress(ValueError):
            probe.putheader(name, value)
            lines[name, (value,)] = probe._buffer[-1]  # type: ignore[attr-defined]
    return lines


_current = threading.local()
_ownership = threading.Lock()  # who owns a connection's socket; held for nanoseconds


class Exchange:
    """One request on its way: which connection carries it, and whether it was cut."""

    __slots__ = (
        "call", "client_gone", "connection", "cut", "fresh", "limit", "lines", "reused", "waits_for_first_token",
    )  # fmt: skip

    def __init__(self, call: Call, lines: HeaderLines) -> None:
        self.call = call
        self.lines = lines
        self.client_gone = call.client_gone
        self.limit = call.deadline  # on time.monotonic()'s clock
        self.waits_for_first_token = False
        self.cut: Cut = ""
        self.connection: _Tracked | None = None
        self.reused = False  # the connection has carried a request before
        self.fresh = False  # demand one that has not

    def look(self, now: float) -> None:
        """Cut the call when it is due. Called by the watchdog's thread, again and again until the call is over."""
        if not self.cut:
            if now >= self.limit:
                self.cut = "first_token" if self.waits_for_first_token and now < self.call.deadline else "deadline"
            elif self._client_gone():
                self.cut = "client_gone"
            else:
                return
        connection = self.connection
        if connection is not None:
            with _ownership:
                # It may serve another call by now: then this one is over and there is nothing to cut.
                if connection.exchange is self:
                    connection.shut_down()

    def _client_gone(self) -> bool:
        if self.client_gone is None:
            return False
        try:
            return self.client_gone()
        except Exception:  # one odd answer must not leave every other call unwatched, nor fill the log
            logger.exception("client_gone_failed")
            self.client_gone = None
            return False


class _Tracked:
    """Mixed into urllib3's connections: knows the exchange that it carries."""

    exchange: Exchange | None = None
    live: socket.socket | None = None  # http.client forgets `sock` when the server announces `Connection: close`
    carried = 0
    corked: list[bytes] | None = None
    response_class: Any = QuickResponse
    sock: Any

    def _adopt(self) -> None:
        exchange: Exchange | None = getattr(_current, "exchange", None)
        with _ownership:
            self.exchange = exchange
            if exchange is not None:
                exchange.connection = self

    def shut_down(self) -> None:
        sock = self.sock or self.live
        if sock is not None:
            # Past SSLSocket.shutdown, which would take the TLS object away from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def connect(self) -> None:
        self._adopt()  # now, so that a TLS handshake can be cut too
        self.carried = 0
        super().connect()  # type: ignore[misc]
        self.live = self.sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._adopt()
        exchange = self.exchange
        if exchange is not None:
            if exchange.fresh and self.carried:
                self.close()  # type: ignore[attr-defined]
            exchange.reused = self.sock is not None and self.carried > 0
        self.corked = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
            head_and_body = b"".join(self.corked)
        finally:
            self.corked = None
        if head_and_body:
            self.send(head_and_body)  # connects first where there is no socket
        self.carried += 1

    def putheader(self, header: Any, *values: Any) -> None:
        """Add a header; a known one without checking it again."""
        line = self.exchange.lines.get((header, values)) if self.exchange is not None else None
        if line is not None:
            self._output(line)  # type: ignore[attr-defined]
        else:
            super().putheader(header, *values)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Hold the head back for the body: one system call and one packet in place of two, a sixth of a call's CPU."""
        if self.corked is not None and isinstance(data, bytes):
            self.corked.append(data)
            if len(data) <= CORK_BYTES:
                return
            data, self.corked = b"".join(self.corked), []
        super().send(data)  # type: ignore[misc]


class TrackedConnection(_Tracked, HTTPConnection):
    """A plain connection that the watchdog can shut down."""


class TrackedTLSConnection(_Tracked, HTTPSConnection):
    """A TLS connection that the watchdog can shut down."""


class TrackedPool(HTTPConnectionPool):
    """urllib3's pool with our connections."""

    ConnectionCls = TrackedConnection


class TrackedTLSPool(HTTPSConnectionPool):
    """urllib3's TLS pool with our connections."""

    ConnectionCls = TrackedTLSConnection


def carry(exchange: Exchange | None) -> None:
    """The requests that this thread sends from now on belong to `exchange`."""
    _current.exchange = exchange


class Watchdog:
    """The thread. Starts with the first call and sleeps while there are none."""

    def __init__(self) -> None:
        self._active: dict[int, Exchange] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def watch(self, call: Call, lines: HeaderLines = NO_LINES) -> Exchange:
        """Begin an exchange; end it with `release`. `lines` are its provider's known headers."""
        exchange = Exchange(call, lines)
        self._active[id(exchange)] = exchange
        if not self._wake.is_set():
            self._start()
        return exchange

    def release(self, exchange: Exchange) -> None:
        """The exchange is over. Harmless when repeated."""
        self._active.pop(id(exchange), None)
        connection = exchange.connection
        if connection is not None:
            exchange.connection = None
            with _ownership:
                # An idle connection must not keep the request that it carried last in memory.
                if connection.exchange is exchange:
                    connection.exchange = None

    def active(self) -> int:
        """Exchanges on their way now."""
        return len(self._active)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="goblin-upstream-watchdog", daemon=True)
                self._thread.start()
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            while self._active:
                time.sleep(INTERVAL)
                now = time.monotonic()
                for exchange in list(self._active.values()):
                    exchange.look(now)
            self._wake.clear()
            if self._active:  # came between the last look and the clear
                self._wake.set()


watchdog = Watchdog()
"""The one of this process."""
