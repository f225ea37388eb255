"""Providers: how fast, how often they fail, what is done about it."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, quantile, rate, total

BOARD = Board(
    "goblin-providers",
    "providers",
    "Latency, failures, retries, fallbacks and circuit breakers of each provider.",
    [
        (
            "Latency",
            [
                Panel(
                    "Time of a provider, p95",
                    "From our request to the end of the provider's answer.",
                    "s",
                    [(quantile(0.95, "provider_latency_seconds", by="provider"), "{{provider}}")],
                ),
                Panel(
                    "First token, p95",
                    "From a streamed request's arrival to the first byte of its answer.",
                    "s",
                    [
                        (
                            quantile(0.95, "chat_time_to_first_token_seconds", by="provider"),
                            "{{provider}}",
                        )
                    ],
                ),
                Panel(
                    "Oldest call without an answer",
                    "A provider that hangs shows here before its calls time out.",
                    "s",
                    [
                        (
                            "max by (provider) (provider_oldest_call_age_seconds{$filter})",
                            "{{provider}}",
                        )
                    ],
                ),
            ],
        ),
        (
            "Failures",
            [
                Panel(
                    "Failed attempts by kind",
                    "Attempts a second that failed at a provider.",
                    "reqps",
                    [
                        (
                            rate("chat_completion_errors_total", by="provider, error_type"),
                            "{{provider}} {{error_type}}",
                        )
                    ],
                    width=6,
                ),
                Panel(
                    "Duration of health checks",
                    "The last check of each service, on the slowest instance.",
                    "s",
                    [
                        (
                            "max by (service_name) "
                            "(service_health_check_duration_seconds{$filter})",
                            "{{service_name}}",
                        )
                    ],
                    width=6,
                ),
                Panel(
                    "Circuit breakers",
                    "0 closed, 1 half open, 2 open: an open one is not called. The worst instance.",
                    "short",
                    [("max by (provider) (provider_circuit_state{$filter})", "{{provider}}")],
                    kind="timeline",
                    red_from=2,
                    width=6,
                ),
                Panel(
                    "Slow calls",
                    "Calls a second that gave no sign of life for so long that they count as "
                    "failed for the breaker.",
                    "reqps",
                    [(rate("provider_slow_calls_total", by="provider"), "{{provider}}")],
                    width=6,
                ),
            ],
        ),
        (
            "What is done about it",
            [
                Panel(
                    "Retries",
                    "Attempts a second that were repeated at the same provider.",
                    "reqps",
                    [
                        (
                            rate("provider_retries_total", by="provider, reason"),
                            "{{provider}} {{reason}}",
                        )
                    ],
                ),
                Panel(
                    "Fallbacks",
                    "Chats a second that moved on in their chain.",
                    "reqps",
                    [
                        (
                            rate("chat_fallbacks_total", by="from_provider, to_provider"),
                            "{{from_provider}} to {{to_provider}}",
                        )
                    ],
                ),
                Panel(
                    "Calls in flight",
                    "Calls that each provider is at work on now.",
                    "short",
                    [(total("provider_calls_in_flight", "provider"), "{{provider}}")],
                ),
            ],
        ),
    ],
)
