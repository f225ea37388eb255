"""Writes comments into a stream while its provider is silent.

Proxies and clients close a connection after about 60 seconds without a byte. The request's thread
is waiting for the provider, so the main loop writes: whole HTTP chunks, between two events. Before
the first event it also begins the response, with status 200. A fallback to another provider is
still possible then, but an error must be sent as an event of the stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from goblin_assistant.server.tasks import ApplicationTask

logger = logging.getLogger("goblin_assistant.server")

EVERY_SECONDS = 15.0
"""Longest silence of a stream that has begun. A smaller GOBLIN_STREAM_KEEPALIVE_SECONDS wins."""


class SilentStream:
    """One streamed response. The main loop uses it only while it holds the channel's lock."""

    __slots__ = (
        "_after",
        "_begun",
        "_channel",
        "_comment",
        "_flows",
        "_headers",
        "_since",
    )

    def __init__(
        self,
        channel: Any,
        comment: bytes,
        headers: Callable[[], list[tuple[str, str]]],
        after: float,
    ) -> None:
        """`channel` is a Channel, which imports this module. `headers` makes the headers of a
        response that begins before its first event; the main loop calls it. `after` is the silence
        in seconds before the response begins."""
        self._channel = channel
        self._comment = comment
        self._headers: Callable[[], list[tuple[str, str]]] | None = headers
        self._after = after
        self._since = time.monotonic()
        self._flows = False  # the header block has been written
        self._begun: ApplicationTask | None = None

    # -- for the request's thread -----------------------------------------------------------------
    def arrived(self) -> bool:
        """The first event, or an error, has arrived. Returns whether the main loop has already
        begun the response; if not, it will not begin it any more."""
        with self._channel.outbuf_lock:
            # Breaks a reference cycle through the request's context. Otherwise 40 KB would wait for
            # the garbage collector.
            self._headers = None
            return self._begun is not None

    def take_over(self, task: ApplicationTask) -> None:
        """Let `task` continue the response, if the main loop has begun it."""
        if self.arrived() and self._begun is not None and not task.wrote_header:
            task.wrote_header = True
            task.chunked_response = self._begun.chunked_response
            if self._begun.close_on_finish:
                task.set_close_on_finish()

    def flows(self, *, chunked: bool) -> None:
        """The response headers have been written."""
        with self._channel.outbuf_lock:
            if chunked and self._begun is None:
                self._comment = _chunk(self._comment)
            self._flows = True

    def end(self, task: ApplicationTask) -> None:
        """The application has returned or failed: the main loop writes nothing more. `task` takes
        over the state of what the main loop has written."""
        with self._channel.outbuf_lock:
            self._channel.silent = None
        self.take_over(task)

    # -- for the main loop ------------------------------------------------------------------------
    def watch(self) -> None:
        """Write a comment if the stream has been silent for too long."""
        channel = self._channel
        with channel.outbuf_lock:
            if channel.silent is not self or not channel.takes_more():
                return
            if self._flows:
                if time.time() - channel.last_activity >= min(self._after, EVERY_SECONDS):
                    channel.write_soon(self._comment)
            elif self._headers is not None and time.monotonic() - self._since >= self._after:
                self._begin(self._headers)

    def _begin(self, headers: Callable[[], list[tuple[str, str]]]) -> None:
        channel = self._channel
        try:
            task = ApplicationTask(channel, channel.requests[0])
            task.start()
            task.response_headers = headers()
            head = task.build_response_header()
        except Exception:  # the request's own thread answers
            logger.exception("keep_alive_failed")
            self._headers = None
            return
        if task.chunked_response:
            self._comment = _chunk(self._comment)
        self._begun, self._flows = task, True
        channel.write_soon(head + self._comment)


def _chunk(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)
