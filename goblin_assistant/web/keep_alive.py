"""Keeps a stream alive while its provider is silent, even before the answer begins.

This product's server writes the comments (server/keep_alive.py) and offers this in the WSGI
environ. Other WSGI servers do not: there, a stream is silent until its first event.
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
"""The key in the WSGI environ. The value is a function of a comment and a function that makes the
first headers."""


class SilentStream(Protocol):
    """A stream that the server keeps alive with comments."""

    def arrived(self) -> bool:
        """The first event, or an error, has arrived. Returns whether the server has already begun
        the response; if not, it will not begin it any more."""


def keep_alive(dialect: Dialect, headers: Mapping[str, str]) -> SilentStream | None:
    """Ask the server to keep the current response alive. None if the server cannot.

    `headers` are the headers that every stream has.
    """
    offer = request.environ.get(OFFER)
    if offer is None:
        return None
    # Copying the context is cheaper than making the headers, which most streams never need.
    first_headers = functools.partial(copy_context().run, _first_headers, headers)
    silent: SilentStream = offer(DIALECTS[dialect].keep_alive, first_headers)
    return silent


def _first_headers(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """All headers of a stream, except those about its provider. Called by the server's thread."""
    response = current_app.process_response(Response(headers=given))  # CORS and the like
    headers = response.headers.to_wsgi_list()
    add_constant(headers, request.environ)
    request_info().identify(headers)
    return headers
