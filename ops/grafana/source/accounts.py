"""Accounts and limits: who is refused, and why."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, quantile, rate, total

BOARD = Board(
    "goblin-accounts",
    "accounts and limits",
    "Refusals by limit, credential and budget; logins.",
    [
        (
            "Refusals",
            [
                Panel(
                    "Refusals by limit",
                    "Answers of 429 a second, by group of routes and by what was counted.",
                    "reqps",
                    [
                        (
                            rate("rate_limit_rejections_total", by="group, scope"),
                            "{{group}} by {{scope}}",
                        )
                    ],
                ),
                Panel(
                    "Share of requests refused by a limit",
                    "429s among all requests. A steady share means that a limit is too low or a "
                    "caller too fast.",
                    "percentunit",
                    [
                        (
                            f"{rate('rate_limit_rejections_total')} / "
                            f"{rate('http_requests_total')}",
                            "refused",
                        )
                    ],
                ),
                Panel(
                    "4xx by code",
                    "Requests a second that the client has to mend, by the error's code.",
                    "reqps",
                    [(rate("http_client_errors_total", by="error_code"), "{{error_code}}")],
                ),
            ],
        ),
        (
            "Credentials and budgets",
            [
                Panel(
                    "Credentials refused",
                    "A second, by reason. A rise may be a guesser, or a key that has expired.",
                    "reqps",
                    [(rate("auth_failures_total", by="reason"), "{{reason}}")],
                ),
                Panel(
                    "Refused by budget",
                    "Chats a second that were answered 402.",
                    "reqps",
                    [(rate("budget_rejections_total"), "402")],
                ),
                Panel(
                    "Logins at work",
                    "Requests whose password is being hashed, or waits for that.",
                    "short",
                    [(total("password_requests_waiting"), "logins")],
                ),
            ],
        ),
        (
            "The limiter itself",
            [
                Panel(
                    "Time of Redis, p95",
                    "Time of one count of a limit in Redis, failures included. Without Redis there "
                    "is no data.",
                    "s",
                    [(quantile(0.95, "rate_limiter_storage_seconds"), "p95")],
                ),
                Panel(
                    "Limits are counted locally",
                    "1: Redis is lost, and this instance counts on its own.",
                    "short",
                    [("rate_limiter_degraded{$filter}", "{{instance}}")],
                    kind="timeline",
                    red_from=1,
                ),
            ],
        ),
    ],
)
