"""A simulated provider as a server, for load tests: OpenAI's API over the engine of `echo`.

    POST /v1/chat/completions   POST /v1/embeddings   GET /v1/models   GET /health

Faults are those of a real provider's server: a status with OpenAI's error body and Retry-After, or
a stream that breaks off. There are no accounts, limits or logs, so that a test measures its client,
or the gateway between them. `goblin-assistant simulate` serves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    Call,
    CallCancelled,
    ChatRequest,
    Completed,
    Overloaded,
    Provider,
    ProviderError,
    RateLimited,
    StreamEvent,
)

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

MAX_BODY_BYTES = 64 * 1024 * 1024
CALL_SECONDS = 3600.0

# A provider's statuses, where they differ from those that our clients get (providers/errors.py).
_STATUSES: dict[type[ProviderError], tuple[int, str, str]] = {
    RateLimited: (429, "rate_limit_error", "rate_limit_exceeded"),
    Overloaded: (529, "overloaded_error", "overloaded"),
    AuthenticationFailed: (401, "authentication_error", "invalid_api_key"),
}


class Simulator:
    """The WSGI application around one provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if method in ("GET", "HEAD") and path in ("/", "/health"):
            return _json(
                start_response,
                200,
                {"status": "ok", "service": "Goblin Assistant provider simulator"},
            )
        if method in ("GET", "HEAD") and path == "/v1/models":
            rows = [
                {"id": m.id, "object": "model", "created": 0, "owned_by": "goblin"}
                for m in self._provider.models()
            ]
            return _json(start_response, 200, {"object": "list", "data": rows})
        if path not in ("/v1/chat/completions", "/v1/embeddings"):
            return _failed(
                start_response,
                404,
                "not_found",
                "POST /v1/chat/completions, /v1/embeddings; GET /v1/models, /health",
            )
        if method != "POST":
            return _failed(
                start_response, 405, "method_not_allowed", "POST only", [("Allow", "POST")]
            )
        body = _body(environ)
        if body is None:
            return _failed(
                start_response, 400, "invalid_request", "the body is no JSON object, or too large"
            )
        try:
            return self._answer(environ, start_response, path, body)
        except CallCancelled:
            return []
        except ProviderError as error:
            return _provider_failed(start_response, error)

    def _answer(
        self, environ: Environ, start_response: StartResponse, path: str, body: dict[str, Any]
    ) -> Iterable[bytes]:
        model = body.get("model")
        call = Call(
            correlation_id=environ.get("HTTP_X_CORRELATION_ID", ""),
            deadline=time.monotonic() + CALL_SECONDS,
            client_gone=environ.get("waitress.client_disconnected"),
        )
        request = ChatRequest(
            model if isinstance(model, str) and model else "echo",
            body,
            stream=body.get("stream") is True,
            call=call,
        )
        if path == "/v1/embeddings":
            return _raw(start_response, self._provider.embed(request).body)
        if not request.stream:
            return _raw(start_response, self._provider.complete(request).body)
        events = self._provider.stream(request)
        first = next(events)  # an error in place of an answer still gets its status
        start_response(
            "200 OK",
            [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")],
        )
        return _events(first, events)


def _events(first: StreamEvent, events: Iterator[StreamEvent]) -> Iterator[bytes]:
    try:
        if isinstance(first, bytes):
            yield first
        for event in events:
            if not isinstance(event, Completed):
                yield event
        yield b"data: [DONE]\n\n"
    except CallCancelled:
        return
    finally:
        events.close()  # type: ignore[attr-defined]


def _body(environ: Environ) -> dict[str, Any] | None:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        parsed = (
            orjson.loads(environ["wsgi.input"].read(length)) if length <= MAX_BODY_BYTES else None
        )
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _raw(
    start_response: StartResponse,
    body: bytes,
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    start_response(
        f"{status} {'OK' if status == 200 else 'Simulated'}",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers],
    )
    return [body]


def _json(
    start_response: StartResponse, status: int, body: Any, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    return _raw(start_response, orjson.dumps(body), status, headers)


def _failed(
    start_response: StartResponse,
    status: int,
    code: str,
    message: str,
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return _json(start_response, status, {"error": error}, headers)


def _provider_failed(start_response: StartResponse, error: ProviderError) -> list[bytes]:
    default = (
        error.status,
        "invalid_request_error" if error.status < 500 else "server_error",
        error.code,
    )
    status, kind, code = _STATUSES.get(type(error), default)
    headers = (
        [("Retry-After", str(math.ceil(error.retry_after)))]
        if error.retry_after is not None
        else []
    )
    body = {"error": {"message": str(error), "type": kind, "param": error.param, "code": code}}
    return _json(start_response, status, body, headers)
