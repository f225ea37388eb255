"""The Flask extensions: made here, bound in `create_app`."""

from __future__ import annotations

import re
from typing import Any

from flask import request
from flask_cors import CORS
from flask_limiter import Limiter
from prometheus_flask_exporter import PrometheusMetrics

from goblin_assistant.config import Config
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.rate_limits.memory import MAX_KEYS
from goblin_assistant.rate_limits.policy import AUTH_ROUTES, address_key

exporter = PrometheusMetrics.for_app_factory(path=None, export_defaults=False, registry=REGISTRY)
cors = CORS()

EXPOSED = [
    "X-Correlation-ID",
    "X-Request-ID",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "Server-Timing",
    "Idempotent-Replayed",
    "request-id",
    "X-Goblin-Provider",
    "X-Goblin-Attempts",
    "X-Goblin-Ignored",
    "X-Goblin-Cost",
    "X-Goblin-Prompt-Tokens",
    "X-Goblin-Completion-Tokens",
    "X-Goblin-Token-Source",
    "Accept-Encoding",
    "Allow",
    "Content-Disposition",
    "Link",
    "WWW-Authenticate",
]
"""The response headers that a browser's script may read."""


def make_limiter(config: Config) -> Limiter:
    """The limiter of one application: flask-limiter keeps storage and switches on the object."""
    if not config.limits_uri.startswith("memory:"):
        # Registers its schemes with the limits library. Without Redis nobody loads it.
        from goblin_assistant.rate_limits import shared  # noqa: F401
    return Limiter(
        lambda: address_key(request.remote_addr),
        strategy="moving-window",
        storage_uri=storage_uri(config),
        storage_options={"instances": config.instances, "max_keys": MAX_KEYS},
        request_identifier=_identifier,
        headers_enabled=False,  # it would send Retry-After with every response
        enabled=config.ratelimit_enabled,
    )


def _identifier() -> str:
    """The name of a request for flask-limiter, which skips those without one: it counts the auth
    group, rate_limits/policy.py the others."""
    rule = request.url_rule
    return rule.rule if rule is not None and rule.rule in AUTH_ROUTES else ""


def storage_uri(config: Config) -> str:
    """Where limits are counted. `goblin+` selects the storages of rate_limits/."""
    return "goblin+" + config.limits_uri


def cors_options(origins: list[str]) -> dict[str, Any]:
    """What `cors.init_app` takes to answer these origins, `*` for any."""
    any_origin = "*" in origins
    return {
        # Patterns, because flask-cors takes a literal with brackets ([::1]) for a pattern.
        # Anchored, because it matches the start only: https://example.com.evil.net must not pass.
        "origins": "*"
        if any_origin
        else [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins],
        "expose_headers": EXPOSED,
        "max_age": 600,
        "send_wildcard": any_origin,
        # Credentials travel in headers that a script sets. The page's cookie is for its own origin.
        "supports_credentials": False,
        "always_send": False,
        # after_request sees the responses of error handlers too; this would evaluate them twice.
        "intercept_exceptions": False,
    }


def allow_headers(origins: list[str], origin: str) -> list[tuple[str, str]]:
    """The same answer for a request that never reaches Flask: the headers that let a script of
    `origin` read the response."""
    if "*" in origins:
        allowed = "*"
    elif origin.lower() in {one.lower() for one in origins}:
        allowed = origin
    else:
        return []
    headers = [
        ("Access-Control-Allow-Origin", allowed),
        ("Access-Control-Expose-Headers", ", ".join(EXPOSED)),
    ]
    return headers if allowed == "*" else [*headers, ("Vary", "Origin")]
