"""Checks of the database, Redis, and the number of instances."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning
from goblin_assistant.commands.prometheus_api import JOB, PrometheusError
from goblin_assistant.database.compatibility import schema_status
from goblin_assistant.database.engine import APPLICATION, application_name
from goblin_assistant.database.failures import does_not_answer, explain
from goblin_assistant.database.redis_client import NoPrimaryError, close, redis_client

_SLOW_MS = 50.0
_TRIES = 5
_REDIS_SECONDS = 1.0


def database(context: Context) -> Iterator[Finding]:
    """The database answers quickly, and its tables match this release."""
    try:
        with context.database() as engine:
            yield _database(context, engine)
    except (DBAPIError, PoolTimeout) as error:
        if does_not_answer(error):
            yield failure(
                "database",
                "cannot be reached",
                "See that it is up, and that DATABASE_URL has the right host, user and password.",
            )
        else:
            yield failure("database", explain(error), "Mend that first: nothing works without it.")
    except (SQLAlchemyError, OSError) as error:
        yield failure(
            "database", f"cannot be opened: {type(error).__name__}", "Check DATABASE_URL."
        )


def _database(context: Context, engine: Engine) -> Finding:
    with engine.connect() as connection:
        median = _median_ms(lambda: connection.execute(text("SELECT 1")))
        kind = engine.dialect.name
        if kind == "postgresql":
            now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar()
            context.clocks.append(("the database", float(now or 0) - time.time()))
    status = schema_status(engine)
    if status.problem is not None:
        fix = (
            "Restore a backup." if status.damage is not None
            else "Upgrade this instance." if status.is_newer
            else "Run: goblin-assistant db upgrade"
        )  # fmt: skip
        return failure("database", f"it is {status.problem}", fix)
    if kind == "sqlite" and context.config.instances > 1:
        return failure(
            "database",
            f"SQLite with GOBLIN_INSTANCES={context.config.instances}",
            "Set DATABASE_URL to a PostgreSQL server.",
        )
    if median > _SLOW_MS:
        return warning(
            "database",
            f"{kind}, migrated, {median:.0f} ms a query",
            "Put it nearer, or find out what keeps it busy.",
        )
    return ok("database", f"{kind}, migrated, {median:.1f} ms a query")


def _median_ms(ask: Callable[[], object]) -> float:
    """The median time of one query, in milliseconds."""
    took = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def redis_server(context: Context) -> Iterator[Finding]:
    """Redis answers quickly, and accepts writes."""
    config = context.config
    uris = {uri for uri in (config.redis_url, config.limits_uri) if uri and "redis" in uri}
    if not uris:
        if config.production and config.instances > 1:
            yield failure(
                "redis",
                "not configured: limits and idempotency keys are each instance's own",
                "Set REDIS_URL.",
            )
        else:
            yield ok("redis", "not configured: limits are counted in this process")
        return
    for uri in sorted(uris):
        yield _redis(context, uri)


def _redis(context: Context, uri: str) -> Finding:
    client = redis_client(
        uri, connect_seconds=_REDIS_SECONDS, answer_seconds=_REDIS_SECONDS, retries=0
    )
    try:
        median = _median_ms(client.ping)
        client.set("goblin-doctor", "1", px=1000)
        seconds, microseconds = client.time()  # type: ignore[misc, unused-ignore]
        context.clocks.append(("Redis", seconds + microseconds / 1e6 - time.time()))
    except redis.AuthenticationError:
        return failure("redis", "credentials refused", "Put its password into REDIS_URL.")
    except redis.TimeoutError:
        return failure(
            "redis",
            f"no answer within {_REDIS_SECONDS:g} s",
            "See that it runs and is reachable: limits count in each process until then.",
        )
    except NoPrimaryError as error:
        return failure(
            "redis",
            str(error),
            "See `redis-cli -p 26379 sentinel masters`, and compare REDIS_URL with it: addresses, "
            "service name, password.",
        )
    except redis.ConnectionError:
        return failure(
            "redis", "connection failed", "Start it, or correct the host and port of REDIS_URL."
        )
    except redis.ResponseError as error:
        return _refuses(error)
    finally:
        close(client)
    if median > _SLOW_MS:
        return warning(
            "redis", f"{median:.0f} ms a command; each request needs one", "Put it nearer."
        )
    return ok("redis", f"works, {median:.1f} ms a command")


def _refuses(error: redis.ResponseError) -> Finding:
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        said, fix = "its memory is full", "Raise its maxmemory, or make room."
    elif isinstance(error, redis.exceptions.ReadOnlyError):
        said, fix = "it is a replica", "Put the primary's address into REDIS_URL."
    elif isinstance(error, redis.exceptions.NoPermissionError):
        said, fix = "its user may not write", "Give the user of REDIS_URL the right to write."
    else:
        said, fix = type(error).__name__, "Look at Redis' log."
    return failure("redis", f"it answers, but refuses to store: {said}", fix)


def instances(context: Context) -> Iterator[Finding]:
    """GOBLIN_INSTANCES is the number that is running, as PostgreSQL or Prometheus shows."""
    said = context.config.instances
    counted, where = _counted(context)
    if counted is None:
        yield ok("instances", f"GOBLIN_INSTANCES={said}; nothing to count them by")
    elif counted == said or counted == 0:
        shown = "none runs" if counted == 0 else f"{counted} run"
        yield ok("instances", f"GOBLIN_INSTANCES={said}; {shown}, says {where}")
    else:
        verdict = failure if counted > said else warning
        yield verdict(
            "instances",
            f"GOBLIN_INSTANCES={said}, but {counted} run, says {where}",
            f"Set GOBLIN_INSTANCES={counted} on all: without Redis limits are divided by it.",
        )


def _counted(context: Context) -> tuple[int | None, str]:
    if context.prometheus is not None:
        try:
            found = context.prometheus.number(f'count(up{{job="{JOB}"}} == 1)')
        except PrometheusError:
            found = None
        if found is not None:
            return int(found), "Prometheus"
    try:
        with context.database() as engine:
            # Behind a pooler PostgreSQL sees the pooler's connections, not each instance's.
            if engine.dialect.name != "postgresql" or context.config.database_pooler:
                return None, ""
            with engine.connect() as connection:
                names = connection.execute(
                    text(
                        "SELECT DISTINCT application_name, client_addr FROM pg_stat_activity "
                        "WHERE datname = current_database() AND application_name LIKE :ours "
                        "AND application_name <> :mine"
                    ),
                    {"ours": f"{APPLICATION} %", "mine": application_name()},
                ).all()
                return len(names), "PostgreSQL"
    except (SQLAlchemyError, OSError):
        return None, ""
