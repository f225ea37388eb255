"""Binds flask-limiter and flask-cors without the hooks that they add to every request.

Without this module `create_app` would call `limiter.init_app(app)` and, where origins are
configured, `cors.init_app(app, **cors_options(origins))`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import Flask, Response
from flask_limiter import Limiter

from goblin_assistant.extensions import cors, cors_options
from goblin_assistant.web.request_info import ENVIRON_KEY, current_request

MAX_KNOWN_ORIGINS = 256


def bind_limiter(limiter: Limiter, app: Flask) -> None:
    """`limiter.init_app(app)` without its hooks: they cost every request 65 us, also those that
    it does not count (measured)."""
    hooks: tuple[dict[Any, list[Any]], ...] = (
        app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs,
    )  # fmt: skip
    before = [list(functions.get(None, [])) for functions in hooks]
    limiter.init_app(app)
    for functions, kept in zip(hooks, before, strict=True):
        functions[None] = kept


def bind_cors(app: Flask, origins: list[str]) -> None:
    """`cors.init_app` with a cache around its hook. Without origins, no CORS headers."""
    if origins:
        cors.init_app(app, **cors_options(origins))
        hook = cast(Callable[[Response], Response], app.after_request_funcs[None].pop())
        app.after_request(_CachedCors(hook))


class _CachedCors:
    """Asks flask-cors once for each origin: it takes 30 us to say the same again.

    Preflights depend on more than the origin, and a response with a Vary header needs it merged:
    both go to flask-cors every time.
    """

    def __init__(self, evaluate: Callable[[Response], Response]) -> None:
        self._evaluate = evaluate
        self._known: dict[str, list[tuple[str, str]]] = {}

    def __call__(self, response: Response) -> Response:
        environ = current_request().environ
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return response
        varies = any(name == "Vary" for name, _ in response.headers)
        if varies or environ["REQUEST_METHOD"] == "OPTIONS":
            return self._evaluate(response)
        headers = self._known.get(origin)
        if headers is None:
            headers = self._headers_for_origin()
            # Bounded, because one origin has many spellings that differ in case.
            if headers and len(self._known) < MAX_KNOWN_ORIGINS:
                self._known[origin] = headers
        info = environ.get(ENVIRON_KEY)
        if info is None:  # without web/observability.py, which sends info.headers
            response.headers.extend(headers)
        else:
            info.headers.extend(headers)
        return response

    def _headers_for_origin(self) -> list[tuple[str, str]]:
        return [
            (name, value)
            for name, value in self._evaluate(Response()).headers
            if name.startswith("Access-Control-") or name == "Vary"
        ]
