"""Which limit group a request belongs to, and for whom it counts.

| group   | routes                                             | counted by               |
|---------|----------------------------------------------------|--------------------------|
| auth    | POST /auth/register, login, refresh, logout, password | address               |
| health  | /health... but live and ready                      | address                  |
| chat    | completions, messages, embeddings                  | API key, user or address |
| session | /auth/session, by the limits of general            | session or address       |
| general | everything else, unknown paths too                 | API key, user or address |
| none    | /health/live, /health/ready, /metrics, preflights, | not counted              |
|         | the page's files                                   |                          |

Each caller has one bucket per group. flask-limiter counts the auth group. rate_limits/policy.py
counts the others on the same storage, at 30 us instead of 280 (measured on /health). The hook runs
before any view checks credentials, so that requests with bad ones are counted too.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

from flask import Flask, request
from flask_limiter import Limiter, RequestLimit
from limits.storage import storage_from_string
from werkzeug.routing import Rule

from goblin_assistant.config import Config
from goblin_assistant.extensions import storage_uri
from goblin_assistant.rate_limits.counts import Counts
from goblin_assistant.rate_limits.policy import (
    AUTH_ROUTES,
    CHAT_ROUTES,
    RateLimits,
)
from goblin_assistant.rate_limits.rules import LimitStatus, headers_of, refused
from goblin_assistant.web import auth, page_session
from goblin_assistant.web.request_info import ENVIRON_KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Group", "RateLimits", "group_of", "init_app"]

Group = Literal["auth", "health", "chat", "session", "general", ""]

_EXEMPT_ROUTES = frozenset(
    # The page: one office behind one address loads thirty files for each person.
    {"/health/live", "/health/ready", "/metrics", "/", "/static/<files_hash>/<path:name>"}
)


def group_of(rule: Rule | None) -> Group:
    """The limit group of a route: general for a path without a route, "" for one that is never
    counted."""
    if rule is None:
        return "general"
    return _group_of_path(rule.rule)


@lru_cache(maxsize=1024)
def _group_of_path(path: str) -> Group:
    if path in CHAT_ROUTES:
        return "chat"
    if path in _EXEMPT_ROUTES:
        return ""
    if path in AUTH_ROUTES:
        return "auth"
    if path == page_session.PATH:
        return "session"
    if path == "/health" or path.startswith("/health/"):
        return "health"
    return "general"


def init_app(app: Flask, config: Config, limiter: Limiter) -> RateLimits:
    """Count every request of `app`, and return the policy. `limiter` is bound already."""
    if not config.ratelimit_enabled:
        storage = storage_from_string(storage_uri(config), instances=config.instances)
        return RateLimits(config, cast(Counts, storage))
    policy = RateLimits(config, cast(Counts, limiter.storage))

    @limiter.shared_limit(lambda: policy.auth, scope="auth", on_breach=_refuse)
    def count_auth() -> None:
        """Empty: the decorator counts."""

    def count() -> None:
        environ = request.environ
        group = _counted_group(environ)
        if group == "auth":
            count_auth()
            counted = limiter.current_limit
            if counted is None:
                return
            status: LimitStatus | None = LimitStatus(
                counted.limit.amount, max(0, counted.remaining), counted.reset_at
            )
        elif group == "session":
            status = policy.check_session(page_session.family(), environ.get("REMOTE_ADDR"))
        elif group:
            principal = auth.identify() if group != "health" else None
            status = policy.check(group, principal, environ.get("REMOTE_ADDR"))
        else:
            return
        if status is not None:
            info = environ.get(ENVIRON_KEY)
            if info is not None:
                info.limit = (status.limit, status.remaining)
                info.headers.extend(headers_of(status).items())

    app.before_request(count)
    return policy


def _counted_group(environ: WSGIEnvironment) -> Group:
    # A browser sends a preflight on its own, without credentials
    # (https://fetch.spec.whatwg.org/#cors-preflight-request).
    asked = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    if asked and environ["REQUEST_METHOD"] == "OPTIONS":
        return ""
    return group_of(request.url_rule)


def _refuse(limit: RequestLimit) -> None:
    status = LimitStatus(limit.limit.amount, 0, limit.reset_at)
    raise refused("auth", "ip", str(limit.limit), limit.window.reset_time - time.time(), status)
