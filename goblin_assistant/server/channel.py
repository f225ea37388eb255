"""A client's connection: waitress's, with bounds on what a client can hold, and lingering close.

After an error waitress closes the connection at once. The unread rest of the body then makes the
kernel send a reset, and the client never receives the response. Lingering close reads the rest
first.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel

from goblin_assistant.rate_limits.policy import PROVIDER_ROUTES
from goblin_assistant.server.addresses import plain
from goblin_assistant.server.keep_alive import SilentStream
from goblin_assistant.server.loop import ChannelServer
from goblin_assistant.server.parser import RequestParser, path_info
from goblin_assistant.server.sockets import has_closed, unacknowledged
from goblin_assistant.server.tasks import LAG_BYTES, ApplicationTask, RefusedTask

LINGER_SECONDS = 5.0
LINGER_BYTES = 256 * 1024 * 1024
URGENT = frozenset({"/health/live", "/health/ready"})
"""Served before other requests that wait for a thread. Not /metrics: it takes ten milliseconds."""
LAG_BYTES_PER_SECOND = 128 * 1024
LAG_PAUSE_SECONDS = 0.25
"""The pace of a stream whose client is behind, until the client reads again. Filling a buffer at
full speed helps nobody and takes the GIL from other requests."""
RECEIVE_BYTES_PER_SECOND = 32 * 1024
"""How much longer than others the sender of a large body may take: a phone sends 20 MB in
minutes."""


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection."""

    task_class = ApplicationTask
    error_task_class = RefusedTask

    interest = -1  # set by the map in server/loop.py
    addr: Any
    close_when_flushed: bool
    request: RequestParser | None
    linger = False
    discarding_until = 0.0
    discarded = 0
    seen_activity = (0.0, 0)
    """When bytes last went into the socket, and how many of them the client lacked."""
    stuck_since = 0.0
    queued_at = 0.0
    """When the request began to wait for a thread, by time.monotonic()."""
    behind = b""
    """What arrived after the current request, at most one read. For the main thread."""
    silent: SilentStream | None = None
    """The streamed response at hand, which is kept alive while it is silent."""
    leaving = False
    """The client had closed its half when this was last looked at."""
    ended = False
    """The client has closed its half, and waits for the answer at hand."""

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        if self.addr and (str(self.addr[0]).startswith("::ffff:") or "%" in str(self.addr[0])):
            self.addr = (plain(self.addr[0]), *self.addr[1:])
        self.server = ChannelServer(server, self)
        self.parser_class = partial(RequestParser, channel=self)

    def write_soon(self, data: Any) -> int:
        """As waitress, but what the socket takes at once bypasses the buffers."""
        if type(data) is bytes and data and not self.total_outbufs_len and self.connected:
            with self.outbuf_lock:
                if not self.total_outbufs_len and self.connected:
                    try:
                        sent = self.socket.send(data)
                    except OSError:  # the buffered path meets it again and handles it
                        sent = 0
                    if sent:
                        self.last_activity = time.time()
                    if sent == len(data):
                        return sent
                    return sent + int(super().write_soon(data[sent:]))
        return int(super().write_soon(data))

    def keep_alive(
        self, comment: bytes, headers: Callable[[], list[tuple[str, str]]]
    ) -> SilentStream:
        """Keep the stream that answers the request at hand alive. For the request's thread."""
        self.silent = SilentStream(self, comment, headers, self.server.keep_alive_seconds)
        return self.silent

    def takes_more(self) -> bool:
        """Whether the client has taken what it was sent, and the connection stays open."""
        return bool(
            self.connected
            and not (self.total_outbufs_len or self.will_close or self.close_when_flushed)
        )

    def slow_down(self, size: int) -> None:
        """Wait a moment, or until the client reads. For a stream's thread."""
        with self.outbuf_lock:
            if self.connected and self.total_outbufs_len > LAG_BYTES:
                self.outbuf_lock.wait(min(size / LAG_BYTES_PER_SECOND, LAG_PAUSE_SECONDS))

    @property
    def urgent(self) -> bool:
        """Whether the new request is served before others."""
        return self.requests[0].path in URGENT

    # -- bodies
    def received(self, data: bytes) -> bool:
        """As waitress, but one request at a time, and within the bound over all connections.

        What follows a request is parsed after its response has been sent: a client that sends many
        requests and reads nothing holds no thread and the memory of one response.
        """
        if self.requests or self.behind:
            if not any(request.final for request in self.requests):
                self.behind += data
            return False
        if self.request is None:
            # Blank lines before a request mean nothing (RFC 9112, section 2.2). waitress takes them
            # one at a time and copies the rest each time: 64 KB of them take a quarter of a second.
            data = data.lstrip()
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
        """As waitress, and frees the requests that wait behind one whose client has gone."""
        super().service()
        if not self.connected:
            for request in list(self.requests):
                request.close()

    def handle_close(self) -> None:
        """As waitress, and frees the body that was arriving. The thread of a running request frees
        that request's body, which it may be reading."""
        super().handle_close()
        request = self.request
        if request is not None:
            request.close()

    def cancel(self) -> None:
        """As waitress, and frees the bodies of requests that never ran."""
        for request in list(self.requests):
            request.close()
        super().cancel()

    def busy(self) -> bool:
        """Whether a request runs, waits or is arriving, or a response is not sent yet."""
        arriving = (
            self.request is not None and time.monotonic() - self.request.began < LINGER_SECONDS
        )
        return bool(self.requests or self.total_outbufs_len or arriving)

    def waiting_since(self, now: float) -> float:
        """Since when the connection is idle, or its request is arriving, by time.monotonic()."""
        request = self.request
        return request.began if request is not None else now - (time.time() - self.last_activity)

    def watch(self, now: float, send_timeout: float, receive_timeout: float) -> bool:
        """Close the connection of a client that reads nothing or never finishes its request.

        Called every second; `now` is by time.monotonic(). Returns whether it closed for one of
        these reasons.
        """
        silent = self.silent  # once: the request's thread takes it away
        if silent is not None:
            silent.watch()
        if self.behind and self._at_a_chat():
            self._look_for_client()
        if self.total_outbufs_len:
            seen = (self.last_activity, unacknowledged(self.socket))
            if self.seen_activity != seen or not self.stuck_since:
                self.seen_activity, self.stuck_since = seen, now
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
            and now - self.request.began
            > receive_timeout + self.request.body_bytes_received / RECEIVE_BYTES_PER_SECOND
        ):
            self.handle_close()
            return True
        return False

    def _look_for_client(self) -> None:
        """Close the connection of a client that has left its chat while its next request waits.

        Until that is parsed nothing is read, and so the end of the connection is not either. Not
        at first sight: a client may send all its requests, close its half and read the answers.
        """
        seen, self.leaving = self.leaving, has_closed(self.socket)
        if seen and self.leaving:
            self.handle_close()

    # -- lingering close: close our half, discard what arrives, then close
    # https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    def handle_write(self) -> None:
        """As waitress, but a refusal lingers."""
        if self.socket is None:
            return  # the read in the same turn found a reset and closed it
        if self.ended and not self.requests:
            self.close_when_flushed = True
        if self.linger and self.close_when_flushed and not self.will_close:
            self.close_when_flushed = False  # waitress would close after the last byte
            super().handle_write()
            if self.socket is None:
                return  # it met a reset and closed
            if self.total_outbufs_len:
                self.close_when_flushed = True
            elif not self.will_close:
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
        """Whether the next request can be parsed: the response to the last one has been sent."""
        return bool(
            self.behind
            and not self.requests
            and not self.total_outbufs_len
            and not self.will_close
            and not self.close_when_flushed
            and self.connected
        )

    def writable(self) -> bool:
        """As waitress, and also when the next request can be parsed, or none can come."""
        over = self.ended and not self.requests
        return over or bool(super().writable()) or self._may_go_on()

    def readable(self) -> bool:
        """As waitress, also while discarding, but not while bytes wait to be parsed."""
        if self.discarding_until:
            return not self.will_close
        return not (self.behind or self.ended) and bool(super().readable())

    def _only_waits(self) -> bool:
        """Whether the client has closed its half and still wants the answer at hand, as `nc` does.

        That looks like a client that has gone. A chat ends then, because it costs tokens; any other
        answer is sent.
        """
        if not self.requests or self._at_a_chat():
            return False
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return False

    def _at_a_chat(self) -> bool:
        requests = list(self.requests)  # the request's thread takes it away
        return bool(requests) and path_info(requests[0].path).rstrip("/") in PROVIDER_ROUTES

    def handle_read(self) -> None:
        """As waitress, or discard what arrives."""
        if not self.discarding_until:
            if self._only_waits():
                self.ended = True
            else:
                super().handle_read()
            return
        try:
            self.discarded += len(self.recv(65536))  # recv closes at the end of the stream
        except OSError:
            self.handle_close()
            return
        if self.discarded > LINGER_BYTES:
            self.handle_close()
