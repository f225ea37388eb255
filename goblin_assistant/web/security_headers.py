"""Headers that tell browsers what they may do with our answers: who may read them (CORS), and that they are data and
not pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response
from flask_cors import CORS

from goblin_assistant.config import Config
from goblin_assistant.web.request_info import ENVIRON_KEY, current_request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

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

MAX_KNOWN_ORIGINS = 256


def init_app(app: Flask, config: Config) -> None:
    """Add the constant headers to every response, and the CORS headers to those that a configured origin asked for."""
    app.wsgi_app = _Constant(app.wsgi_app)  # type: ignore[method-assign]
    if config.cors_origins:
        app.after_request(_Cors(_cors(app, config.cors_origins)))


class _Constant:
    """Adds HEADERS as the answer goes out: in a Response each header costs a microsecond twice."""

    def __init__(self, inner: WSGIApplication) -> None:
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            present = {name for name, _ in headers}  # exact spelling: they are all ours
            headers.extend([header for header in HEADERS if header[0] not in present])
            if environ["wsgi.url_scheme"] == "https":
                headers.append(HSTS)
            return (
                start_response(status, headers)
                if exc_info is None
                else start_response(status, headers, exc_info)
            )

        return self._inner(environ, start)


class _Cors:
    """flask-cors, asked once for each origin: it takes 30 us to say the same again. Preflights, which ask for more than
    the origin, and answers that vary already, go to it every time."""

    def __init__(self, evaluate: Callable[[Response], Response]) -> None:
        self._evaluate = evaluate
        self._known: dict[str, list[tuple[str, str]]] = {}

    def __call__(self, response: Response) -> Response:
        environ = current_request().environ
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return response
        if environ["REQUEST_METHOD"] == "OPTIONS" or any(
            name == "Vary" for name, _ in response.headers
        ):
            return self._evaluate(response)
        headers = self._known.get(origin)
        if headers is None:
            probe = self._evaluate(Response())
            headers = [
                (name, value)
                for name, value in probe.headers
                if name.startswith("Access-Control-") or name == "Vary"
            ]
            if (
                headers and len(self._known) < MAX_KNOWN_ORIGINS
            ):  # an origin may be spelled in many ways
                self._known[origin] = headers
        info = environ.get(ENVIRON_KEY)
        if info is None:  # without the wrapper that sends what is in there
            response.headers.extend(headers)
        else:
            info.headers.extend(headers)
        return response


def _cors(app: Flask, origins: list[str]) -> Callable[[Response], Response]:
    any_origin = "*" in origins
    CORS(
        app,
        # Patterns, because flask-cors takes a literal with brackets ([::1]) for a pattern of its own; anchored,
        # because it matches from the start only, and https://example.com.evil.net begins with https://example.com.
        origins="*"
        if any_origin
        else [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins],
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
