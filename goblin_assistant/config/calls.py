"""How providers are called, and what is kept of it: chats, usage, health, providers."""

from __future__ import annotations

from typing import Literal

from goblin_assistant.config.fields import (
    OptionalBool,
    OptionalFloat,
    Seconds,
    Secret,
    Settings,
    setting,
)
from goblin_assistant.config.goblin_file import Url


class CallSettings(Settings):
    """Chats, usage, health checks, built-in providers."""

    # -- chat
    default_model: str = setting(
        "",
        "GOBLIN_DEFAULT_MODEL",
        "model of a chat that names none; empty: echo in development, in production the chat is "
        "refused",
    )
    echo_enabled: bool = setting(
        True,
        "GOBLIN_ECHO_ENABLED",
        "the embedded offline provider; in production only for API keys whose model list names it",
    )
    count_tokens: Literal["", "estimate"] = setting(
        "",
        "GOBLIN_COUNT_TOKENS",
        "estimate: /v1/messages/count_tokens estimates for models whose provider does not count; "
        "empty: it answers 404 for them",
    )
    fault_models: OptionalBool = setting(
        None,
        "GOBLIN_FAULT_MODELS",
        "models `fault/...` to rehearse providers' faults with; empty: in development only",
    )
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
    timeout_comments: OptionalFloat = setting(
        None,
        "GOBLIN_TIMEOUT_COMMENTS",
        "seconds to a stream's first event while the provider sends comments (keep-alives), each "
        "of which begins GOBLIN_TIMEOUT_FIRST_TOKEN again; empty: four fifths of "
        "GOBLIN_TIMEOUT_TOTAL",
        gt=0,
    )
    timeout_answer: OptionalFloat = setting(
        None,
        "GOBLIN_TIMEOUT_ANSWER",
        "seconds for an answer in one piece, after which the next target of a chain is tried; "
        "empty: four fifths of GOBLIN_TIMEOUT_TOTAL",
        gt=0,
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
        "share of a provider's calls that may be retries: each call earns this part of one; "
        "a quiet provider may retry every 5 seconds, and at most 20 retries are saved up",
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
    breaker_slow_first_token: OptionalFloat = setting(
        None,
        "GOBLIN_BREAKER_SLOW_FIRST_TOKEN_SECONDS",
        "a stream without first token or comment for this long counts as failed for the breaker, "
        "while it still waits; "
        "empty: 3/4 of GOBLIN_TIMEOUT_FIRST_TOKEN, since long reasoning is silent; 0: never",
        ge=0,
        le=86400,
    )
    breaker_slow_answer: OptionalFloat = setting(
        None,
        "GOBLIN_BREAKER_SLOW_ANSWER_SECONDS",
        "the same for an answer in one piece; empty: 3/4 of GOBLIN_TIMEOUT_ANSWER, "
        "since reasoning may take minutes; "
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
        "longest answer, in tokens, of a chat that sets no max_tokens, by a caller with a budget "
        "or tokens per minute: reserved, and sent to the provider",
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
    provider_proxy_from_env: bool = setting(
        False,
        "GOBLIN_PROVIDER_PROXY_FROM_ENV",
        "providers are called through HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, but for the hosts of "
        "NO_PROXY and this machine; a row's own `proxy` counts first",
    )
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
