"""One streamed response: reads the socket and returns whole events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

from urllib3.response import HTTPResponse

from goblin_assistant.providers.base import broken
from goblin_assistant.providers.upstream.deadlines import Exchange, deadlines
from goblin_assistant.providers.upstream.errors import (
    TRANSPORT_ERRORS,
    Timeouts,
    cut_error,
    discard,
    fault_error,
)
from goblin_assistant.providers.upstream.responses import ChunkedResponse
from goblin_assistant.providers.upstream.sse import (
    BOM,
    EventBuffer,
    EventTooLarge,
    is_comment,
    without_first_comments,
)

READ_SIZE = 65536
END_SECONDS = 0.05
"""Seconds to wait for the zero-sized chunk of a finished stream. If it comes, the connection can be
used again."""


class EventStream(Iterator[bytes]):
    """The blocks of one streamed response, each of one or more whole events. Close it, or read it
    to its end.

    Reading raises ProviderError or CallCancelled. Call `finish()` after the protocol's own end
    marker, so that the connection can be used again.
    """

    __slots__ = (
        "_buffer",
        "_decode",
        "_exchange",
        "_first",
        "_name",
        "_over",
        "_response",
        "_started",
        "_timeouts",
    )

    def __init__(
        self,
        name: str,
        timeouts: Timeouts,
        response: ChunkedResponse | HTTPResponse,
        exchange: Exchange,
        first: bytes = b"",
    ) -> None:
        """`first` are the bytes of the body that were read already."""
        self._first = first
        self._name = name
        self._timeouts = timeouts
        self._response = response
        self._exchange = exchange
        self._buffer = EventBuffer()
        self._decode = bool(response.headers.get("content-encoding"))
        self._started = False
        self._over = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers."""
        return self._response.headers

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        exchange = self._exchange
        while True:
            if self._started:  # the idle limit counts only while we wait for the provider
                exchange.limit = time.monotonic() + self._timeouts.idle
            try:
                if self._first:
                    data, self._first = self._first, b""
                else:
                    data = self._response.read1(READ_SIZE, self._decode)
                block = self._buffer.feed(data)
            except EventTooLarge:
                self.close()
                raise broken(f"{self._name} sent an event that is too large", self._name) from None
            except TRANSPORT_ERRORS as error:
                self.close()
                raise fault_error(
                    self._name, error, exchange, self._timeouts, answering=True
                ) from error
            if self._started:
                exchange.limit = math.inf
            if exchange.cut:  # a socket that was shut down reads as ended, or as broken TLS
                self.close()
                raise cut_error(self._name, exchange, self._timeouts)
            if not data:
                self._end()
                block = self._buffer.rest()
                if not self._started:
                    block = block.removeprefix(BOM)
                if not block:
                    raise StopIteration
                return block
            if block:
                if self._started:
                    return block
                block = block.removeprefix(BOM)
                # A comment is not a token: another provider can still be tried after it.
                if not is_comment(block):
                    self._start()
                    return without_first_comments(block)
                self._wait_on()

    def finish(self) -> None:
        """After the protocol's end marker: keep the connection if the response ends within
        END_SECONDS, else close it."""
        if self._over:
            return
        try:
            self._settimeout(END_SECONDS)
            at_end = self._response.read1(READ_SIZE, self._decode) == b"" and not self._exchange.cut
            self._settimeout(None)
        except TRANSPORT_ERRORS:
            at_end = False
        if at_end:
            self._end()
        else:
            self.close()

    def close(self) -> None:
        """Close the connection unless the response has been read to its end."""
        if not self._over:
            discard(self._response)
            self._end()

    def __del__(self) -> None:
        # Garbage collection may call this in any thread, and under any lock: see "Finalisers" in
        # deadlines.py.
        self.close()

    def _wait_on(self) -> None:
        """A comment has come: the provider is alive. It has its first-token limit again, but no
        longer than the limit of comments."""
        exchange, timeouts = self._exchange, self._timeouts
        if exchange.call.alive is not None:
            exchange.call.alive()
        most = (exchange.sent_at or 0.0) + timeouts.comments
        exchange.limit = min(time.monotonic() + timeouts.first_token, most)
        exchange.limit_means = "comments" if exchange.limit == most else "first_token"

    def _start(self) -> None:
        self._started = True
        self._exchange.limit = math.inf
        self._exchange.limit_means = "idle"

    def _settimeout(self, seconds: float | None) -> None:
        connection = self._exchange.connection
        if connection is not None and connection.live is not None:
            connection.live.settimeout(seconds)

    def _end(self) -> None:
        self._over = True
        self._response.release_conn()
        deadlines.release(self._exchange)
