"""Reads the head of a provider's response, ten times as fast as http.client.

http.client parses every head with the e-mail package and reads headers one by one: a sixth of a
whole chat's cost to the gateway (measured). This module splits the usual head itself: a `200` over
HTTP/1.1 that arrived in one piece. All other heads, and odd ones, go to http.client untouched.
"""

from __future__ import annotations

import http.client
import re
from typing import Any

_GOOD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, 5.6.2: a token
_START = b"HTTP/1.1 200 "
MAX_INFORMATIONAL = 20
"""Responses with status 1xx before the final one; one or two are usual. An endless series would
keep a core busy until the deadline."""


class ResponseHead(http.client.HTTPMessage):
    """The headers of one response, with the methods that urllib3 and http.client call. Names keep
    their spelling; `get` gives the first of several values."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__()
        self._headers = pairs
        self._first: dict[str, str] = {}
        for name, value in reversed(pairs):
            self._first[name.lower()] = value

    def get(self, name: str, failobj: Any = None) -> Any:
        """The first value, or `failobj`."""
        return self._first.get(name.lower(), failobj)

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        """Names and values, in order."""
        return self._headers

    def get_payload(self, *_: Any, **__: Any) -> Any:
        """None. urllib3 checks with it whether a body was parsed as headers."""
        return None


class QuickResponse(http.client.HTTPResponse):
    """http.client's response with the faster head. `begun`: bytes of a response have come."""

    begun = False
    _informational = 0

    def begin(self) -> None:
        """Read the head."""
        if self.headers is None:
            buffered = self.fp.peek()  # type: ignore[attr-defined]
            self.begun = bool(buffered)
            end = buffered.find(b"\r\n\r\n")
            if end > 0 and buffered.startswith(_START) and self._method != "HEAD":
                pairs = split(buffered[:end])
                if pairs is not None:
                    self.fp.read(end + 4)
                    self._take(
                        buffered[len(_START) : buffered.find(b"\r\n")].decode("latin-1"),
                        ResponseHead(pairs),
                    )
                    return
        super().begin()
        if not self.chunked:
            length = announced_length(self.headers.get_all("content-length", []))
            if self.length is None:  # http.client does not accept a list of equal numbers
                self.length = length
        if self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:  # not requested; HTTP ends here
            self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        # Every 1xx but 101 precedes the final response (RFC 9110, 15.2). http.client skips only
        # 100: the final response would then be read as that of the next request.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if 100 <= status < 200:
                self._informational += 1
                if self._informational > MAX_INFORMATIONAL:
                    raise http.client.HTTPException("answers with status 1xx without end")
            if not 100 < status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def _take(self, reason: str, head: ResponseHead) -> None:
        self.code = self.status = 200
        self.reason = reason.strip()
        self.version = 11
        self.headers = self.msg = head
        self.chunked = (head.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = "close" in head.get("connection", "").lower()
        # RFC 9112, 6.3: Transfer-Encoding overrides Content-Length, and without both the body ends
        # with the connection.
        self.length = None
        if not self.chunked:
            self.length = announced_length(head.get_all("content-length", []))
        if not self.chunked and self.length is None:
            self.will_close = True


def announced_length(values: list[str]) -> int | None:
    """The length in a response's Content-Length fields; None if there are none.

    Raises HTTPException for different values and for what is not a number. Where such a body ends
    is unknown, and what follows would be read as the next response (RFC 9112, section 6.3).
    """
    lengths = {part.strip(" \t") for value in values for part in value.split(",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) < 16):
        raise http.client.HTTPException("the answer's Content-Length is not one number")
    return int(length)


def split(head: bytes) -> list[tuple[str, str]] | None:
    """Names and values of the headers in `head`: a status line and header lines, without the empty
    line. None for folded lines, invalid names, bare CR or LF, and more than 99 headers."""
    text = head.decode("latin-1")
    lines = text.split("\r\n")
    if len(lines) > 100 or text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        return None
    pairs = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _GOOD_NAME(name):
            return None
        pairs.append((name, value.strip(" \t")))
    return pairs
