"""Cuts upstream calls whose client has disconnected or whose time is up.

A thread that waits for a provider is blocked in recv() and cannot check anything. One thread per
process checks all calls every quarter of a second, and shuts down the socket of a call that is due.
recv() then returns at once, even if the provider has not sent a byte.

Connected sockets have no timeouts of their own, because these cost a poll() before every send and
every receive. So this thread must keep running. An exchange that cannot be checked is cut, and the
others keep their deadlines. A dead thread is started again. The gauge deadlines_thread_up shows
whether it runs.

**Finalisers.** Garbage collection closes a forgotten event stream, in any thread and at any
allocation. It calls `Deadlines.release`, which therefore takes no lock but `ownership`. That lock
is re-entrant, and nothing that could wait is called under it.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from typing import Literal, Protocol

from goblin_assistant.metrics import deadlines_thread_up
from goblin_assistant.providers.base import Call

logger = logging.getLogger("goblin_assistant.providers")

INTERVAL = 0.25
"""Seconds between two checks. A call is cut about this long after it is due, or sooner."""

STALE_SECONDS = 5.0
"""Seconds. The thread counts as down if there are calls and its last check was longer ago."""

Cut = Literal[
    "", "client_gone", "deadline", "first_token", "idle", "answer", "comments", "unwatched"
]

ownership = threading.RLock()
"""Guards which exchange a connection's socket belongs to. Re-entrant, because garbage collection
may start while it is held and finalise an event stream, which takes it too."""


class Carrier(Protocol):
    """A connection that can be shut down from outside."""

    exchange: Exchange | None
    live: socket.socket | None
    """The connected socket."""

    def shut_down(self, exchange: Exchange) -> None:
        """Shut the socket down if it still serves `exchange`. Can be repeated."""


class Exchange:
    """One request and its response: the connection that carries it, its limits, and why it was
    cut."""

    __slots__ = (
        "call",
        "client_gone",
        "connection",
        "cut",
        "fresh",
        "limit",
        "limit_means",
        "proxied",
        "reused",
        "sent_at",
    )

    def __init__(self, call: Call) -> None:
        self.call = call
        self.client_gone = call.client_gone
        self.limit = math.inf  # besides the call's deadline; on time.monotonic()'s clock
        self.limit_means: Cut = "first_token"
        self.cut: Cut = ""
        self.connection: Carrier | None = None
        self.reused = False  # the connection has carried a request before
        self.fresh = False  # a new connection is required
        self.proxied = False  # a proxy is between us and the provider
        self.sent_at: float | None = None  # on time.monotonic()'s clock; None: not sent

    def check(self, now: float) -> None:
        """Cut the call if it is due. `now` is on time.monotonic()'s clock. The thread for deadlines
        calls this until the call is over, also after a cut."""
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
            connection.shut_down(self)

    def _client_gone(self) -> bool:
        if self.client_gone is None:
            return False
        try:
            return self.client_gone()
        except Exception:  # logged once for each call; the other calls must still be checked
            logger.exception("client_gone_failed")
            self.client_gone = None
            return False


class Deadlines:
    """The exchanges of this process and the thread that checks them. The thread starts with the
    first call and sleeps while there are none."""

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
        """End an exchange. Can be repeated, and called from a finaliser."""
        self._active.pop(id(exchange), None)
        connection = exchange.connection
        if connection is not None:
            exchange.connection = None
            with ownership:
                # An idle connection must not keep its last request in memory.
                if connection.exchange is exchange:
                    connection.exchange = None

    def active(self) -> int:
        """The number of exchanges that are not released."""
        return len(self._active)

    def up(self) -> bool:
        """Whether deadlines are enforced: there is no call, or the thread's last check was less
        than STALE_SECONDS ago. Starts a dead thread again."""
        if not self._active or time.monotonic() - self._checked_at < STALE_SECONDS:
            return True
        if not self._wake.is_set():
            self._start()
        return False

    def forget(self) -> None:
        """Start empty in a forked process: the thread and the calls belong to its parent."""
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
                if self._active:  # added between the last check and the clear
                    self._wake.set()
        finally:
            with self._starting:  # the next call or scrape starts another thread
                self._thread = None
                self._wake.clear()

    def _check_all(self) -> None:
        now = self._checked_at = time.monotonic()
        for exchange in list(self._active.values()):
            try:
                exchange.check(now)
            except Exception:
                logger.exception("exchange_unwatched", extra=exchange.call.ids())
                if exchange.cut == "unwatched":  # it cannot be cut either
                    self._active.pop(id(exchange), None)
                exchange.cut = "unwatched"  # the next check shuts its socket down


deadlines = Deadlines()
"""The instance of this process."""
deadlines_thread_up.set_function(deadlines.up)


def _forked() -> None:
    ownership.release()
    deadlines.forget()


os.register_at_fork(
    before=ownership.acquire, after_in_parent=ownership.release, after_in_child=_forked
)
