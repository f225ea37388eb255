"""waitress's request parser with this server's bounds and the strictness of RFC 9112.

What a proxy and this server could read differently is refused, because requests could be smuggled
that way. A body beyond its route's limit is not read: the application gets the request without it
and answers 413 in the route's format.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest, Error, RequestHeaderFieldsTooLarge

from goblin_assistant.providers.upstream.chunked import ChunkDecoder, Step
from goblin_assistant.server.addresses import plain_hops, scheme_of
from goblin_assistant.server.bodies import COUNTED_BYTES

MAX_HEADERS = 200
"""Lines in a header block. Browsers send 20, proxies add 10."""

FRAMING_SLACK = 64 * 1024
"""Chunk sizes, extensions and trailers may take as many bytes as the data, plus this."""

_CONTROL = re.compile("[\x00-\x20\x7f]").search
_HOST = re.compile(
    r"[A-Za-z0-9._~!$&'()*+;=%\-]*(?::\d*)?|\[[0-9A-Fa-f:.%A-Za-z]+\](?::\d*)?"
).fullmatch
_ADDRESSES = re.compile(r"[\d.]+(?:, ?[\d.]+)*").fullmatch
# One repeat only: beside another, for the blanks around the value, a long line takes cubic time.
_ORIGIN = re.compile(rb"\norigin:([^\r\n]*)\r\n", re.IGNORECASE).search
_ENCODING = re.compile(rb"^transfer-encoding:[ \t]*chunked[ \t]*$", re.IGNORECASE | re.MULTILINE)


class VersionNotSupported(Error):  # type: ignore[misc]
    """Neither HTTP/1.1 nor HTTP/1.0."""

    code = 505
    reason = "HTTP Version Not Supported"


class BodiesFull(Error):  # type: ignore[misc]
    """No room for this body: GOBLIN_MAX_PENDING_BODY_BYTES."""

    code = 503
    reason = "Service Unavailable"


class ChunkReceiver:
    """Decodes a chunked body into waitress's buffer."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._decoder = ChunkDecoder()
        self.received_bytes = 0
        self.completed = False
        self.error: Error | None = None

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def announced(self) -> int:
        """The body's bytes so far, with the rest of the current chunk."""
        return len(self._buffer) + self._decoder.remaining

    def received(self, data: bytes) -> int:
        """Decode `data`; returns how many of its bytes belong to this body."""
        decoder = self._decoder
        self.received_bytes += len(data)
        if body := decoder.feed(data):
            self._buffer.append(body)
        framing = self.received_bytes - len(self._buffer)
        if decoder.error is not None or framing > len(self._buffer) + FRAMING_SLACK:
            self.error = BadRequest("the chunked body cannot be read")
        elif decoder.step is Step.OVER:
            self.completed = True
            return len(data) - len(decoder.pending)
        return len(data)

    def getfile(self) -> Any:
        """The body."""
        return self._buffer.getfile()

    def getbuf(self) -> Any:
        """waitress's buffer."""
        return self._buffer


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """A request that is arriving."""

    # waitress leaves these unset when a header block cannot be parsed, and its log lines read them.
    path = ""
    command = ""

    body_rcv: Any
    held_bytes = 0
    final = False
    """No request can follow on this connection: nothing after this one is parsed."""
    origin = ""
    """The Origin of a request that is refused here, as far as its head could be read."""
    oversized = False
    _strict_error: Error | None = None
    _limit = -1
    _closed = False

    def __init__(self, adj: Any, channel: Any = None) -> None:
        super().__init__(adj)
        self.channel = channel
        self.began = time.monotonic()

    def received(self, data: bytes) -> int:
        """As waitress, within the bounds. Returns how many bytes of `data` were used."""
        if self.final or self._closed:
            return len(data)
        in_body = self.body_rcv is not None
        before = self.header_plus
        consumed: int = super().received(data)
        if self._strict_error is not None:
            self.error = self._strict_error
        if self.error is not None:
            if not in_body and (found := _ORIGIN(before + data)):
                self.origin = found[1].strip(b" \t").decode("latin-1")
            self._end()
            return len(data)
        if in_body:
            self._body_grew()
        elif self.headers_finished and not self.empty:
            self._head_ended()
        if self.completed and not self.empty and not self.final and consumed < len(data):
            self.channel.behind = data[consumed:]
            return len(data)
        return len(data) if self.final else consumed

    def _head_ended(self) -> None:
        self._limit = self.channel.server.body_limits.of(self.command, path_info(self.path))
        if self.content_length > self._limit:
            self._oversize(self.content_length)

    def _body_grew(self) -> None:
        body = self.body_rcv
        size = len(body)
        if self.chunked and body.announced > self._limit:
            self._oversize(body.announced)
            return
        if size > COUNTED_BYTES and size != self.held_bytes:
            bodies = self.channel.server.bodies
            if not bodies.add(self, size):
                self.shed()
            elif self.completed:
                bodies.complete(self)

    def _oversize(self, announced: int) -> None:
        """Pass the request to the application without its body. The response is 413 and closes the
        connection."""
        self.oversized = self.completed = True
        self.headers["CONTENT_LENGTH"] = str(announced)
        self._end()
        self.body_rcv = None

    def shed(self) -> None:
        """Refuse the request, because bodies are at their bound."""
        self.error = BodiesFull("too many request bodies are on their way")
        self._end()

    def _end(self) -> None:
        self.final = self.completed = True
        self.origin = self.origin or self.headers.get("ORIGIN", "")
        self.expect_continue = False  # a client that waits for 100 gets the response instead
        self._free()

    def close(self) -> None:
        """Free the body, once."""
        self._closed = True
        self._free()

    def _free(self) -> None:
        if self.body_rcv is not None:
            self.body_rcv.getbuf().close()
        if self.held_bytes:
            self.channel.server.bodies.release(self)

    def parse_header(self, header_plus: bytes) -> None:
        """As waitress, but strict. Raises ParsingError, which becomes 400 or the status of
        `_strict_error`."""
        if header_plus.count(b"\r\n") > MAX_HEADERS:
            self._strict_error = RequestHeaderFieldsTooLarge(f"more than {MAX_HEADERS} headers")
            raise ParsingError("too many headers")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a number of 5,000 digits, a target with half an IPv6 address
            raise ParsingError("the head cannot be read") from error
        if self.version not in ("1.1", "1.0"):
            if self.version:
                self._strict_error = VersionNotSupported("HTTP/1.1 is spoken here")
            raise ParsingError("the request line names no version of HTTP")
        self._check_head(header_plus)
        if self.chunked:
            self.body_rcv = ChunkReceiver(self.body_rcv.getbuf())

        connection = self.headers.get("CONNECTION")
        if connection is not None and "," in connection:
            self.headers["CONNECTION"] = _option(connection)
        self._read_forwarded()

    def _read_forwarded(self) -> None:
        headers = self.headers
        hops = headers.get("X_FORWARDED_FOR")
        if hops is not None and _ADDRESSES(hops) is None:
            headers["X_FORWARDED_FOR"] = plain_hops(hops)
        scheme = headers.get("X_FORWARDED_PROTO")
        if scheme is not None and scheme not in ("https", "http"):
            del headers["X_FORWARDED_PROTO"]
            if (read := scheme_of(scheme, self.adj.trusted_proxy_count or 1)) is not None:
                headers["X_FORWARDED_PROTO"] = read

    def _check_head(self, header_plus: bytes) -> None:
        if _CONTROL(self.request_uri) is not None:
            raise ParsingError("the request target holds a control character")
        if b"\r\n " in header_plus or b"\r\n\t" in header_plus:
            raise ParsingError("a header is folded")  # RFC 9112, 5.2
        host = self.headers.get("HOST")
        if host is None:
            if self.version == "1.1":
                raise ParsingError("the Host header is missing")  # RFC 9112, 3.2
        elif not _is_host(host):
            raise ParsingError("the Host header is not one host")
        lowered = header_plus.lower()
        if b"\ntransfer-encoding:" in lowered:
            if self.version == "1.0":
                raise ParsingError("HTTP/1.0 has no Transfer-Encoding")  # RFC 9112, 6.1
            if "CONTENT_LENGTH" in self.headers:
                raise ParsingError("Content-Length beside Transfer-Encoding")  # RFC 9112, 6.1
            lines = lowered.replace(b"\r\n", b"\n")
            if len(_ENCODING.findall(lines)) != lowered.count(b"\ntransfer-encoding:"):
                raise ParsingError("Transfer-Encoding is not chunked")
            if lowered.count(b"\ntransfer-encoding:") != 1:
                raise ParsingError("Transfer-Encoding is given twice")


def _option(connection: str) -> str:
    """What a list in Connection says about the connection itself (RFC 9110, section 7.6.1).
    waitress compares the whole value: "TE, close" would mean nothing."""
    options = {option.strip().lower() for option in connection.split(",")}
    return next((option for option in ("close", "keep-alive") if option in options), "")


def path_info(path: str) -> str:
    """The path as the application sees it: waitress merges leading slashes."""
    return "/" + path.lstrip("/") if path.startswith("/") else path


@lru_cache(maxsize=256)
def _is_host(host: str) -> bool:
    return _HOST(host) is not None
