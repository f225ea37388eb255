"""Upstream calls that can be cut from outside: by a client that has gone, or by a limit in time.

A thread that waits for a provider sits in recv() and cannot look up. One thread per process looks for all of them:
every quarter of a second it asks each call whether its client has gone or its time is up, and if so shuts the call's
socket down. recv() then returns at once, also while the provider has not sent a single byte.

It is the only clock once a connection stands: sockets have no timeouts of their own, which cost a poll() before every
send and every receive. So it must not end: an exchange that cannot be looked at is cut and costs no other its
deadline, a dead thread is started again, and the gauge deadlines_thread_up tells.

**Finalisers.** Garbage collection closes an event stream that nobody closed, in any thread and at any allocation. It
calls `Deadlines.release`, which therefore takes no lock but `ownership`, and that one can be taken again by the thread
that holds it. Under it nothing is called that could wait.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Literal, Protocol

from goblin_assistant.metrics import deadlines_thread_up
from goblin_assistant.providers.base import Call

logger = logging.getLogger("goblin_assistant.providers")

INTERVAL = 0.25
"""Seconds between looks; a cut call is over within this and a little more."""

STALE_SECONDS = 5.0
"""A thread that has not looked for so long, with calls on their way, counts as down."""

Cut = Literal["", "client_gone", "deadline", "first_token", "idle", "unwatched"]

ownership = threading.RLock()
"""Who owns a connection's socket; held for nanoseconds. Re-entrant, because garbage collection may begin while it is
held and finalise an event stream, which takes it too."""


class Carrier(Protocol):
    """A connection that can be shut down from outside."""

    exchange: Exchange | None
    live: socket.socket | None
    """The connected socket."""

    def condemn(self) -> socket.socket | None:
        """The socket to shut down; no further request is sent over it. Called under `ownership`."""


class Exchange:
    """One request on its way: which connection carries it, and whether it was cut."""

    __slots__ = (
        "call",
        "client_gone",
        "connection",
        "cut",
        "fresh",
        "limit",
        "limit_means",
        "reused",
    )

    def __init__(self, call: Call) -> None:
        self.call = call
        self.client_gone = call.client_gone
        self.limit = math.inf  # besides the call's deadline; on time.monotonic()'s clock
        self.limit_means: Cut = "first_token"
        self.cut: Cut = ""
        self.connection: Carrier | None = None
        self.reused = False  # the connection has carried a request before
        self.fresh = False  # demand one that has not

    def check(self, now: float) -> None:
        """Cut the call when it is due. Called by the thread for deadlines, again and again until the call is over."""
        if not self.cut:
            if now >= self.call.deadline:
                self.cut = "deadline"
            elif now >= self.limit:
                self.cut = self.limit_means
            elif self._client_gone():
                self.cut = "client_gone"
            else:
                return
        connection = self.connection
        if connection is not None:
            with ownership:
                # It may serve another call by now: then this one is over and there is nothing to cut.
                sock = connection.condemn() if connection.exchange is self else None
            if sock is not None:
                # Past SSLSocket.shutdown, which would take the TLS object away from under the thread that reads.
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _client_gone(self) -> bool:
        if self.client_gone is None:
            return False
        try:
            return self.client_gone()
        except (
            Exception
        ):  # one odd answer must not leave every other call unwatched, nor fill the log
            logger.exception("client_gone_failed")
            self.client_gone = None
            return False


class Deadlines:
    """The thread. Starts with the first call and sleeps while there are none."""

    def __init__(self) -> None:
        self._active: dict[int, Exchange] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._checked_at = time.monotonic()

    def watch(self, call: Call) -> Exchange:
        """Begin an exchange; end it with `release`."""
        exchange = Exchange(call)
        self._active[id(exchange)] = exchange
        if not self._wake.is_set():
            self._start()
        return exchange

    def release(self, exchange: Exchange) -> None:
        """The exchange is over. Harmless when repeated, and in a finaliser."""
        self._active.pop(id(exchange), None)
        connection = exchange.connection
        if connection is not None:
            exchange.connection = None
            with ownership:
                # An idle connection must not keep the request that it carried last in memory.
                if connection.exchange is exchange:
                    connection.exchange = None

    def active(self) -> int:
        """Exchanges on their way now."""
        return len(self._active)

    def up(self) -> bool:
        """Whether deadlines are in force: no call is on its way, or the thread has looked lately. Starts a dead one."""
        if not self._active or time.monotonic() - self._checked_at < STALE_SECONDS:
            return True
        if not self._wake.is_set():
            self._start()
        return False

    def forget(self) -> None:
        """Begin anew in a process that was forked: the thread and the calls are its parent's."""
        self.__init__()  # type: ignore[misc]

    def _start(self) -> None:
        with self._starting:
            self._checked_at = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="goblin-upstream-deadlines", daemon=True
                )
                self._thread.start()
            self._wake.set()

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait()
                while self._active:
                    time.sleep(INTERVAL)
                    self._check_all()
                self._wake.clear()
                if self._active:  # came between the last look and the clear
                    self._wake.set()
        finally:
            with self._starting:  # the next call, or the next scrape, starts another
                self._thread = None
                self._wake.clear()

    def _check_all(self) -> None:
        now = self._checked_at = time.monotonic()
        for exchange in list(self._active.values()):
            try:
                exchange.check(now)
            except Exception:
                logger.exception(
                    "exchange_unwatched", extra={"correlation_id": exchange.call.correlation_id}
                )
                if exchange.cut == "unwatched":  # it cannot be cut either
                    self._active.pop(id(exchange), None)
                exchange.cut = "unwatched"  # the next look shuts its socket down


deadlines = Deadlines()
"""The one of this process."""
deadlines_thread_up.set_function(deadlines.up)


def _forked() -> None:
    ownership.release()
    deadlines.forget()


os.register_at_fork(
    before=ownership.acquire, after_in_parent=ownership.release, after_in_child=_forked
)
