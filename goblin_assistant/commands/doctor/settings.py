"""Checks of settings that are valid, but not fit for production."""

from __future__ import annotations

import re
from collections.abc import Iterator

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning
from goblin_assistant.commands.prometheus_api import JOB, PrometheusError
from goblin_assistant.config import Config

_PLACEHOLDER_HOST = re.compile(r"(^|\.)(yourdomain|your-domain|mydomain|example)\.[a-z]+$", re.I)
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_LIMITS = ("ratelimit_auth", "ratelimit_chat", "ratelimit_health", "ratelimit_default")
_MANY_REFUSED = 0.05
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def environment(context: Context) -> Iterator[Finding]:
    """GOBLIN_ENV."""
    if context.config.production:
        yield ok("environment", "GOBLIN_ENV=production; all settings are valid")
    else:
        yield warning(
            "environment",
            "development: it makes its own secret and anybody may make an account",
            "Set GOBLIN_ENV=production.",
        )


def browsers(context: Context) -> Iterator[Finding]:
    """CORS_ORIGINS."""
    origins = context.config.cors_origins
    hosts = {origin: _host(origin) for origin in origins}
    placeholders = [origin for origin, host in hosts.items() if _PLACEHOLDER_HOST.search(host)]
    local = [origin for origin, host in hosts.items() if host in _LOCAL]
    plain = [origin for origin in origins if origin.startswith("http://") and origin not in local]
    production = context.config.production
    if placeholders:
        yield (failure if production else warning)(
            "CORS_ORIGINS",
            f"holds the guide's placeholder: {', '.join(placeholders)}",
            "Set it to the addresses of your own pages, or to nothing.",
        )
    elif local and production:
        yield warning(
            "CORS_ORIGINS",
            f"holds a development address: {', '.join(local)}",
            "Remove it: every page on the visitor's own machine may call the API.",
        )
    elif plain and production:
        yield warning(
            "CORS_ORIGINS",
            f"holds a page without TLS: {', '.join(plain)}",
            "Serve the page by https and list that address.",
        )
    else:
        yield ok("CORS_ORIGINS", ", ".join(origins) or "empty: no page of another address may call")


def _host(origin: str) -> str:
    return re.sub(r":\d+$", "", origin.partition("://")[2])


def log_level(context: Context) -> Iterator[Finding]:
    """LOG_LEVEL."""
    level, production = context.config.log_level, context.config.production
    if level == "DEBUG" and production:
        yield warning("LOG_LEVEL", "DEBUG is for development", "Set LOG_LEVEL=INFO or WARNING.")
    elif level in ("ERROR", "CRITICAL") and production:
        yield warning(
            "LOG_LEVEL",
            f"{level}: no line says what a request did",
            "Set LOG_LEVEL=INFO or WARNING.",
        )
    else:
        yield ok("LOG_LEVEL", level)


def limits(context: Context) -> Iterator[Finding]:
    """RATELIMIT_*: limits are on, shared by the instances, and chosen by the operator."""
    config = context.config
    shown = ", ".join(
        f"{name.removeprefix('ratelimit_')} {getattr(config, name)}" for name in _LIMITS
    )
    if not config.ratelimit_enabled:
        yield warning(
            "limits", "RATELIMIT_ENABLED=false: no request is limited", "Remove that setting."
        )
        return
    if config.instances > 1 and config.limits_uri.startswith("memory"):
        yield failure(
            "limits",
            f"GOBLIN_INSTANCES={config.instances}, but each instance counts on its own",
            "Set REDIS_URL.",
        )
        return
    refused = _refused_share(context)
    if refused is not None and refused > _MANY_REFUSED:
        yield warning(
            "limits",
            f"{refused:.0%} of the requests of the last day were refused with 429; {shown}",
            "Raise the limit that the panel 'Refusals by limit' names, or find the caller.",
        )
    elif all(getattr(config, name) == Config.model_fields[name].default for name in _LIMITS):
        yield warning(
            "limits",
            f"the defaults: {shown}",
            "Set RATELIMIT_CHAT and the others to what your callers need.",
        )
    else:
        yield ok("limits", shown)


def _refused_share(context: Context) -> float | None:
    if context.prometheus is None:
        return None
    day = f'{{job="{JOB}"}}[1d]'
    try:
        return context.prometheus.number(
            f"sum(increase(rate_limit_rejections_total{day}))"
            f" / sum(increase(http_requests_total{day}))"
        )
    except PrometheusError:
        return None  # the line on scraping says so


def registration(context: Context) -> Iterator[Finding]:
    """GOBLIN_REGISTRATION."""
    if context.config.registration_open and context.config.production:
        yield warning(
            "registration", "anybody may make an account", "Set GOBLIN_REGISTRATION=closed."
        )
    else:
        word = "open" if context.config.registration_open else "closed"
        yield ok("registration", word)


def proxy(context: Context) -> Iterator[Finding]:
    """GOBLIN_TRUSTED_PROXY: without it, all callers behind a proxy have the proxy's address."""
    config = context.config
    shared = "all callers have the proxy's address and share its limits"
    if config.trusted_proxy == "*":
        yield warning(
            "proxy",
            "GOBLIN_TRUSTED_PROXY=*: whoever reaches the port can forge its address",
            "Set it to the proxy's address.",
        )
    elif config.trusted_proxy is not None:
        yield ok("proxy", f"X-Forwarded-For counts when it comes from {config.trusted_proxy}")
    elif context.through_proxy:
        yield failure(
            "proxy",
            f"there is a proxy in front and GOBLIN_TRUSTED_PROXY is not set: {shared}",
            "Set GOBLIN_TRUSTED_PROXY to the proxy's address as this server sees it.",
        )
    elif config.host not in _LOOPBACK:
        yield warning(
            "proxy",
            f"listens on {config.host} without GOBLIN_TRUSTED_PROXY: callers come without TLS, "
            f"or {shared}",
            "Put a proxy with TLS in front and set GOBLIN_TRUSTED_PROXY.",
        )
    elif config.production:
        yield warning(
            "proxy",
            f"GOBLIN_TRUSTED_PROXY is not set: if a proxy is in front, {shared}",
            "Set GOBLIN_TRUSTED_PROXY to the proxy's address.",
        )
    else:
        yield ok("proxy", "none")


def metrics_access(context: Context) -> Iterator[Finding]:
    """Who may read /metrics."""
    config = context.config
    if config.metrics_token is None and config.metrics_port is None and config.production:
        yield warning(
            "metrics access",
            "/metrics is on the public port and asks for no token",
            "Close it at the proxy, and set GOBLIN_METRICS_TOKEN or GOBLIN_METRICS_PORT.",
        )
    else:
        yield ok("metrics access", "token, port of its own, or development")
