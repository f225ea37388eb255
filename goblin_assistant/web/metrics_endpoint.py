"""GET /metrics, in Prometheus's text format or OpenMetrics, as the scraper asks.

GOBLIN_METRICS_TOKEN requires a bearer token, and GOBLIN_METRICS_PORT moves the route to another
port. Without them everybody may read it.
"""

from __future__ import annotations

import hmac
import logging
import socketserver
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from flask import Flask, Response, request

from goblin_assistant.config import Config
from goblin_assistant.errors import AuthFailure, NotFound, Unauthorized
from goblin_assistant.extensions import exporter
from goblin_assistant.web.error_handlers import MESSAGES
from goblin_assistant.web.openapi import describe

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("goblin_assistant")


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
        return Response(text, content_type=content_type)

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
    """The route as a WSGI application of its own, for GOBLIN_METRICS_PORT."""
    token = _token_of(config)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        def answer(
            status: str, content_type: str, text: str, *headers: tuple[str, str]
        ) -> list[bytes]:
            body = text.encode()
            start_response(
                status,
                [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers],
            )
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

        if not _is_exact(environ):
            return answer(
                "404 Not Found", "text/plain; charset=utf-8", "only /metrics is served here\n"
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return answer(
                "405 Method Not Allowed",
                "text/plain; charset=utf-8",
                "GET only\n",
                ("Allow", "GET, HEAD"),
            )
        if token is not None and not _authorized(environ.get("HTTP_AUTHORIZATION"), token):
            challenge = ("WWW-Authenticate", 'Bearer realm="goblin-assistant"')
            return answer(
                "401 Unauthorized",
                "text/plain; charset=utf-8",
                "a bearer token is needed\n",
                challenge,
            )
        text, content_type = exporter.generate_metrics(environ.get("HTTP_ACCEPT"), None)
        return answer("200 OK", content_type, text)

    return application


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10

    def get_environ(self) -> WSGIEnvironment:
        """Adds the target as sent: in PATH_INFO it is decoded, and its leading slashes are
        merged."""
        environ = super().get_environ()
        # http.server splits at any blank of Unicode, so that "/metrics\x85" would be /metrics.
        words = self.requestline.split(" ")
        exact = len(words) == 3 and words == self.requestline.split()
        environ["REQUEST_URI"] = words[1] if exact else "*"  # no path
        return environ

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape comes every few seconds."""


def serve_standalone(config: Config) -> WSGIServer | None:
    """Listen on GOBLIN_METRICS_PORT in a thread, until `shutdown()`. None when it is not set."""
    if config.metrics_port is None:
        return None
    server = make_server(
        config.host, config.metrics_port, standalone(config), _ThreadingServer, _Handler
    )
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    logger.info("metrics_listening", extra={"host": config.host, "port": server.server_port})
    return server
