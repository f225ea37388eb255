"""Headers that tell browsers what they may do with our answers: who may read them (CORS), and that they are data and
not pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from flask import Flask, Response, request
from flask_cors import CORS

from goblin_assistant.config import Config

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
# A view that is a page, a file or a stream sets its own policy or Cache-Control.
HEADERS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
# Only over TLS, which we learn from a trusted proxy's X-Forwarded-Proto: over plain HTTP browsers ignore it (RFC
# 6797, 7.2).
HSTS = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")

EXPOSED = [
    "X-Correlation-ID",
    "X-Request-ID",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "Server-Timing",
    "Idempotent-Replayed",
]
"""What a browser's script may read besides the body."""


def init_app(app: Flask, config: Config) -> None:
    """Add the constant headers to every response, and the CORS headers to those that a configured origin asked for."""
    evaluate_cors = _cors(app, config.cors_origins)

    @app.after_request
    def add(response: Response) -> Response:
        environ = request.environ
        # flask-cors looks at every response for about 30 us; only one to a request with an Origin can need it.
        if "HTTP_ORIGIN" in environ:
            response = evaluate_cors(response)
        headers = response.headers
        present = {name for name, _ in headers}  # exact spelling: they are all ours; `in headers` compares without case
        for name, value in HEADERS:
            if name not in present:
                headers.add(name, value)
        if environ["wsgi.url_scheme"] == "https":
            headers[HSTS[0]] = HSTS[1]
        return response


def _cors(app: Flask, origins: list[str]) -> Callable[[Response], Response]:
    if not origins:
        return lambda response: response
    any_origin = "*" in origins
    CORS(
        app,
        # Patterns, because flask-cors takes a literal with brackets ([::1]) for a pattern of its own; anchored,
        # because it matches from the start only, and https://example.com.evil.net begins with https://example.com.
        origins="*" if any_origin else [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins],
        expose_headers=EXPOSED,
        max_age=600,
        send_wildcard=any_origin,
        # Credentials travel in headers that a script sets, never in cookies.
        supports_credentials=False,
        always_send=False,
        # after_request sees the answers of error handlers too; this would evaluate them twice.
        intercept_exceptions=False,
    )
    return cast(Callable[[Response], Response], app.after_request_funcs[None].pop())
