"""One typed, documented, validated configuration.

Sources, strongest first: arguments, environment, `.env`, `goblin.toml` (provider rows, aliases, chains, prices only),
defaults. Everything wrong is reported at once (`ConfigError`), by the setting's name, with what is accepted.
`.env.example` and docs/configuration.md are generated from the fields (`goblin-assistant config --env-example`, `--table`).
"""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from goblin_assistant.config.goblin_file import (
    GoblinFile,
    ModelRow,
    PriceRow,
    ProviderRow,
    Url,
    WeightedTarget,
)

__all__ = [
    "Config", "ConfigError", "GoblinFile", "ModelRow", "PriceRow", "ProviderRow", "WeightedTarget",
]  # fmt: skip

REDACTED = "**********"


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has a line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(
            "configuration is not valid:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
        self.problems = problems


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _limit(value: str) -> str:
    # The grammar of the limits library, checked here so that a typo is a start-up error and not a 500 on every request.
    from limits import parse_many

    try:
        parse_many(value)
    except ValueError:
        raise ValueError(
            "accepted: '<count> per <second|minute|hour|day>', for example '10 per minute'"
        ) from None
    return value


def _blank(value: Any) -> Any:
    # `NAME=` in .env means "not set" to everybody who writes it.
    return None if value == "" else value


CommaList = Annotated[list[str], BeforeValidator(_split)]
Limit = Annotated[str, AfterValidator(_limit)]
Secret = Annotated[SecretStr | None, BeforeValidator(_blank)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


def setting(default: Any, env: str, help: str, **extra: Any) -> Any:
    """A field that knows its variable and its help text, so that the docs can be generated from it."""
    return Field(default, validation_alias=env, description=help, **extra)


class Config(BaseModel):
    """The settings. Attribute names are ours; `env_name()` gives the variable."""

    model_config = ConfigDict(
        extra="ignore", populate_by_name=True, validate_default=True, frozen=True
    )

    # -- what this is
    env: Literal["production", "development"] = setting(
        "production",
        "GOBLIN_ENV",
        "development makes its own secret, migrates at start and opens registration",
    )
    secret_key: Secret = setting(
        None, "SECRET_KEY", "signs access tokens; 32 bytes or more; required in production"
    )
    instance_dir: Path = setting(
        Path("instance"),
        "GOBLIN_INSTANCE_DIR",
        "where SQLite, the development secret and the usage journal live",
    )
    config_file: Path = setting(
        Path("goblin.toml"),
        "GOBLIN_CONFIG_FILE",
        "provider rows, aliases, chains and prices; optional",
    )

    # -- logging and browsers
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "LOG_LEVEL", "least severe level that is logged"
    )
    cors_origins: CommaList = setting(
        [],
        "CORS_ORIGINS",
        "comma-separated origins that browsers may call from; * only in development",
    )

    # -- storage
    database_url: str = setting(
        "", "DATABASE_URL", "SQLAlchemy URL; empty: SQLite in the instance folder"
    )
    database_timeout: float = setting(
        5.0,
        "GOBLIN_DATABASE_TIMEOUT",
        "seconds that one statement may take, its wait for locks included; then the database counts as away",
        ge=1,
        le=300,
    )
    redis_url: Annotated[str | None, BeforeValidator(_blank)] = setting(
        None, "REDIS_URL", "shared rate limits and idempotency keys; empty: this process's memory"
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

    logins_at_once: Annotated[int | None, BeforeValidator(_blank)] = setting(
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
    ratelimit_storage_uri: Annotated[str | None, BeforeValidator(_blank)] = setting(
        None, "RATELIMIT_STORAGE_URI", "memory:// or redis://...; empty: REDIS_URL, else memory"
    )
    instances: int = setting(
        1,
        "GOBLIN_INSTANCES",
        "instances behind the proxy; divides the limits while Redis is lost",
        ge=1,
        le=1000,
    )

    # -- server
    host: str = setting("127.0.0.1", "GOBLIN_HOST", "address that serve listens on")
    port: int = setting(8001, "GOBLIN_PORT", "port that serve listens on", ge=0, le=65535)
    threads: int = setting(64, "GOBLIN_THREADS", "server threads", ge=4, le=2048)
    chat_slots: int | None = setting(
        None,
        "GOBLIN_CHAT_SLOTS",
        "chats at once; must be below GOBLIN_THREADS; empty: threads less an eighth, at least 3",
        ge=1,
    )
    chat_slot_wait_seconds: float = setting(
        0.5,
        "GOBLIN_CHAT_SLOT_WAIT_SECONDS",
        "how long a chat waits for a slot before 503",
        ge=0,
        le=60,
    )
    chats_waiting: Annotated[int | None, BeforeValidator(_blank)] = setting(
        None,
        "GOBLIN_CHATS_WAITING",
        "chats that may wait for a slot, each in a thread; further ones get 503 at once; "
        "empty: half of the threads beyond GOBLIN_CHAT_SLOTS",
        ge=0,
    )
    grace_seconds: float = setting(
        30.0,
        "GOBLIN_GRACE_SECONDS",
        "how long running requests may finish after SIGTERM",
        ge=0,
        le=3600,
    )
    drain_delay_seconds: float = setting(
        0.0,
        "GOBLIN_DRAIN_DELAY_SECONDS",
        "how long to go on accepting after SIGTERM, with readiness at 503, so that a load balancer can turn away first",
        ge=0,
        le=600,
    )
    send_timeout_seconds: float = setting(
        60.0,
        "GOBLIN_SEND_TIMEOUT_SECONDS",
        "a client that takes no byte of its answer for this long is cut off",
        gt=0,
        le=3600,
    )
    max_unsent_bytes: int = setting(
        256 * 1024 * 1024,
        "GOBLIN_MAX_UNSENT_BYTES",
        "bytes of all answers that their clients have not taken yet; beyond it the connections of those "
        "who have taken nothing for longest are closed",
        ge=1024 * 1024,
    )
    trusted_proxy: Annotated[str | None, BeforeValidator(_blank)] = setting(
        None,
        "GOBLIN_TRUSTED_PROXY",
        "address of the proxy whose X-Forwarded-* headers count, or * behind a closed network",
    )
    trusted_proxy_count: int = setting(
        1, "GOBLIN_TRUSTED_PROXY_COUNT", "proxies in front", ge=1, le=10
    )
    max_body_bytes: int = setting(
        20 * 1024 * 1024,
        "GOBLIN_MAX_BODY_BYTES",
        "largest request body; images travel in it",
        ge=1024,
    )
    max_pending_body_bytes: Annotated[int | None, BeforeValidator(_blank)] = setting(
        None,
        "GOBLIN_MAX_PENDING_BODY_BYTES",
        "bytes of all request bodies that are held at once; beyond it the oldest half-sent requests get 503; "
        "empty: 16 times GOBLIN_MAX_BODY_BYTES",
        ge=1024,
    )
    cpu: Annotated[int | None, BeforeValidator(_blank)] = setting(
        None, "GOBLIN_CPU", "core to pin the process to; run one instance per core", ge=0
    )
    metrics_token: Secret = setting(
        None, "GOBLIN_METRICS_TOKEN", "bearer token that /metrics demands; empty: none"
    )
    metrics_port: Annotated[int | None, BeforeValidator(_blank)] = setting(
        None, "GOBLIN_METRICS_PORT", "serve /metrics on this port only", ge=1, le=65535
    )

    # -- chat
    default_model: str = setting(
        "", "GOBLIN_DEFAULT_MODEL", "model of a chat that names none; empty: echo"
    )
    echo_enabled: bool = setting(True, "GOBLIN_ECHO_ENABLED", "the embedded offline provider")
    timeout_total: Seconds = setting(
        300.0, "GOBLIN_TIMEOUT_TOTAL", "seconds for a whole chat, all attempts together"
    )
    timeout_connect: Seconds = setting(
        5.0, "GOBLIN_TIMEOUT_CONNECT", "seconds to connect to a provider"
    )
    timeout_first_token: Seconds = setting(
        60.0,
        "GOBLIN_TIMEOUT_FIRST_TOKEN",
        "seconds to a stream's first event; not for answers in one piece",
    )
    timeout_idle: Seconds = setting(
        60.0, "GOBLIN_TIMEOUT_IDLE", "seconds of silence within a stream"
    )
    retries: int = setting(2, "GOBLIN_RETRIES", "further attempts at one target", ge=0, le=10)
    retry_after_cap: Seconds = setting(
        10.0,
        "GOBLIN_RETRY_AFTER_CAP",
        "longest wait for a provider's Retry-After; above it, move on",
    )
    retry_budget_ratio: float = setting(
        0.2,
        "GOBLIN_RETRY_BUDGET_RATIO",
        "retries per request of the last minute, per provider",
        ge=0,
        le=1,
    )
    breaker_window: Seconds = setting(
        30.0, "GOBLIN_BREAKER_WINDOW", "seconds of calls that a circuit breaker looks at"
    )
    breaker_min_calls: int = setting(
        10, "GOBLIN_BREAKER_MIN_CALLS", "calls in the window before it may open", ge=1
    )
    breaker_failure_ratio: float = setting(
        0.5, "GOBLIN_BREAKER_FAILURE_RATIO", "share of failures that opens it", gt=0, le=1
    )
    breaker_open_seconds: Seconds = setting(
        15.0, "GOBLIN_BREAKER_OPEN_SECONDS", "seconds until an open breaker lets a trial through"
    )
    breaker_slow_first_token: Annotated[float | None, BeforeValidator(_blank)] = setting(
        None,
        "GOBLIN_BREAKER_SLOW_FIRST_TOKEN_SECONDS",
        "a stream without first token or comment for this long counts as failed for the breaker, while it still waits; "
        "empty: 3/4 of GOBLIN_TIMEOUT_FIRST_TOKEN, since long reasoning is silent; 0: never",
        ge=0,
        le=86400,
    )
    breaker_slow_answer: Annotated[float | None, BeforeValidator(_blank)] = setting(
        None,
        "GOBLIN_BREAKER_SLOW_ANSWER_SECONDS",
        "the same for an answer in one piece; empty: 3/4 of GOBLIN_TIMEOUT_TOTAL, since reasoning may take minutes; "
        "lower it where answers are short; 0: never",
        ge=0,
        le=86400,
    )
    idempotency_seconds: int = setting(
        600, "GOBLIN_IDEMPOTENCY_SECONDS", "how long an answer can be replayed", ge=1, le=86400
    )
    idempotency_max_bytes: int = setting(
        64 * 1024 * 1024,
        "GOBLIN_IDEMPOTENCY_MAX_BYTES",
        "memory for answers kept in this process",
        ge=0,
    )

    # -- usage
    budget_default_max_tokens: int = setting(
        4096,
        "GOBLIN_BUDGET_DEFAULT_MAX_TOKENS",
        "longest answer, in tokens, of a chat that sets no max_tokens, by a key with a budget or tokens per minute: "
        "reserved, and sent to the provider",
        ge=1,
        le=10_000_000,
    )
    usage_retention_days: int = setting(
        90,
        "GOBLIN_USAGE_RETENTION_DAYS",
        "usage records older than this are deleted; 0 keeps them",
        ge=0,
    )

    # -- health
    chroma_url: Url = setting(None, "CHROMA_URL", "Chroma server to watch")
    sandbox_url: Url = setting(
        None, "SANDBOX_URL", "sandbox service to watch; GET /health must answer 2xx"
    )
    health_interval: Seconds = setting(
        15.0, "GOBLIN_HEALTH_INTERVAL", "seconds between checks of the services"
    )
    health_timeout: Seconds = setting(
        3.0, "GOBLIN_HEALTH_TIMEOUT", "seconds that one check may take"
    )

    # -- providers
    openai_api_key: Secret = setting(None, "OPENAI_API_KEY", "switches the openai provider on")
    openai_base_url: Url = setting(
        None, "OPENAI_BASE_URL", "another address for the openai provider, ending in /v1"
    )
    anthropic_api_key: Secret = setting(
        None, "ANTHROPIC_API_KEY", "switches the anthropic provider on"
    )
    anthropic_base_url: Url = setting(
        None, "ANTHROPIC_BASE_URL", "another address for the anthropic provider, without /v1"
    )

    file: GoblinFile = Field(
        default_factory=GoblinFile, description="contents of goblin.toml", exclude=True
    )

    # Environment and .env as they were read: rows name variables of their own. Private, so that no printout shows it.
    _environ: dict[str, str] = PrivateAttr(default_factory=dict)

    # -- derived
    @property
    def environ(self) -> Mapping[str, str]:
        """Every variable of the environment and `.env`, for those that a provider's row names. Holds secrets: never print it."""
        return self._environ

    @property
    def production(self) -> bool:
        """Whether the strict rules hold."""
        return self.env == "production"

    @property
    def registration_open(self) -> bool:
        """Whether anybody may create an account."""
        return self.registration == "open" or (self.registration == "" and not self.production)

    @property
    def slots(self) -> int:
        """Chat slots: below the thread count, so that health, metrics and login always have a thread."""
        return (
            self.chat_slots
            if self.chat_slots is not None
            else self.threads - max(3, self.threads // 8)
        )

    @property
    def reserved_threads(self) -> int:
        """Threads that only answer what takes no time: health, metrics, refusals."""
        return 1 if self.threads < 16 else min(2, self.threads - self.slots)

    @property
    def held_threads(self) -> int:
        """Threads that chats and logins may hold together, running or waiting."""
        return self.threads - self.reserved_threads

    @property
    def most_chats_waiting(self) -> int:
        """Chats that may wait for a slot."""
        if self.chats_waiting is not None:
            return self.chats_waiting
        spare = self.threads - self.slots
        return min(spare // 2, spare - self.reserved_threads)

    @property
    def most_logins(self) -> int:
        """Requests with a password that may be inside at once."""
        return self.logins_at_once if self.logins_at_once is not None else max(1, self.threads // 4)

    @property
    def sqlalchemy_url(self) -> str:
        """DATABASE_URL with the driver that is installed, or SQLite in the instance folder."""
        url = self.database_url
        if not url:
            return f"sqlite:///{(self.instance_dir / 'goblin.db').resolve()}"
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)

    @property
    def pending_body_bytes(self) -> int:
        """The bound of all request bodies together."""
        if self.max_pending_body_bytes is not None:
            return self.max_pending_body_bytes
        return 16 * self.max_body_bytes

    @property
    def limits_uri(self) -> str:
        """Where limits are counted."""
        return self.ratelimit_storage_uri or self.redis_url or "memory://"

    @property
    def secret(self) -> str:
        """The signing key; load() has made sure of it."""
        assert self.secret_key is not None
        return self.secret_key.get_secret_value()

    def secret_values(self) -> list[str]:
        """Every secret in clear, for the log's redaction: settings, passwords in URLs, keys of provider rows."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        urls = [value for _, value in self if isinstance(value, str) and "://" in value]
        for row in self.file.providers.values():
            values += [row.api_key.get_secret_value()] if row.api_key else []
            values += [self._environ.get(row.api_key_env, "")] if row.api_key_env else []
            urls += [row.base_url] if row.base_url else []
            # A key may travel in a header or the query, as an API version does: told apart by length.
            values += [
                value for value in (*row.headers.values(), *row.query.values()) if len(value) >= 16
            ]
        for url in urls:
            if match := re.search(r"://[^/@\s:]*:([^/@\s]+)@", url):
                values += [match.group(1), unquote(match.group(1))]
        return [value for value in values if value]

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = []
        if self.chat_slots is not None and self.chat_slots >= self.threads:
            problems.append(
                f"GOBLIN_CHAT_SLOTS={self.chat_slots}: must be below GOBLIN_THREADS={self.threads}"
            )
        elif self.slots + self.most_chats_waiting > self.held_threads:
            problems.append(
                f"GOBLIN_CHATS_WAITING={self.chats_waiting}: at most {self.held_threads - self.slots}, "
                f"so that {self.reserved_threads} of GOBLIN_THREADS={self.threads} are left beside "
                f"{self.slots} chat slots"
            )
        elif self.most_logins > self.held_threads:
            problems.append(
                f"GOBLIN_LOGINS_AT_ONCE={self.logins_at_once}: at most {self.held_threads} "
                f"with GOBLIN_THREADS={self.threads}"
            )
        if self.pending_body_bytes < self.max_body_bytes:
            problems.append(
                f"GOBLIN_MAX_PENDING_BODY_BYTES={self.pending_body_bytes}: "
                f"must be at least GOBLIN_MAX_BODY_BYTES={self.max_body_bytes}"
            )
        if self.secret_key is not None and len(self.secret_key.get_secret_value().encode()) < 32:
            problems.append(
                "SECRET_KEY: 32 bytes or more; make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        if self.production:
            if self.secret_key is None:
                problems.append(
                    "SECRET_KEY: required unless GOBLIN_ENV=development; make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
                )
            if "*" in self.cors_origins:
                problems.append("CORS_ORIGINS: * is refused in production; list the origins")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
                problems.append(
                    f"CORS_ORIGINS: {origin!r} is no origin; accepted: scheme://host[:port], no path"
                )
        if self.database_url and not re.match(
            r"^(sqlite|postgres(ql)?(\+psycopg)?)://", self.database_url
        ):
            problems.append(
                "DATABASE_URL: accepted: sqlite:///path or postgresql://user:password@host/name"
            )
        for name, uri in (
            ("REDIS_URL", self.redis_url),
            ("RATELIMIT_STORAGE_URI", self.ratelimit_storage_uri),
        ):
            if uri and not re.match(
                r"^(rediss?|unix)://"
                if name == "REDIS_URL"
                else r"^(memory|rediss?|redis\+unix)://",
                uri,
            ):
                problems.append(
                    f"{name}: accepted: redis://host:port/db"
                    + ("" if name == "REDIS_URL" else " or memory://")
                )
        if problems:
            raise _Problems(problems)
        return self

    @classmethod
    def load(
        cls,
        overrides: dict[str, Any] | None = None,
        *,
        environ: dict[str, str] | None = None,
        dotenv: Path | None = None,
    ) -> Config:
        """Read every source and validate, or raise ConfigError with all problems.

        `overrides` maps attribute names or variable names to values (tests). `environ` replaces os.environ, `dotenv` the file `.env`.
        """
        path = dotenv if dotenv is not None else Path(".env")
        file_values = (
            {k: v for k, v in dotenv_values(path).items() if v is not None}
            if path.is_file()
            else {}
        )
        process = dict(os.environ if environ is None else environ)
        values: dict[str, Any] = {**file_values, **process}
        by_env = {cls.env_name(name): name for name in cls.model_fields if name != "file"}
        problems = [
            f"{name}: unknown setting" + _did_you_mean(name, by_env)
            for name in sorted(values)
            if name.startswith("GOBLIN_")
            and name not in by_env
            and not name.startswith(("GOBLIN_TEST_", "GOBLIN_LOADTEST"))
        ]
        chosen: dict[str, Any] = {
            by_env[k]: v
            for k, v in values.items()
            if k in by_env and not (v == "" and _empty_is_default(by_env[k]))
        }
        for key, value in (overrides or {}).items():
            name = by_env.get(key, key)
            if name not in cls.model_fields:
                problems.append(f"{key}: unknown setting" + _did_you_mean(key, by_env))
            else:
                chosen[name] = value
        if "file" not in chosen:
            toml = Path(chosen.get("config_file", "goblin.toml"))
            if toml.is_file():
                try:
                    chosen["file"] = GoblinFile.model_validate(tomllib.loads(toml.read_text()))
                except ValidationError as error:
                    problems += [
                        f"{toml} [{'.'.join(str(p) for p in e['loc'])}]: {e['msg']}"
                        for e in error.errors()
                    ]
                except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                    problems.append(f"{toml}: not TOML: {error}")
            elif "config_file" in chosen:
                problems.append(f"GOBLIN_CONFIG_FILE: {toml} does not exist")
        if chosen.get("env") == "development" and not chosen.get("secret_key"):
            chosen["secret_key"] = _development_secret(Path(chosen.get("instance_dir", "instance")))
        config = cls._build(chosen, problems)
        if config is None or problems:
            raise ConfigError(problems)
        config._environ = values
        return config

    @classmethod
    def _build(cls, chosen: dict[str, Any], problems: list[str]) -> Config | None:
        # A wrong field keeps pydantic from looking at how the fields go together: it is left out and the rest looked at once more.
        for _ in range(2):
            try:
                return cls(**chosen)
            except _Problems as error:
                problems += error.problems
                return None
            except ValidationError as error:
                problems += _describe(error, cls)
                wrong = {str(item["loc"][0]) for item in error.errors()}
                wrong |= {name for name in chosen if cls.env_name(name) in wrong}
                chosen = {name: value for name, value in chosen.items() if name not in wrong}
        return None

    @classmethod
    def env_name(cls, field: str) -> str:
        """The variable of an attribute."""
        return str(cls.model_fields[field].validation_alias or field.upper())

    def __repr__(self) -> str:
        return f"Config({self.redacted()})"  # URLs hold passwords too, and a repr ends up in tracebacks

    __str__ = __repr__

    def redacted(self) -> dict[str, Any]:
        """Every setting by its variable name, secrets and passwords in URLs replaced."""
        result: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name == "file":
                continue
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = REDACTED
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, str):
                value = re.sub(r"(://[^/@\s]*:)[^/@\s]*@", rf"\1{REDACTED}@", value)
            result[self.env_name(name)] = value
        return result


class _Problems(Exception):
    # Not a ValueError: pydantic would fold it into one message of its own.
    def __init__(self, problems: list[str]) -> None:
        self.problems = problems


def _empty_is_default(name: str) -> bool:
    return name not in {"cors_origins"}


def _did_you_mean(name: str, known: dict[str, str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _describe(error: ValidationError, cls: type[Config]) -> list[str]:
    lines = []
    for item in error.errors(include_input=True):
        field = str(item["loc"][0])
        env = cls.env_name(field) if field in cls.model_fields else field
        value = item.get("input")
        info = cls.model_fields.get(field)
        secret = info is not None and "SecretStr" in str(info.annotation)
        shown = "" if secret or isinstance(value, dict) or "://" in str(value) else f"={value}"
        lines.append(f"{env}{shown}: {item['msg'].removeprefix('Value error, ')}")
    return lines


def _development_secret(folder: Path) -> str:
    # Kept in a file so that tokens survive a restart; made with O_EXCL so that two processes agree on one.
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "development_secret_key"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        secret = secrets.token_urlsafe(48)
        file.write(secret + "\n")
    return secret
