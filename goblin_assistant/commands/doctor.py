"""goblin-assistant doctor: runs the deployment checklist."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import click
import redis
import requests
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from goblin_assistant.commands.database import open_engine
from goblin_assistant.config import Config, ConfigError
from goblin_assistant.database.compatibility import schema_status
from goblin_assistant.database.failures import does_not_answer, explain
from goblin_assistant.health.services import describe
from goblin_assistant.providers import build_registry
from goblin_assistant.routing.targets import check_routes

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the checklist."""

    verdict: Verdict
    subject: str
    message: str


@click.command()
@click.option("--url", help="Also look at a running instance, e.g. http://127.0.0.1:8001")
def doctor(url: str | None) -> None:
    """Run the deployment checklist. Exits 1 when something fails, 0 with warnings."""
    worst = 0
    for finding in findings(url):
        mark = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}[finding.verdict]
        click.echo(f"{mark}  {finding.subject:<14} {finding.message}")
        worst = max(worst, {"ok": 0, "warn": 1, "fail": 2}[finding.verdict])
    click.echo(
        ["all well", "it will run; think about the warnings", "not ready for production"][worst]
    )
    raise SystemExit(1 if worst == 2 else 0)


def findings(url: str | None = None) -> Iterator[Finding]:
    """Every check. What other checks need comes first."""
    try:
        config = Config.load()
        registry = build_registry(config)
        check_routes(config.file, registry)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("fail", "configuration", problem)
        return
    yield Finding("ok", "configuration", f"GOBLIN_ENV={config.env}, all settings are valid")
    if not config.production:
        yield Finding(
            "warn",
            "environment",
            "development: its own secret, open registration; set GOBLIN_ENV=production",
        )
    yield from _settings(config)
    yield _database(config)
    yield _redis(config)
    for name, provider in registry.providers.items():
        yield _try(name, functools.partial(provider.check, config.health_timeout), "answers")
    real = [name for name in registry.providers if name != "echo"]
    if not real:
        yield Finding(
            "warn",
            "providers",
            "only the embedded echo: set a key (OPENAI_API_KEY ...) or add a row to goblin.toml",
        )
    for name, address, path in (
        ("chroma", config.chroma_url, "/api/v2/heartbeat"),
        ("sandbox", config.sandbox_url, "/health"),
    ):
        if address:
            yield _try(
                name, functools.partial(_get, address + path, config.health_timeout), "answers"
            )
    registry.close()
    if url:
        yield from _running(config, url.rstrip("/"))


def _settings(config: Config) -> Iterator[Finding]:
    yield _browsers(config)
    yield _log_level(config)
    yield _limits(config)
    yield from _exposure(config)
    yield _instance_folder(config)


def _browsers(config: Config) -> Finding:
    if not config.cors_origins:
        return Finding("ok", "CORS_ORIGINS", "empty: no browser page may call the API")
    local = [
        origin for origin in config.cors_origins if "localhost" in origin or "127.0.0.1" in origin
    ]
    if local and config.production:
        return Finding("warn", "CORS_ORIGINS", f"holds a development address: {', '.join(local)}")
    return Finding("ok", "CORS_ORIGINS", ", ".join(config.cors_origins))


def _log_level(config: Config) -> Finding:
    if config.log_level == "DEBUG" and config.production:
        return Finding(
            "warn", "LOG_LEVEL", "DEBUG is meant for development; INFO or WARNING for production"
        )
    return Finding("ok", "LOG_LEVEL", config.log_level)


def _limits(config: Config) -> Finding:
    if not config.ratelimit_enabled:
        return Finding("warn", "limits", "RATELIMIT_ENABLED=false: no request is limited")
    if config.instances > 1 and config.limits_uri.startswith("memory"):
        return Finding(
            "warn", "limits", f"{config.instances} instances, each counts on its own: set REDIS_URL"
        )
    return Finding(
        "ok",
        "limits",
        f"auth {config.ratelimit_auth}, chat {config.ratelimit_chat}, "
        f"health {config.ratelimit_health}, general {config.ratelimit_default}",
    )


def _exposure(config: Config) -> Iterator[Finding]:
    if config.registration_open and config.production:
        yield Finding("warn", "registration", "open: anybody may make an account")
    if config.host not in ("127.0.0.1", "::1", "localhost") and config.trusted_proxy is None:
        yield Finding(
            "warn",
            "proxy",
            f"listens on {config.host} without GOBLIN_TRUSTED_PROXY: TLS is missing, "
            "or all callers share the proxy's address",
        )
    if config.trusted_proxy == "*":
        yield Finding(
            "warn",
            "proxy",
            "GOBLIN_TRUSTED_PROXY=*: whoever reaches the port can forge its address",
        )


def _instance_folder(config: Config) -> Finding:
    folder = config.instance_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(
            "fail",
            "instance",
            f"{folder} cannot be written ({error.strerror}): the usage journal needs it",
        )
    return Finding("ok", "instance", f"{folder} can be written")


def _database(config: Config) -> Finding:
    engine = open_engine(config)
    try:
        began = time.perf_counter()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        took = (time.perf_counter() - began) * 1000
        if (problem := schema_status(engine).problem) is not None:
            return Finding("fail", "database", problem)
        kind = engine.dialect.name
        if kind == "sqlite" and config.instances > 1:
            return Finding(
                "fail",
                "database",
                f"SQLite with GOBLIN_INSTANCES={config.instances}: use PostgreSQL",
            )
        return Finding("ok", "database", f"{kind}, migrated, {took:.0f} ms")
    except (DBAPIError, PoolTimeout) as error:
        away = does_not_answer(error)
        said = f"cannot be reached: {describe(error)}" if away else explain(error)
        return Finding("fail", "database", said)
    finally:
        engine.dispose()


def _redis(config: Config) -> Finding:
    uris = {
        uri for uri in (config.redis_url, config.limits_uri) if uri and not uri.startswith("memory")
    }
    if not uris:
        verdict: Verdict = "warn" if config.production and config.instances > 1 else "ok"
        return Finding(
            verdict, "redis", "not configured: limits and idempotency keys are this process's own"
        )

    def ping() -> None:
        for uri in uris:
            client = redis.Redis.from_url(uri, socket_connect_timeout=1, socket_timeout=1)
            client.ping()
            client.close()

    return _try("redis", ping, "answers")


def _running(config: Config, url: str) -> Iterator[Finding]:
    yield _try("ready", lambda: _get(url + "/health/ready", 3), f"{url} is ready")

    def metrics() -> None:
        headers = {}
        if config.metrics_token is not None:
            headers["Authorization"] = f"Bearer {config.metrics_token.get_secret_value()}"
        body = _get(url + "/metrics", 5, headers)
        if "http_requests_total" not in body:
            raise ValueError("no http_requests_total in /metrics")

    if config.metrics_port is None:
        yield _try("metrics", metrics, "Prometheus can scrape /metrics")
        if config.metrics_token is None and config.production:
            yield Finding(
                "warn",
                "metrics",
                "/metrics asks for no token: keep it from the public at the proxy, "
                "or set GOBLIN_METRICS_TOKEN",
            )


def _get(url: str, timeout: float, headers: dict[str, str] | None = None) -> str:
    response = requests.get(url, timeout=timeout, headers=headers)
    response.raise_for_status()
    return response.text


def _try(subject: str, action: Callable[[], Any], success: str) -> Finding:
    try:
        action()
    except Exception as error:  # a finding, and not the end of the checklist
        return Finding("fail", subject, describe(error))
    return Finding("ok", subject, success)
