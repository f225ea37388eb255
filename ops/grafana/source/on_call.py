"""On call: one screen. What is broken, since when, whose fault."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, rate

BOARD = Board(
    "goblin-on-call",
    "on call",
    "What is broken, since when, and whose fault it is.",
    [
        (
            "What is broken",
            [
                Panel(
                    "Instances that answer",
                    "Prometheus could scrape them. Below the number of instances: look at the "
                    "runbook GoblinAssistantInstanceDown.",
                    "short",
                    [("sum(up{$filter})", "up")],
                    kind="number",
                    width=4,
                    height=6,
                ),
                Panel(
                    "Services that are down",
                    "Counted once, however many instances see it.",
                    "short",
                    [
                        (
                            "count(min by (service_name) (service_health_status{$filter}) == 0)"
                            " or vector(0)",
                            "down",
                        )
                    ],
                    kind="number",
                    width=4,
                    height=6,
                    red_from=1,
                ),
                Panel(
                    "Circuits that are open",
                    "Providers that are not called for now.",
                    "short",
                    [
                        (
                            "count(max by (provider) (provider_circuit_state{$filter}) == 2)"
                            " or vector(0)",
                            "open",
                        )
                    ],
                    kind="number",
                    width=4,
                    height=6,
                    red_from=1,
                ),
                Panel(
                    "Alerts",
                    "Seconds since each alert began. Pending ones have not paged anybody yet. "
                    "The runbook of each is named after it.",
                    "s",
                    [
                        (
                            "sort_desc(max by (alertname, severity, service_name, provider) "
                            '(time() - ALERTS_FOR_STATE{alertname!="Watchdog"}))',
                            "{{alertname}}",
                        )
                    ],
                    kind="table",
                    width=12,
                    height=6,
                ),
            ],
        ),
        (
            "Since when",
            [
                Panel(
                    "Ready",
                    "0: /health/ready answers 503; the answer has the reasons.",
                    "short",
                    [("app_ready{$filter}", "{{instance}}")],
                    kind="timeline",
                    width=6,
                ),
                Panel(
                    "Configuration",
                    "0: the last reload was refused, and the values of before are in force.",
                    "short",
                    [("config_last_reload_successful{$filter}", "{{instance}}")],
                    kind="timeline",
                    width=6,
                ),
                Panel(
                    "Services",
                    "0: down.",
                    "short",
                    [
                        (
                            "min by (service_name) (service_health_status{$filter})",
                            "{{service_name}}",
                        )
                    ],
                    kind="timeline",
                    width=6,
                ),
                Panel(
                    "Instances",
                    "0: not scraped.",
                    "short",
                    [("up{$filter}", "{{instance}}")],
                    kind="timeline",
                    width=6,
                ),
            ],
        ),
        (
            "Whose fault",
            [
                Panel(
                    "The provider's",
                    "Attempts a second that failed, by provider and kind.",
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
                    "Ours",
                    "Requests a second that failed with no provider involved.",
                    "reqps",
                    [
                        (
                            rate(
                                "http_errors_total",
                                ',error_type=~"InternalError|OverloadedHere|Unavailable"',
                                "error_type",
                            ),
                            "{{error_type}}",
                        )
                    ],
                    width=6,
                ),
                Panel(
                    "The client's",
                    "Requests a second that were refused, by status.",
                    "reqps",
                    [
                        (
                            rate("http_requests_total", ',status_code=~"4.."', "status_code"),
                            "{{status_code}}",
                        )
                    ],
                    width=6,
                ),
                Panel(
                    "Nobody's: too much at once",
                    "Share of chat slots in use. At 1 further chats wait, then get 503.",
                    "percentunit",
                    [
                        (
                            "sum(chat_slots_in_use{$filter}) / sum(chat_slots_max{$filter})",
                            "slots",
                        )
                    ],
                    width=6,
                    red_from=0.9,
                ),
            ],
        ),
    ],
    since="now-1h",
)
