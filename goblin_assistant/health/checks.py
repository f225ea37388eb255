"""The check of each kind of service, and the monitor made from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import requests
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from goblin_assistant.database.compatibility import schema_status
from goblin_assistant.database.failures import does_not_answer, explain
from goblin_assistant.database.pool import connect
from goblin_assistant.health.monitor import HealthMonitor, PeriodicJob
from goblin_assistant.health.services import CheckFailed, ServiceCheck
from goblin_assistant.metrics import app_draining, app_ready, database_schema_current

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from goblin_assistant.config import Config
    from goblin_assistant.providers import Registry
    from goblin_assistant.providers.base import Provider

logger = logging.getLogger("goblin_assistant.health")

Check = Callable[[float], None]

RESERVED = frozenset({"database", "redis", "chroma", "sandbox", "all", "live", "ready"})
"""Names with another meaning under /health. A provider with such a name is shown as
`provider-<name>`."""

# https://docs.trychroma.com/reference/server-api ; v1 answers 410.
CHROMA_HEARTBEAT = "/api/v2/heartbeat"
SANDBOX_HEALTH = "/health"


def build_monitor(
    config: Config,
    engine: Engine,
    registry: Registry,
    jobs: Iterable[PeriodicJob] = (),
    *,
    circuits: Callable[[], dict[str, str]] | None = None,
    serves_callers: Callable[[], bool] = lambda: False,
) -> HealthMonitor:
    """The monitor for this configuration. `circuits` maps provider names to closed, half_open or
    open; `serves_callers` is Readiness's."""
    names = {name: service_name(name) for name in registry.providers}

    def renamed() -> dict[str, str]:
        assert circuits is not None
        return {names.get(name, name): state for name, state in circuits().items()}

    logged: str | None = None

    def schema_problem() -> str | None:
        nonlocal logged
        try:
            found = schema_status(engine)
        except (DBAPIError, PoolTimeout) as error:
            raise database_failed(error) from None
        refused = found.is_newer and found.problem is not None
        monitor.refusal = f"the database is {found.problem}" if refused else None
        database_schema_current.set_function(lambda: float(found.problem is None))
        if found.problem is not None and found.problem != logged:
            logged = found.problem
            logger.error(
                "schema_not_served",
                extra={"reason": logged, "found": found.current, "expected": found.release},
            )
        return found.problem

    monitor = HealthMonitor(
        _checks(config, engine, registry, names),
        config.health_interval,
        config.health_timeout,
        jobs,
        circuits=renamed if circuits is not None else None,
        schema_problem=schema_problem,
        serves_callers=serves_callers,
    )
    database_schema_current.set_function(lambda: None)
    app_ready.set_function(lambda: float(monitor.ready()[0]))
    app_draining.set_function(lambda: float(monitor.draining))
    return monitor


def _checks(
    config: Config, engine: Engine, registry: Registry, names: Mapping[str, str]
) -> list[ServiceCheck]:
    """What is checked. `names` maps providers to their names under /health."""
    redis_url = config.redis_url or (
        config.limits_uri if "redis" in config.limits_uri.partition(":")[0] else None
    )
    return [
        ServiceCheck("database", "dependency", database_check(engine)),
        ServiceCheck("redis", "dependency", redis_check(redis_url) if redis_url else None),
        ServiceCheck(
            "chroma",
            "dependency",
            http_check(config.chroma_url + CHROMA_HEARTBEAT) if config.chroma_url else None,
        ),
        ServiceCheck(
            "sandbox",
            "dependency",
            http_check(config.sandbox_url + SANDBOX_HEALTH) if config.sandbox_url else None,
        ),
        *(
            ServiceCheck(names[name], "provider", _provider_check(p))
            for name, p in registry.providers.items()
            if p.listed
        ),
    ]


def service_name(provider: str) -> str:
    """A provider's name under /health: its own, unless that is reserved."""
    return f"provider-{provider}" if provider in RESERVED else provider


def database_check(engine: Engine) -> Check:
    """`SELECT 1`."""

    def check(timeout: float) -> None:
        try:
            with connect(engine) as connection:
                connection.execute(text("SELECT 1"))
        except (DBAPIError, PoolTimeout) as error:
            raise database_failed(error) from None
        except SQLAlchemyError as error:
            raise CheckFailed(f"database error: {type(error).__name__}") from None

    return check


def database_failed(error: DBAPIError | PoolTimeout) -> CheckFailed:
    """A failure of the database, as its check reports it."""
    return CheckFailed("connection failed" if does_not_answer(error) else explain(error))


def redis_check(url: str) -> Check:
    """PING."""
    import redis

    from goblin_assistant.database.redis_client import redis_client

    client: redis.Redis | None = None

    def check(timeout: float) -> None:
        nonlocal client
        if client is None:
            client = redis_client(
                url, connect_seconds=timeout, answer_seconds=timeout, retries=0, max_connections=1
            )
        try:
            client.ping()
        except redis.AuthenticationError:
            raise CheckFailed("credentials refused") from None
        except redis.TimeoutError:
            raise CheckFailed(f"no answer within {timeout:g} s") from None
        except redis.RedisError:
            raise CheckFailed("connection failed") from None

    return check


def http_check(url: str) -> Check:
    """GET must answer 2xx. Without redirects, and without a proxy from the environment."""
    session = requests.Session()
    session.trust_env = False

    def check(timeout: float) -> None:
        try:
            # stream, because only the status matters: a body of any size is not read.
            with session.get(url, timeout=timeout, allow_redirects=False, stream=True) as response:
                status = response.status_code
        except requests.Timeout:
            raise CheckFailed(f"no answer within {timeout:g} s") from None
        except requests.RequestException:
            raise CheckFailed("connection failed") from None
        if not 200 <= status < 300:
            raise CheckFailed(f"answered {status}")

    return check


def _provider_check(provider: Provider) -> Check:
    def check(timeout: float) -> None:
        provider.check(timeout)

    return check
