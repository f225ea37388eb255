"""How large a request's body may be, by route.

The server applies the table while the body arrives, and the application before anything reads it. A
route that the table does not name has the general limit, so that no new route is without one.
"""

from __future__ import annotations

import io
import re
from typing import Any

from flask import Flask, request

from goblin_assistant.config import Config
from goblin_assistant.errors import PayloadTooLarge
from goblin_assistant.rate_limits.policy import PROVIDER_ROUTES

KIB = 1024

GENERAL_BYTES = 64 * KIB
"""For settings, keys and admin, and for the routes that read no body."""

BYTES_BY_PREFIX: tuple[tuple[str, int], ...] = (
    ("/auth/keys", GENERAL_BYTES),
    ("/auth/", 16 * KIB),
)
"""The first prefix that matches decides. Routes that take a chat have GOBLIN_MAX_BODY_BYTES
(rate_limits.policy.PROVIDER_ROUTES), and so has keeping a chat's messages."""

KEPT_MESSAGES = re.compile(r"/conversations/\d+/messages/\d+/?", re.ASCII)

MAX_DIGITS = 18
"""A longer Content-Length is refused without converting it."""


class BodyLimits:
    """The table with this instance's limit for chats, which no route exceeds."""

    def __init__(self, chat_bytes: int) -> None:
        self._chat = chat_bytes

    def of(self, method: str, path: str) -> int:
        """The limit in bytes. `path` is decoded (WSGI's PATH_INFO), as the router sees it."""
        if method == "POST" and path.removesuffix("/") in PROVIDER_ROUTES:
            return self._chat
        if method == "PUT" and KEPT_MESSAGES.fullmatch(path):
            return self._chat
        for prefix, limit in BYTES_BY_PREFIX:
            if path.startswith(prefix):
                return min(limit, self._chat)
        return min(GENERAL_BYTES, self._chat)


class _Bounded(io.RawIOBase):
    """A body without a Content-Length. Raises PayloadTooLarge at the first byte beyond the
    limit."""

    def __init__(self, source: Any, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._source.read(len(buffer))
        self._read += len(piece)
        if self._read > self._limit:
            raise PayloadTooLarge(_too_large(self._limit))
        buffer[: len(piece)] = piece
        return len(piece)


def _too_large(limit: int) -> str:
    return f"the body is too large; this route takes {limit} bytes"


def init_app(app: Flask, config: Config) -> None:
    """Refuse a body whose Content-Length is too large, and one without it while it is read.

    Under `serve` the server applies the same limits.
    """
    limits = BodyLimits(config.max_body_bytes)

    def bound_body() -> None:
        environ = request.environ
        limit = limits.of(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        request.max_content_length = limit
        announced = environ.get("CONTENT_LENGTH", "")
        if not announced and "HTTP_TRANSFER_ENCODING" in environ:  # never under `serve`
            # werkzeug would return the first `limit` bytes of a larger body as if it were whole.
            environ["wsgi.input"] = _Bounded(environ["wsgi.input"], limit)
            request.max_content_length = limit + 1
        if announced.isdecimal() and (len(announced) > MAX_DIGITS or int(announced) > limit):
            raise PayloadTooLarge(_too_large(limit))

    app.before_request(bound_body)
