"""Turns every failure of a request into a response, in the dialect of its path.

HTTPException and 500 have handlers, Exception has none: with one, Flask would neither log the
failure nor send `got_request_exception`, which the metrics need.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson
from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Response, current_app, request
from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, InternalServerError

from goblin_assistant.dialects.error_bodies import body_for, is_anthropics, retry_after_of
from goblin_assistant.errors import (
    APP_ERRORS,
    AppError,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RateLimitExceeded,
    Unauthorized,
    Unavailable,
    label_of,
)
from goblin_assistant.logs.json_logging import correlation_id
from goblin_assistant.metrics import auth_failures_total
from goblin_assistant.providers.base import ProviderError
from goblin_assistant.web import json_requests
from goblin_assistant.web.missing_routes import explanation
from goblin_assistant.web.observability import request_info
from goblin_assistant.web.request_body import from_problems, validation_failed

logger = logging.getLogger("goblin_assistant")

# Not Werkzeug's descriptions: they are written for HTML pages ("If you entered the URL manually
# ...").
MESSAGES: dict[int, str] = {
    400: "the request cannot be understood",
    401: "credentials are required",
    403: "this is not allowed",
    404: "there is no such route",
    405: "this route does not take this method",
    413: "the body is too large",
    415: "send the body as JSON, with Content-Type: application/json",
    500: "an error of ours; its stack trace is in the log under this correlation_id",
}


def init_app(app: APIFlask) -> None:
    """Install the handlers. Call this before routes are added: it changes how the URL map
    matches."""
    json_requests.init_app(app)
    app.config["PROPAGATE_EXCEPTIONS"] = False  # under TESTING a 500 would bypass its handler
    # /settings is /settings/, because API clients lose their body on a redirect; /auth//login is
    # not a route.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.register_error_handler(AppError, _known)
    app.register_error_handler(ProviderError, _known)
    app.register_error_handler(ValidationError, lambda error: respond(validation_failed(error)))
    app.register_error_handler(HTTPException, _http_exception)
    for unavailable in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(unavailable, _database_unavailable)
    app.register_error_handler(500, _unhandled)
    app.register_error_handler(HTTPError, _apiflask_error)
    app.log_exception = _log_exception  # type: ignore[method-assign]


def respond(
    error: AppError | ProviderError,
    headers: dict[str, str] | None = None,
    path: str | None = None,
) -> Response:
    """The response for an error of the current request, in the dialect of its path or of `path`.
    Its label is noted for the metrics."""
    path = request.path if path is None else path
    status = error.status
    if status >= 500:
        _note(label_of(error))
    else:
        request_info().error_code = error.code
    versioned = "anthropic-version" in request.headers
    told = body_for(path, error, correlation_id.get(), versioned=versioned)
    body = orjson.dumps(told, default=str)
    response = Response(body, status, content_type="application/json")
    # Also where no route matches: Anthropic's SDKs read it.
    if is_anthropics(path) or versioned:
        response.headers["request-id"] = correlation_id.get()
    if headers:
        response.headers.extend(headers)
    if isinstance(error, AppError) and error.headers:
        response.headers.extend(error.headers)
    if (seconds := retry_after_of(error)) is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(error, Unauthorized) and error.reason:
        auth_failures_total.labels(error.reason).inc()
    if status == 401:
        # https://www.rfc-editor.org/rfc/rfc6750#section-3
        response.headers["WWW-Authenticate"] = 'Bearer realm="goblin-assistant"'
    return response


def _known(error: AppError | ProviderError) -> Response:
    return respond(error)


def _database_unavailable(error: Exception) -> Response:
    # Only the exception's class is logged: its message may contain the statement and its values.
    cause = getattr(error, "orig", None) or error
    logger.error("database_unavailable", extra={"kind": type(cause).__name__, "path": request.path})
    return respond(Unavailable("the database is away; try again shortly", retry_after=2))


def _http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if status == 404 and preflight:
        # Without a success, no page could read the 404 of the request behind it.
        return Response(status=204)
    headers = _kept(error.get_headers())
    if status == 404 and request.url_rule is None:
        routes = current_app.create_url_adapter(request)
        assert routes is not None  # there is a request
        message, path = explanation(request.path, routes)
        return respond(NotFound(message), headers, path)
    if status == 405 and (allow := headers.get("Allow")):
        accepted = ", ".join(sorted(allow.split(", ")))
        return respond(MethodNotAllowed(f"{MESSAGES[405]}; accepted: {accepted}"), headers)
    return respond(from_status(status), headers)


def _unhandled(error: InternalServerError) -> Response:
    original = error.original_exception
    response = respond(InternalError(MESSAGES[500]))
    if original is not None:
        _note(label_of(original))
    return response


def _apiflask_error(error: HTTPError) -> Response:
    # From @input: APIFlask has formatted pydantic's findings; the exception itself is the cause.
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return respond(validation_failed(cause))
    if isinstance(error.detail, dict) and error.detail:
        return respond(from_problems(_flatten(error.detail)))
    return respond(from_status(error.status_code), _kept(error.headers))


def from_status(status: int) -> AppError:
    """Our error for an HTTP status that came without one."""
    return _class_for(status)(MESSAGES.get(status) or HTTPStatus(status).phrase.lower())


@lru_cache
def _class_for(status: int) -> type[AppError]:
    if status == 400:
        return BadRequest
    if status == 413:
        return PayloadTooLarge
    if status == 429:
        return RateLimitExceeded
    for kind in APP_ERRORS:
        if kind.status == status:
            return kind
    # 406, 408, 417, 431 ...: statuses that only the framework uses.
    phrase = HTTPStatus(status)
    source = "client" if status < 500 else "gateway"
    name = phrase.name.title().replace("_", "")
    return type(
        name,
        (AppError,),
        {"status": status, "code": phrase.name.lower(), "source": source, "label": name},
    )


def _kept(headers: Any) -> dict[str, str]:
    return {
        k: v
        for k, v in dict(headers).items()
        if k.lower() not in ("content-type", "content-length")
    }


def _flatten(detail: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (str(field), str(messages[0] if isinstance(messages, list) and messages else messages))
        for problems in detail.values()
        if isinstance(problems, dict)
        for field, messages in problems.items()
    ]


def _note(error_type: str) -> None:
    request_info().error_type = error_type


def _log_exception(exc_info: Any) -> None:
    # Replaces Flask's "Exception on /path [GET]": one event name, with the path in a field.
    logger.error(
        "unhandled_exception",
        exc_info=exc_info,
        extra={"method": request.method, "path": request.path},
    )
