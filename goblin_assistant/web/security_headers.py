"""Headers that tell browsers to treat our responses as data, not as pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
# A view of a page, a file or a stream sets its own policy or Cache-Control.
HEADERS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
# Only over TLS (a trusted proxy says so in X-Forwarded-Proto): over plain HTTP browsers ignore it
# (RFC 6797, 7.2).
HSTS = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")


def init_app(app: Flask) -> None:
    """Add HEADERS to every response."""
    app.wsgi_app = _Constant(app.wsgi_app)  # type: ignore[method-assign]


def add_constant(headers: list[tuple[str, str]], environ: WSGIEnvironment) -> None:
    """Add HEADERS to those of a response."""
    present = {name for name, _ in headers}  # compared as spelled: they are all ours
    headers.extend([header for header in HEADERS if header[0] not in present])
    if environ["wsgi.url_scheme"] == "https":
        headers.append(HSTS)


class _Constant:
    """Adds HEADERS when the response starts: in a Response object each costs two microseconds."""

    def __init__(self, inner: WSGIApplication) -> None:
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            add_constant(headers, environ)
            return (
                start_response(status, headers)
                if exc_info is None
                else start_response(status, headers, exc_info)
            )

        return self._inner(environ, start)
