"""waitress's connection with `Connection: close` while draining, errors in this API's format, lingering close so
that clients receive them, and request bodies that are freed when it closes.

waitress answers a request that it cannot parse, or whose body is too large, itself: as plain text, without correlation
id, log line or metric. And it closes the connection at once, whereupon the unread rest of the body makes the kernel
send a reset, and the client never sees the answer.
"""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel

from goblin_assistant.server.loop import ChannelServer
from goblin_assistant.server.parser import RequestParser
from goblin_assistant.server.tasks import LAG_BYTES, ApplicationTask, RefusedTask

LINGER_SECONDS = 5.0
LINGER_BYTES = 256 * 1024 * 1024
URGENT = frozenset({"/health/live", "/health/ready"})
"""Served before what else waits for a thread. Not /metrics: it takes ten milliseconds of Python."""
LAG_BYTES_PER_SECOND = 128 * 1024
LAG_PAUSE_SECONDS = 0.25
"""A stream whose client is behind by this much goes on at this pace until the client takes something:
nobody gains by a buffer that fills at full speed, and everybody else waits for Python meanwhile."""


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection."""

    task_class = ApplicationTask
    error_task_class = RefusedTask

    interest = -1  # kept by the map that watches; see server/loop.py
    close_when_flushed: bool
    request: RequestParser | None
    linger = False
    discarding_until = 0.0
    discarded = 0
    seen_activity = 0.0
    stuck_since = 0.0
    behind = b""
    """What came behind the request at work, at most one read. For the main thread."""

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self.server = ChannelServer(server, self)
        self.parser_class = partial(RequestParser, channel=self)

    def write_soon(self, data: Any) -> int:
        """As waitress, but what the socket takes at once goes past the buffers."""
        if type(data) is bytes and data and not self.total_outbufs_len and self.connected:
            with self.outbuf_lock:
                if not self.total_outbufs_len and self.connected:
                    try:
                        sent = self.socket.send(data)
                    except OSError:  # the buffers' way meets it again, and knows what to do
                        sent = 0
                    if sent:
                        self.last_activity = time.time()
                    if sent == len(data):
                        return sent
                    return sent + int(super().write_soon(data[sent:]))
        return int(super().write_soon(data))

    def slow_down(self, size: int) -> None:
        """Wait a moment, or until the client takes something. For the thread of a stream."""
        with self.outbuf_lock:
            if self.connected and self.total_outbufs_len > LAG_BYTES:
                self.outbuf_lock.wait(min(size / LAG_BYTES_PER_SECOND, LAG_PAUSE_SECONDS))

    @property
    def urgent(self) -> bool:
        """Whether its request is served before others. Asked when it has just become a task."""
        return self.requests[0].path in URGENT

    # -- bodies
    def received(self, data: bytes) -> bool:
        """As waitress, but one request at a time, and within the bound over all connections.

        What comes behind a request stays bytes until its answer has gone out: a client that sends
        many and reads nothing holds no thread, and costs the answer to one.
        """
        if self.requests or self.behind:
            if not any(request.final for request in self.requests):
                self.behind += data
            return False
        result = bool(super().received(data))
        bodies = self.server.bodies
        if bodies.held > bodies.limit:
            for request in bodies.to_shed():
                request.channel.refuse(request)
        return result

    def refuse(self, request: RequestParser) -> None:
        """Answer 503 to a request that is still arriving. For the main thread."""
        with self.requests_lock:
            if self.request is not request or not self.connected:
                return
            request.shed()
            self.request = None
            self.sent_continue = False
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def service(self) -> None:
        """As waitress, which forgets what is queued behind a request whose client has gone."""
        super().service()
        if not self.connected:
            for request in list(self.requests):
                request.close()

    def handle_close(self) -> None:
        """As waitress, and frees the body that was arriving. A running request's body is freed by its
        thread, which may be reading it."""
        super().handle_close()
        request = self.request
        if request is not None:
            request.close()

    def cancel(self) -> None:
        """As waitress, and frees the bodies of what never ran."""
        for request in list(self.requests):
            request.close()
        super().cancel()

    def busy(self) -> bool:
        """Whether a request runs, or waits, or its answer has not gone out, or one is arriving right now."""
        arriving = (
            self.request is not None and time.monotonic() - self.request.began < LINGER_SECONDS
        )
        return bool(self.requests or self.total_outbufs_len or arriving)

    def waiting_since(self, now: float) -> float:
        """Since when, on the monotonic clock, it has been idle or has been sending one request."""
        request = self.request
        return request.began if request is not None else now - (time.time() - self.last_activity)

    def watch(self, now: float, send_timeout: float, receive_timeout: float) -> bool:
        """Close when the client takes nothing, or never finishes its request. Called every second; `now` is
        monotonic."""
        if self.total_outbufs_len:
            if self.seen_activity != self.last_activity or not self.stuck_since:
                self.seen_activity, self.stuck_since = self.last_activity, now
            elif now - self.stuck_since > send_timeout:
                self.handle_close()
                return True
        else:
            self.stuck_since = 0.0
        if self.discarding_until and now > self.discarding_until:
            self.handle_close()
        elif (
            self.request is not None
            and not self.requests
            and now - self.request.began > receive_timeout
        ):
            self.handle_close()
            return True
        return False

    # -- lingering close: close our half, read theirs away, then close
    # https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    def handle_write(self) -> None:
        """As waitress, but a refusal lingers."""
        if self.socket is None:
            return  # reading, just before in the same turn, found the connection reset and closed it
        if self.linger and self.close_when_flushed and not self.will_close:
            self._flush_exception(self._flush_some)
            if self.socket is None:
                return  # the flush met a reset and closed
            if not self.total_outbufs_len and not self.will_close:
                self.close_when_flushed = False
                self.linger = False
                self.discarding_until = time.monotonic() + LINGER_SECONDS
                try:
                    self.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    self.handle_close()
            return
        super().handle_write()
        if self._may_go_on():
            data, self.behind = self.behind, b""
            self.received(data)

    def _may_go_on(self) -> bool:
        """Whether there are bytes behind a request whose answer has gone out."""
        return bool(
            self.behind
            and not self.requests
            and not self.total_outbufs_len
            and not self.will_close
            and not self.close_when_flushed
            and self.connected
        )

    def writable(self) -> bool:
        """As waitress, and when the next request of several can be read."""
        return bool(super().writable()) or self._may_go_on()

    def readable(self) -> bool:
        """As waitress, and while reading away, but not with a request's bytes waiting."""
        if self.discarding_until:
            return not self.will_close
        return not self.behind and bool(super().readable())

    def handle_read(self) -> None:
        """As waitress, or read away."""
        if not self.discarding_until:
            super().handle_read()
            return
        try:
            self.discarded += len(self.recv(65536))  # recv closes at the end of the stream
        except OSError:
            self.handle_close()
            return
        if self.discarded > LINGER_BYTES:
            self.handle_close()
