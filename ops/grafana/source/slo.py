"""SLO: the production guide's three targets, measured."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, quantile, rate

HEALTH = ',endpoint=~"/health.*"'
LOGIN = ',endpoint="/auth/login"'
CHAT = ',endpoint=~"/chat/completions|/v1/chat/completions|/v1/responses|/v1/messages"'
NOT_PROBES = ',endpoint!~"/health.*|/metrics"'


def _within(metric: str, seconds: str, labels: str = "") -> str:
    edge = f',le="{seconds}"'
    return f"{rate(metric + '_bucket', labels + edge)} / {rate(metric + '_count', labels)}"


def _share(title: str, metric: str, seconds: str, labels: str = "") -> Panel:
    return Panel(
        title,
        f"Share of answers within {seconds} s. The target is 95 of 100.",
        "percentunit",
        [(_within(metric, seconds, labels), "within the target")],
    )


BOARD = Board(
    "goblin-slo",
    "SLO",
    "The guide's targets at p95: health checks below 100 ms, chats below 2 s, logins below 500 ms.",
    [
        (
            "p95 against its target",
            [
                Panel(
                    "Health checks",
                    "The target is below 100 ms.",
                    "s",
                    [(quantile(0.95, "http_request_duration_seconds", HEALTH), "p95")],
                    kind="number",
                    height=4,
                    red_from=0.1,
                ),
                Panel(
                    "Chats, whole answers",
                    "The target is below 2 s. Streams are left out: see first token.",
                    "s",
                    [(quantile(0.95, "chat_answer_duration_seconds"), "p95")],
                    kind="number",
                    height=4,
                    red_from=2,
                ),
                Panel(
                    "Logins",
                    "The target is below 500 ms.",
                    "s",
                    [(quantile(0.95, "http_request_duration_seconds", LOGIN), "p95")],
                    kind="number",
                    height=4,
                    red_from=0.5,
                ),
            ],
        ),
        (
            "Share within the target",
            [
                _share("Health checks in time", "http_request_duration_seconds", "0.1", HEALTH),
                _share("Whole answers in time", "chat_answer_duration_seconds", "2.0"),
                _share("Logins in time", "http_request_duration_seconds", "0.5", LOGIN),
                _share("First tokens in time", "chat_time_to_first_token_seconds", "2.0"),
                Panel(
                    "Share of failures",
                    "Requests that failed on this side among all but probes and scrapes.",
                    "percentunit",
                    [
                        (
                            f"{rate('http_errors_total', NOT_PROBES)} / "
                            f"{rate('http_requests_total', NOT_PROBES)}",
                            "failed",
                        )
                    ],
                ),
                Panel(
                    "Time of this product in a chat, p95",
                    "Everything but the provider and the wait for a slot.",
                    "s",
                    [(quantile(0.95, "chat_gateway_overhead_seconds"), "p95")],
                    red_from=0.1,
                ),
            ],
        ),
        (
            "Rates against the targets",
            [
                Panel(
                    "Rate",
                    "Requests a second. The guide's load test sends 100, 10 and 20.",
                    "reqps",
                    [
                        (rate("http_requests_total", HEALTH), "health checks"),
                        (rate("http_requests_total", CHAT), "chats"),
                        (rate("http_requests_total", LOGIN), "logins"),
                    ],
                    width=24,
                ),
            ],
        ),
    ],
)
