"""What a stream sends while its provider is silent, and how it begins before its answer is there.

The server does the writing (server/keep_alive.py) and offers itself in the environ. Another WSGI
server offers nothing, and then a stream is silent until its first event.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextvars import copy_context
from typing import Protocol

from flask import Response, current_app, request

from goblin_assistant.dialects.table import DIALECTS
from goblin_assistant.providers.base import Dialect
from goblin_assistant.web.request_info import request_info
from goblin_assistant.web.security_headers import add_constant

OFFER = "goblin.keep_alive"
"""The environ's key. The value takes a comment and the maker of the first headers."""


class SilentStream(Protocol):
    """A stream that the server keeps alive."""

    def arrived(self) -> bool:
        """The first event, or an error, is there. Whether the response has begun already; if not,
        the server does not begin it any more."""


def keep_alive(dialect: Dialect, headers: Mapping[str, str]) -> SilentStream | None:
    """Have the response at hand kept alive until its end. None: the server cannot.

    `headers` are those that every stream has.
    """
    offer = request.environ.get(OFFER)
    if offer is None:
        return None
    # Copying a context is cheap. Most streams never need these headers.
    first_headers = functools.partial(copy_context().run, _first_headers, headers)
    silent: SilentStream = offer(DIALECTS[dialect].keep_alive, first_headers)
    return silent


def _first_headers(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """All headers of a stream but those that say how it was answered. In the server's thread."""
    response = current_app.process_response(Response(headers=given))  # CORS and the like
    headers = response.headers.to_wsgi_list()
    add_constant(headers, request.environ)
    request_info().identify(headers)
    return headers
