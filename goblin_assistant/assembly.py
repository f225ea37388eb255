"""Makes the parts of one application: the Flask object, and the Runtime that views reach."""

from __future__ import annotations

from apiflask import APIFlask
from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from sqlalchemy import create_engine

from goblin_assistant.accounts.users import Accounts
from goblin_assistant.calls.idempotency import IdempotencyStore
from goblin_assistant.calls.idempotency_memory import MemoryIdempotencyStore
from goblin_assistant.calls.idempotency_redis import RedisIdempotencyStore
from goblin_assistant.calls.service import ChatService
from goblin_assistant.config import FAULT_ROW, Config, ConfigError
from goblin_assistant.config.folders import make_private
from goblin_assistant.conversations.store import Conversations
from goblin_assistant.database import pool
from goblin_assistant.database.engine import engine_options
from goblin_assistant.health import folder
from goblin_assistant.health.checks import build_monitor
from goblin_assistant.health.monitor import PeriodicJob
from goblin_assistant.metrics import app_build_info
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.rows import rows_of
from goblin_assistant.rate_limits.policy import RateLimits
from goblin_assistant.routing.router import Router
from goblin_assistant.runtime import Runtime
from goblin_assistant.threads.budget import ThreadBudget
from goblin_assistant.tracing.tracing import Tracing
from goblin_assistant.usage.batches import BATCH_SECONDS
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.store import UsageStore
from goblin_assistant.version import __version__


class _NoSessions(SessionInterface):
    """Every request carries credentials. Looking for a session's cookie would cost 20 us."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


def make_app(config: Config) -> APIFlask:
    """The bare Flask application, with what the extensions read from `app.config`."""
    app = APIFlask(
        "goblin_assistant",
        title="Goblin Assistant",
        version=__version__,
        spec_path=None,
        docs_path=None,
        instance_path=str(config.instance_dir.resolve()),
        # Flask takes None; APIFlask's hint does not say so.
        static_folder=None,  # type: ignore[arg-type]
    )
    app.session_interface = _NoSessions()
    app.config.update(
        SECRET_KEY=config.secret,
        MAX_CONTENT_LENGTH=config.max_body_bytes,
        MAX_FORM_MEMORY_SIZE=config.max_body_bytes,
    )
    return app


def assemble(app: APIFlask, config: Config, limits: RateLimits) -> Runtime:
    """Make every part, in the order in which they need each other; bind them to the application."""
    if config.sqlalchemy_url.startswith("sqlite"):
        make_private(config.instance_dir)
    options = engine_options(
        config.sqlalchemy_url,
        config.threads,
        config.database_timeout,
        pooler=config.database_pooler,
    )
    engine = create_engine(config.sqlalchemy_url, **options)
    pool.export(engine, options)
    threads = ThreadBudget(config.held_threads)
    accounts = Accounts(engine, config, threads)
    registry = build_registry(config)
    router = Router(config, registry)
    usage = UsageStore(
        engine,
        make_prices(config),
        config.instance_dir,
        default_max_tokens=config.budget_default_max_tokens,
        reservation_seconds=config.timeout_total + 120,
        batch_seconds=BATCH_SECONDS,
    )
    conversations = Conversations(engine, config.conversation_bytes_per_user)
    jobs = _jobs(config, usage, accounts, conversations)
    monitor = build_monitor(
        config,
        engine,
        registry,
        jobs,
        circuits=router.circuits,
        serves_callers=accounts.principals.any_recent,
    )
    folder.export(config.instance_dir)
    runtime = Runtime(
        config=config,
        engine=engine,
        accounts=accounts,
        rate_limits=limits,
        registry=registry,
        router=router,
        usage=usage,
        conversations=conversations,
        idempotency=_idempotency_store(config),
        chat=ChatService(
            config, registry, router, usage, limits, threads, lambda: monitor.draining
        ),
        monitor=monitor,
        tracing=Tracing(config.environ, config.instance_label),
    )
    app.extensions["goblin"] = runtime
    app_build_info.labels(__version__).set(1)
    return runtime


def make_prices(config: Config) -> Prices:
    """The prices that goblin.toml and its providers' addresses give."""
    rows = config.file.providers
    return Prices(
        config.file.prices,
        {
            name: row.base_url
            for name, row in rows_of(config)
            if not isinstance(row, ConfigError) and row.base_url
        },
        free={
            "echo",
            *([FAULT_ROW] if config.offers_faults else []),
            *(name for name, row in rows.items() if row.kind in ("echo", "faults")),
        },
    )


def _jobs(
    config: Config, usage: UsageStore, accounts: Accounts, conversations: Conversations
) -> list[PeriodicJob]:
    jobs = [
        PeriodicJob("retry_unsaved_usage", 30.0, usage.retry_unsaved),
        PeriodicJob("release_stale_reservations", 60.0, usage.release_stale_reservations),
        PeriodicJob("flush_last_used", 60.0, accounts.keys.flush_last_used),
        PeriodicJob(
            "delete_expired_refresh_tokens", 3600.0, accounts.sessions.delete_expired_tokens
        ),
    ]
    if config.usage_retention_days:
        jobs.append(
            PeriodicJob("prune_usage", 3600.0, lambda: usage.prune(config.usage_retention_days))
        )
    # Also where they are switched off: those of before are still there.
    if config.conversation_retention_days:
        jobs.append(
            PeriodicJob(
                "prune_conversations",
                3600.0,
                lambda: conversations.prune(config.conversation_retention_days),
            )
        )
    return jobs


def _idempotency_store(config: Config) -> IdempotencyStore:
    seconds, in_flight = config.idempotency_seconds, config.timeout_total + 30
    if config.redis_url:
        return RedisIdempotencyStore(seconds, in_flight, config.redis_url, config.accepted_secrets)
    return MemoryIdempotencyStore(seconds, in_flight, config.idempotency_max_bytes)
