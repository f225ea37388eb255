"""Chunked bodies (RFC 9112, section 7.1): one decoder for providers' answers and for clients'
requests.

http.client returns one chunk a call. Providers send each event as a chunk, so every event would
pass through all layers alone. This decoder returns all chunks that one read of the socket brought.
The busier the server, the larger these pieces, and the less each event costs.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from enum import Enum

READ_SIZE = 4096
MAX_LINE = 8192
"""Bytes of a line: a chunk's size with its extensions, or a trailer field. A longer one is an
error."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?").fullmatch


class Step(Enum):
    """What the decoder expects next."""

    SIZE = 1
    DATA = 2
    END_OF_DATA = 3
    TRAILER = 4
    OVER = 5


class ChunkDecoder:
    """Takes received bytes, returns the body's bytes.

    `error` is set at the first byte that breaks the framing. The data before it is returned,
    however the bytes were split into reads. No data is returned after it.
    """

    __slots__ = ("error", "pending", "remaining", "step")

    def __init__(self) -> None:
        self.pending = b""
        """Bytes that are not decoded yet. After the body's end: the bytes behind it."""
        self.remaining = 0
        """How many bytes the current chunk's data lacks."""
        self.step = Step.SIZE
        self.error: http.client.HTTPException | None = None

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` completes."""
        buffer = self.pending + data if self.pending else data
        parts: list[bytes] = []
        at = 0
        step = self.step
        while self.error is None and step is not Step.OVER:
            if step is Step.DATA:
                part = buffer[at : at + self.remaining]
                if part:
                    parts.append(part)
                    at += len(part)
                    self.remaining -= len(part)
                if self.remaining:
                    break
                step = Step.END_OF_DATA
            elif step is Step.END_OF_DATA:
                if len(buffer) - at < 2:
                    break
                if not buffer.startswith(b"\r\n", at):
                    self.error = http.client.HTTPException("a chunk is longer than its size")
                    break
                at += 2
                step = Step.SIZE
            else:
                end = buffer.find(b"\r\n", at)
                if end < 0:
                    if len(buffer) - at > MAX_LINE:
                        self.error = http.client.LineTooLong("chunk size")
                    break
                step = self._line(buffer[at:end], step)
                at = end + 2
        self.step = step
        self.pending = buffer[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, line: bytes, step: Step) -> Step:
        if step is Step.TRAILER:  # after the last chunk: fields until an empty line
            return Step.TRAILER if line else Step.OVER
        size = _SIZE(line)
        if size is None:
            self.error = http.client.HTTPException("a chunk without a size")
            return step
        self.remaining = int(size[1], 16)
        return Step.DATA if self.remaining else Step.TRAILER


class ChunkedBody:
    """Decodes what `read(size)` returns. `read` returns b"" at the connection's end."""

    __slots__ = ("_decoder", "_ended", "_read")

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._decoder = ChunkDecoder()
        self._ended = False

    @property
    def at_end(self) -> bool:
        """Whether the body is over and no bytes followed it: the connection can be used again."""
        return self._decoder.step is Step.OVER and not self._decoder.pending

    def read1(self) -> bytes:
        """What has arrived, at least a byte, waiting for it; b"" at the body's end.

        A connection that ends after the zero-sized chunk's line ends the body: RFC 9112, section 8,
        calls a body incomplete only if that chunk is missing. Raises IncompleteRead when the
        connection ends before it, HTTPException for broken framing, and what `read` raises.
        """
        decoder = self._decoder
        while not self._ended:
            if decoder.error is not None:
                raise decoder.error
            if decoder.step is Step.OVER:
                self._ended = True
                break
            more = self._read(READ_SIZE)
            if not more:
                if decoder.step is not Step.TRAILER:
                    raise http.client.IncompleteRead(b"")
                self._ended = True
                break
            if data := decoder.feed(more):
                return data
        return b""
