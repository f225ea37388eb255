"""What an instance is: its environment, its storage, its accounts, its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from goblin_assistant.config.fields import (
    CommaList,
    Limit,
    OptionalInt,
    OptionalPath,
    OptionalText,
    Secret,
    Settings,
    setting,
)


class InstanceSettings(Settings):
    """Environment, logging, storage, accounts, limits of requests."""

    # -- what this is
    env: Literal["production", "development"] = setting(
        "production",
        "GOBLIN_ENV",
        "development makes its own secret, migrates at start and opens registration",
    )
    secret_key: Secret = setting(
        None, "SECRET_KEY", "signs access tokens; 32 bytes or more; required in production"
    )
    secret_key_previous: Secret = setting(
        None,
        "SECRET_KEY_PREVIOUS",
        "a second key whose access tokens are accepted while SECRET_KEY is rotated; "
        "signs nothing; empty otherwise",
    )
    instance_dir: Path = setting(
        Path("instance"),
        "GOBLIN_INSTANCE_DIR",
        "where SQLite, the development secret and the usage journal live",
    )
    config_file: Path = setting(
        Path("goblin.toml"),
        "GOBLIN_CONFIG_FILE",
        "provider rows, aliases, chains, prices and limits; optional",
    )

    # -- logging and browsers
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "LOG_LEVEL", "least severe level that is logged"
    )
    log_file: OptionalPath = setting(
        None,
        "GOBLIN_LOG_FILE",
        "file that the log is appended to; opened again on SIGHUP; empty: standard output",
    )
    instance_name: OptionalText = setting(
        None,
        "GOBLIN_INSTANCE_NAME",
        "the field `instance` of every log line; empty: the host's name and GOBLIN_PORT",
    )
    cors_origins: CommaList = setting(
        [],
        "CORS_ORIGINS",
        "comma-separated origins that browsers may call from; * only in development",
        examples=["http://localhost:3000,https://yourdomain.com,https://www.yourdomain.com"],
    )

    page: bool = setting(
        True, "GOBLIN_PAGE", "false switches the page at / off; the API stays as it is"
    )

    # -- storage
    database_url: str = setting(
        "", "DATABASE_URL", "SQLAlchemy URL; empty: SQLite in the instance folder"
    )
    database_timeout: float = setting(
        5.0,
        "GOBLIN_DATABASE_TIMEOUT",
        "seconds that one statement may take, its wait for locks included; "
        "then the database counts as unavailable",
        ge=1,
        le=300,
    )
    database_pooler: Literal["", "transaction"] = setting(
        "",
        "GOBLIN_DATABASE_POOLER",
        "transaction: DATABASE_URL is a pooler's, such as pgbouncer's, in transaction mode; "
        "nothing is then kept in a session: no prepared statements, no time limits of its own",
    )
    redis_url: OptionalText = setting(
        None,
        "REDIS_URL",
        "redis://... or redis+sentinel://...: shared rate limits and idempotency keys; empty: this "
        "process's memory",
    )

    # -- conversations
    conversations: bool = setting(
        True,
        "GOBLIN_CONVERSATIONS",
        "keep the page's conversations in the database; false: the page keeps them in its tab, "
        "and /conversations is gone",
    )
    conversation_retention_days: int = setting(
        0,
        "GOBLIN_CONVERSATION_RETENTION_DAYS",
        "conversations that nobody has written to for so long are deleted; 0 keeps them",
        ge=0,
    )
    conversation_bytes_per_user: int = setting(
        100 * 1024 * 1024,
        "GOBLIN_CONVERSATION_BYTES_PER_USER",
        "what the conversations of one user may take, images included",
        ge=1024,
    )

    # -- accounts
    registration: Literal["open", "closed", ""] = setting(
        "",
        "GOBLIN_REGISTRATION",
        "open or closed; empty: open in development, closed in production",
    )
    access_token_seconds: int = setting(
        900, "GOBLIN_ACCESS_TOKEN_SECONDS", "life of an access token", ge=60, le=86400
    )
    refresh_token_seconds: int = setting(
        2592000, "GOBLIN_REFRESH_TOKEN_SECONDS", "life of a refresh token", ge=300
    )
    max_keys_per_user: int = setting(
        100,
        "GOBLIN_MAX_KEYS_PER_USER",
        "good API keys that a user may have at once, whoever makes them",
        ge=1,
        le=100_000,
    )
    password_hash_concurrency: int = setting(
        2,
        "GOBLIN_PASSWORD_HASH_CONCURRENCY",
        "password hashes computed at once; each takes 19 MiB and a core",
        ge=1,
        le=64,
    )

    logins_at_once: OptionalInt = setting(
        None,
        "GOBLIN_LOGINS_AT_ONCE",
        "requests whose password is hashed or waits for it; further ones get 503 at once; "
        "empty: a quarter of GOBLIN_THREADS",
        ge=1,
    )

    # -- limits
    ratelimit_enabled: bool = setting(
        True, "RATELIMIT_ENABLED", "false switches all request limits off"
    )
    ratelimit_auth: Limit = setting(
        "10 per minute", "RATELIMIT_AUTH", "/auth/register, login, refresh, logout, password; by IP"
    )
    ratelimit_chat: Limit = setting(
        "30 per minute", "RATELIMIT_CHAT", "chat, messages and embeddings; by API key or user"
    )
    ratelimit_health: Limit = setting(
        "60 per minute", "RATELIMIT_HEALTH", "/health routes but live and ready; by IP"
    )
    ratelimit_default: Limit = setting(
        "100 per minute", "RATELIMIT_DEFAULT", "everything else; by API key, user or IP"
    )
    ratelimit_login_account: Limit = setting(
        "10 per 15 minutes",
        "RATELIMIT_LOGIN_ACCOUNT",
        "failed logins of one account before it is locked for a while",
    )
    ratelimit_storage_uri: OptionalText = setting(
        None,
        "RATELIMIT_STORAGE_URI",
        "memory://, redis://... or redis+sentinel://...; empty: REDIS_URL, else memory",
    )
    instances: int = setting(
        1,
        "GOBLIN_INSTANCES",
        "instances behind the proxy; divides the limits while Redis is lost",
        ge=1,
        le=1000,
    )
