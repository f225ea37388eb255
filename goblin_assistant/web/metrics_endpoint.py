"""GET /metrics, in Prometheus's text format or OpenMetrics, as the scraper asks.

GOBLIN_METRICS_TOKEN requires a bearer token, and GOBLIN_METRICS_PORT moves the route to another
port. Without them everybody may read it.
"""

from __future__ import annotations

import gzip
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from prometheus_client import make_wsgi_app
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from goblin_assistant.config import Config
from goblin_assistant.errors import AuthFailure, NotFound, Unauthorized
from goblin_assistant.extensions import exporter
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.web.error_handlers import MESSAGES
from goblin_assistant.web.openapi import describe

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

GZIP_LEVEL = 1
"""A higher level saves little on this text and takes several times as long."""


def init_app(app: Flask, config: Config) -> None:
    """Add the route, unless metrics have a port of their own."""
    if config.metrics_port is not None:
        return
    token = _token_of(config)

    @describe(
        "Metrics",
        text=("text/plain", "application/openmetrics-text"),
        errors=(401,),
        tag="Operations",
    )
    def metrics() -> Response:
        """For Prometheus. With GOBLIN_METRICS_TOKEN it takes that bearer token and no user's."""
        if not _is_exact(request.environ):
            raise NotFound(MESSAGES[404])
        if token is not None and not _authorized(request.headers.get("Authorization"), token):
            raise Unauthorized(
                "this instance's metrics need the bearer token of GOBLIN_METRICS_TOKEN",
                reason=AuthFailure.BAD_METRICS_TOKEN,
            )
        text, content_type = exporter.generate_metrics(
            request.headers.get("Accept"), request.args.getlist("name[]")
        )
        body, headers = _packed(text, request.headers.get("Accept-Encoding"))
        return Response(body, headers={"Content-Type": content_type, **headers})

    app.add_url_rule("/metrics", "metrics", metrics, strict_slashes=True)


def _is_exact(environ: WSGIEnvironment) -> bool:
    """Whether the path was sent as /metrics, letter by letter: a proxy that blocks the route may
    not recognise another spelling.

    The target as sent is REQUEST_URI in waitress, werkzeug and uWSGI, RAW_URI in gunicorn.
    """
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if target is None:
        return environ.get("PATH_INFO") == "/metrics"
    path: str = target.partition("?")[0]
    return path == environ.get("SCRIPT_NAME", "") + "/metrics"


def _packed(text: str, accepted: str | None) -> tuple[bytes, dict[str, str]]:
    """The body, as gzip where the scraper takes that, and the headers that say so.

    Prometheus always does; the text shrinks to a twentieth.
    """
    headers = {"Vary": "Accept, Accept-Encoding"}
    body = text.encode()
    if not parse_accept_header(accepted, Accept).quality("gzip"):
        return body, headers
    return gzip.compress(body, GZIP_LEVEL), {**headers, "Content-Encoding": "gzip"}


def _token_of(config: Config) -> bytes | None:
    return (
        config.metrics_token.get_secret_value().encode()
        if config.metrics_token is not None
        else None
    )


def _authorized(header: str | None, token: bytes) -> bool:
    scheme, _, given = (header or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode("utf-8", "replace"), token
    )


def standalone(config: Config) -> WSGIApplication:
    """prometheus_client's application at exactly /metrics, for GOBLIN_METRICS_PORT."""
    metrics = make_wsgi_app(REGISTRY)
    token = _token_of(config)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain = ("Content-Type", "text/plain; charset=utf-8")
        if not _is_exact(environ):
            start_response("404 Not Found", [plain])
            return [b"only /metrics is served here\n"]
        if token is not None and not _authorized(environ.get("HTTP_AUTHORIZATION"), token):
            challenge = ("WWW-Authenticate", 'Bearer realm="goblin-assistant"')
            start_response("401 Unauthorized", [plain, challenge])
            return [b"a bearer token is needed\n"]
        found: Iterable[bytes] = metrics(environ, start_response)
        return found

    return application
