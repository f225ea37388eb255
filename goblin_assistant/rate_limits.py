"""Which limit a request falls under and who is counted: the Flask side of limit_policy.py.

| group   | routes                                             | counted by               |
|---------|----------------------------------------------------|--------------------------|
| auth    | POST /auth/register, login, refresh, logout, password | address               |
| health  | /health... but live and ready                      | address                  |
| chat    | completions, messages, embeddings                  | API key, user or address |
| general | everything else, unknown paths too                 | API key, user or address |
| none    | /health/live, /health/ready, /metrics, preflights  | not counted              |

Each group is one bucket a caller. flask-limiter counts all groups but chat, which asks the storage itself: measured, 7
us instead of 109. The hooks run before any view looks at credentials, so requests with bad ones are counted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, cast

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limit, Limiter, RequestLimit
from limits.storage import storage_from_string
from werkzeug.routing import Rule

from goblin_assistant import auth
from goblin_assistant.config import Config
from goblin_assistant.limit_policy import CHAT_ROUTES, RateLimits, Standing, address_key, headers_of
from goblin_assistant.limit_storage import MAX_KEYS, Counts

__all__ = ["Group", "RateLimits", "group_of", "init_app"]

Group = Literal["auth", "health", "chat", "general", ""]

_AUTH_ROUTES = frozenset(f"/auth/{name}" for name in ("register", "login", "refresh", "logout", "password"))
_EXEMPT_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})


def group_of(rule: Rule | None) -> Group:
    """The limit group of a route; general for a path that no route matches, "" for one that is never counted."""
    if rule is None:
        return "general"
    path = rule.rule
    if path in CHAT_ROUTES:
        return "chat"
    if path in _EXEMPT_ROUTES:
        return ""
    if path in _AUTH_ROUTES:
        return "auth"
    if path == "/health" or path.startswith("/health/"):
        return "health"
    return "general"


def init_app(app: Flask, config: Config) -> RateLimits:
    """Count every request of `app`. One limiter an application: flask-limiter keeps its switches on the object."""
    uri = "goblin+" + config.limits_uri
    if not config.limits_uri.startswith("memory:"):
        from goblin_assistant import shared_limit_storage  # noqa: F401 -- registers itself; without Redis nobody loads it
    if not config.ratelimit_enabled:
        return RateLimits(config, cast(Counts, storage_from_string(uri, instances=config.instances)))

    limiter = Limiter(
        _caller,
        default_limits=[
            _shared(config.ratelimit_auth, "auth", _address),
            _shared(config.ratelimit_health, "health", _address),
            _shared(config.ratelimit_default, "general", _caller),
        ],
        strategy="moving-window",
        storage_uri=uri,
        storage_options={"instances": config.instances, "max_keys": MAX_KEYS},
        # flask-limiter leaves requests without a name alone. Chat has its own hook; 404s have no endpoint and get a
        # name here.
        request_identifier=lambda: _counted_group() if _counted_group() != "chat" else "",
        on_breach=_refuse,
        headers_enabled=False,  # it would send Retry-After with every answer
    )
    limiter.init_app(app)
    policy = RateLimits(config, cast(Counts, limiter.storage))

    def check_chat() -> None:
        if _counted_group() == "chat":
            g.rate_limit_standing = policy.check_chat(auth.identify(), request.remote_addr)

    def add_headers(response: Response) -> Response:
        standing: Standing | None = g.get("rate_limit_standing")
        if standing is None and (current := limiter.current_limit) is not None:
            standing = Standing(current.limit.amount, max(0, current.remaining), current.reset_at)
        if standing is not None and "X-RateLimit-Limit" not in response.headers:
            response.headers.extend(headers_of(standing))
        return response

    app.before_request(check_chat)
    app.after_request(add_headers)
    app.extensions["goblin_rate_limits"] = policy
    return policy


def _shared(limit: str, group: Group, key: Callable[[], str]) -> Limit:
    return Limit(limit, key_function=key, scope=group, shared=True, exempt_when=lambda: _counted_group() != group)


def _counted_group() -> Group:
    # https://fetch.spec.whatwg.org/#cors-preflight-request: a browser sends it unasked, without credentials.
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return ""
    return group_of(request.url_rule)


def _address() -> str:
    return address_key(request.remote_addr)


def _caller() -> str:
    principal = auth.identify()
    return principal.label if principal is not None else _address()


def _refuse(limit: RequestLimit) -> None:
    policy: RateLimits = current_app.extensions["goblin_rate_limits"]
    caller = limit.request_args[0]
    scope = caller.partition(":")[0]
    standing = Standing(limit.limit.amount, 0, limit.reset_at)
    raise policy.refused(_counted_group(), scope, str(limit.limit), limit.window.reset_time - time.time(), standing)
