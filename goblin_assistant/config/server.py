"""How requests are served: address, threads, bodies, proxy, metrics."""

from __future__ import annotations

from goblin_assistant.config.fields import (
    OptionalInt,
    OptionalText,
    Secret,
    Settings,
    setting,
)
from goblin_assistant.config.goblin_file import Url


class ServerSettings(Settings):
    """The HTTP server and its threads."""

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
    chats_waiting: OptionalInt = setting(
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
        "how long to go on accepting after SIGTERM, with readiness at 503, "
        "so that a load balancer can turn away first",
        ge=0,
        le=600,
    )
    stream_keepalive_seconds: float = setting(
        45.0,
        "GOBLIN_STREAM_KEEPALIVE_SECONDS",
        "a stream without a first event for this long begins with status 200 and a comment, so "
        "that no proxy or client gives it up; later one follows after 15 silent seconds; 0: never",
        ge=0,
        le=3600,
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
        "bytes of all answers that their clients have not taken yet; "
        "beyond it the connections of those who have taken nothing for longest are closed",
        ge=1024 * 1024,
    )
    trusted_proxy: OptionalText = setting(
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
    max_pending_body_bytes: OptionalInt = setting(
        None,
        "GOBLIN_MAX_PENDING_BODY_BYTES",
        "bytes of all request bodies that are held at once; "
        "beyond it the oldest half-sent requests get 503; "
        "empty: 16 times GOBLIN_MAX_BODY_BYTES",
        ge=1024,
    )
    cpu: OptionalInt = setting(
        None, "GOBLIN_CPU", "core to pin the process to; run one instance per core", ge=0
    )
    metrics_token: Secret = setting(
        None, "GOBLIN_METRICS_TOKEN", "bearer token that /metrics demands; empty: none"
    )
    metrics_port: OptionalInt = setting(
        None, "GOBLIN_METRICS_PORT", "serve /metrics on this port only", ge=1, le=65535
    )

    # -- monitoring; only commands read these
    prometheus_url: Url = setting(
        None, "PROMETHEUS_URL", "Prometheus that scrapes the instances; doctor and report ask it"
    )
    alertmanager_url: Url = setting(
        None, "ALERTMANAGER_URL", "Alertmanager behind that Prometheus; doctor asks it"
    )
    grafana_url: Url = setting(None, "GRAFANA_URL", "Grafana with the dashboards; doctor asks it")
    grafana_token: Secret = setting(
        None, "GRAFANA_TOKEN", "token of a Grafana service account that may view the dashboards"
    )
