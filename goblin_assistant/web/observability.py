"""The correlation id, the four HTTP metrics and the log lines of every request.

A WSGI wrapper, because it sees every request (404, 405, OPTIONS, refused ones) and a stream until
its last byte. A URL value preprocessor gives the route, the signal `got_request_exception` the type
of a failure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask, got_request_exception, request

from goblin_assistant.errors import (
    APP_ERRORS,
    AppError,
    InternalError,
    NoFreeSlot,
    Unavailable,
    label_of,
)
from goblin_assistant.logs.json_logging import correlation_id, trace_id
from goblin_assistant.metrics import (
    UNMATCHED,
    http_client_errors_total,
    http_errors_total,
    http_requests_total,
)
from goblin_assistant.providers.errors import PROVIDER_ERRORS, ProviderError
from goblin_assistant.rate_limits.policy import PROVIDER_ROUTES
from goblin_assistant.threads.reaper import reaper
from goblin_assistant.tracing.tracing import Tracing
from goblin_assistant.web.request_info import (
    ENVIRON_KEY,
    GOOD_ID,
    METHODS,
    RequestInfo,
    new_id,
    request_info,
    route_metrics,
)

__all__ = ["RequestInfo", "init_app", "initialise_series", "request_info"]

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

logger = logging.getLogger("goblin_assistant")

MAX_LOGGED_PATH = 1024  # characters; a request line may have 256 KiB

# The errors that a route can answer with. Their series start at 0, because rate() does not see the
# first increase of a counter that appears with it.
_ANY_ROUTE_ERRORS: tuple[type[AppError | ProviderError], ...] = (InternalError, Unavailable)
_CHAT_ERRORS = (
    *_ANY_ROUTE_ERRORS,
    NoFreeSlot,
    *(kind for kind in PROVIDER_ERRORS if kind.status >= 500),
)
_EVERY_ERROR: tuple[type[AppError | ProviderError], ...] = (*APP_ERRORS, *PROVIDER_ERRORS)


class _Body:
    """The response's body, observed until its last byte."""

    __slots__ = ("_closed", "_exhausted", "_finished", "_gone", "_info", "_iterable", "_next")

    def __init__(self, iterable: Iterable[bytes], info: RequestInfo, gone: Any) -> None:
        self._iterable = iterable
        self._next = iter(iterable).__next__
        self._info = info
        self._gone = gone
        self._exhausted = False
        self._finished = False
        self._closed = False
        reaper.start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        info = self._info
        try:
            chunk = self._next()
        except StopIteration:
            # The server has read everything. Not in close(): werkzeug's server does not call it
            # when the client has gone.
            self._exhausted = True
            self._finish()
            raise
        except Exception as error:
            info.error_type = label_of(error)
            info.incomplete = True
            logger.exception("response_failed", extra=info.ids())
            raise
        info.bytes += len(chunk)
        if info.bytes == info.content_length:
            # Not in close(): the client has everything with this chunk, and may ask for /metrics
            # before close() is called.
            self._exhausted = True
            self._finish()
        return chunk

    def close(self) -> None:
        self._closed = True
        try:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                close()
        finally:
            self._finish()

    def __del__(self) -> None:
        if not self._closed:  # a server that could not write did not call close()
            reaper.hand_over(self.close)

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._info.finish(self._exhausted and not (self._gone is not None and self._gone()))


class _Observed:
    """The WSGI application, observed."""

    def __init__(self, inner: WSGIApplication, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_X_CORRELATION_ID")
        identity = given if given is not None and GOOD_ID(given) else new_id()
        correlation_id.set(identity)
        trace, spans = self._tracing.begin(
            environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
        )
        trace_id.set(trace.trace_id)
        info = RequestInfo(
            identity,
            _shown(environ["REQUEST_METHOD"], 32),
            _shown(environ.get("PATH_INFO", ""), MAX_LOGGED_PATH),
            environ.get("REMOTE_ADDR", ""),
            trace,
            spans,
        )
        environ[ENVIRON_KEY] = info
        if logger.isEnabledFor(logging.DEBUG):
            info.log_start()

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
        ) -> Any:
            info.status = int(status[:3])
            for name, value in headers:
                if name == "Content-Length":
                    info.content_length = int(value)
            info.identify(headers)
            return (
                start_response(status, headers)
                if exc_info is None
                else start_response(status, headers, exc_info)
            )

        try:
            iterable = self._inner(environ, start)
        except BaseException as error:
            info.status = info.status or 500
            info.error_type = info.error_type or label_of(error)
            info.finish(complete=False)
            raise
        return _Body(iterable, info, environ.get("waitress.client_disconnected"))


def _shown(text: str, limit: int) -> str:
    # WSGI passes bytes as Latin-1 (PEP 3333); a path is usually UTF-8.
    if not text.isascii():
        text = text.encode("latin-1", "replace").decode("utf-8", "replace")
    return text if len(text) <= limit else text[:limit] + "..."


def _on_routed(_endpoint: str | None, _values: dict[str, Any] | None) -> None:
    info = request.environ.get(ENVIRON_KEY)
    if info is not None:
        rule = request.url_rule
        info.route_found(UNMATCHED if rule is None else rule.rule)


def _on_exception(_: Flask, exception: BaseException, **__: Any) -> None:
    info = request.environ.get(ENVIRON_KEY)
    if info is not None:
        info.error_type = label_of(exception)


def init_app(app: Flask, tracing: Tracing) -> None:
    """Wrap the application. Call this last: no other wrapper may be outside."""
    # Flask calls it before every before_request hook, so that a request that a hook refuses is
    # counted under its route. The signal request_started comes as early and costs more.
    app.url_value_preprocessor(_on_routed)
    got_request_exception.connect(_on_exception, app)
    app.wsgi_app = _Observed(app.wsgi_app, tracing)  # type: ignore[method-assign]
    initialise_series(app)


def initialise_series(app: Flask) -> None:
    """Start the HTTP series of every route at 0, so that the first request counts as an
    increase."""
    for rule in app.url_map.iter_rules():
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        errors = _CHAT_ERRORS if rule.rule in PROVIDER_ROUTES else _ANY_ROUTE_ERRORS
        for method in methods & METHODS:
            route_metrics.of(method, rule.rule)
            for status in {"200", *(str(kind.status) for kind in errors)}:
                http_requests_total.labels(method, rule.rule, status)
            for kind in errors:
                http_errors_total.labels(method, rule.rule, kind.label)
    for kind in _EVERY_ERROR:
        if kind.status < 500:
            http_client_errors_total.labels(kind.code)
