"""Comments in a stream whose provider is silent, so that nothing on the way gives the client up.

Proxies and clients close a connection without a byte for about 60 seconds. The thread of the
request waits for its provider, so the main loop writes instead: whole chunks, between two events.
Before the first event it begins the response too. The answer may still come from another provider,
but its status is then 200, and a later error is an event of the stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from goblin_assistant.server.tasks import ApplicationTask

logger = logging.getLogger("goblin_assistant.server")

EVERY_SECONDS = 15.0
"""The longest silence of a stream that has begun. A shorter GOBLIN_STREAM_KEEPALIVE_SECONDS counts
here too."""


class SilentStream:
    """One streamed response. All that the main loop does with it is under the channel's lock."""

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
        """`channel` is a Channel, which imports this module. `headers` makes those of a response
        that begins before its answer: it is called in the main loop. `after` is in seconds."""
        self._channel = channel
        self._comment = comment
        self._headers: Callable[[], list[tuple[str, str]]] | None = headers
        self._after = after
        self._since = time.monotonic()
        self._flows = False  # the header block has been written
        self._begun: ApplicationTask | None = None

    # -- for the request's thread -----------------------------------------------------------------
    def arrived(self) -> bool:
        """The first event, or an error, is there. Whether the response has begun already; if not,
        the main loop does not begin it any more."""
        with self._channel.outbuf_lock:
            # They hold the request's context, which leads back here: 40 KB that would wait for the
            # garbage collector.
            self._headers = None
            return self._begun is not None

    def take_over(self, task: ApplicationTask) -> None:
        """Let `task` go on with the response, if it has begun."""
        if self.arrived() and self._begun is not None and not task.wrote_header:
            task.wrote_header = True
            task.chunked_response = self._begun.chunked_response
            if self._begun.close_on_finish:
                task.set_close_on_finish()

    def flows(self, *, chunked: bool) -> None:
        """The header block of a stream has been written."""
        with self._channel.outbuf_lock:
            if chunked and self._begun is None:
                self._comment = _chunk(self._comment)
            self._flows = True

    def end(self, task: ApplicationTask) -> None:
        """The application has returned, or failed: the main loop writes nothing any more. `task`
        knows what has been written, also if it has written nothing itself."""
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
