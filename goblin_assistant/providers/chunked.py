"""The chunked body of a streamed answer, as much at a time as has arrived (RFC 9112, section 7.1).

http.client gives out one chunk a call. Providers send an event a chunk, so a server that has fallen behind would have to
take every single event through all of its layers, and fall behind further. Here everything that one read of the socket
brought comes in one piece: the busier the server, the larger the pieces and the less each event costs.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable

READ_SIZE = 4096
MAX_LINE = 8192
"""Of a chunk's size with its extensions, and of a trailer. Nobody sends any; a line without end is not kept."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL).fullmatch


class ChunkedBody:
    """Takes the framing out of what `read(size)` gives. `read` returns b"" at the end of the connection."""

    __slots__ = ("_buffer", "_left", "_read", "_state")

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._left = 0  # of the current chunk's data
        self._state = "size"

    @property
    def at_end(self) -> bool:
        """Whether the body is over and nothing has come behind it: the connection can carry another request."""
        return self._state == "over" and not self._buffer

    def read1(self) -> bytes:
        """What has arrived, at least a byte; waits for it; b"" at the body's end.

        Raises IncompleteRead when the connection ends before, HTTPException for what is no chunk, and what `read`
        raises.
        """
        while self._state != "over":
            if data := self._decode():
                return data
            if self._state == "over":
                break
            more = self._read(READ_SIZE)
            if not more:
                raise http.client.IncompleteRead(b"")
            self._buffer = self._buffer + more if self._buffer else more
        return b""

    def _decode(self) -> bytes:
        buffer, at, parts = self._buffer, 0, []
        while True:
            if self._state == "data":
                part = buffer[at : at + self._left]
                if part:
                    parts.append(part)
                    at += len(part)
                    self._left -= len(part)
                if self._left:
                    break
                self._state = "end of data"
            if self._state == "end of data":
                if len(buffer) - at < 2:
                    break
                if not buffer.startswith(b"\r\n", at):
                    raise http.client.HTTPException("a chunk is longer than its size")
                at += 2
                self._state = "size"
            end = buffer.find(b"\r\n", at)
            if end < 0:
                if len(buffer) - at > MAX_LINE:
                    raise http.client.LineTooLong("chunk size")
                break
            line, at = buffer[at:end], end + 2
            if self._state == "size":
                size = _SIZE(line)
                if size is None:
                    raise http.client.HTTPException("a chunk without a size")
                self._left = int(size[1], 16)
                self._state = "data" if self._left else "trailer"
            elif not line:  # behind the last chunk: lines until an empty one
                self._state = "over"
                break
        self._buffer = buffer[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)
