"""Overview: the production guide's five panels first."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, quantile, rate, total

GUIDE = (
    Panel(
        "Request rate by endpoint",
        "Requests a second that were answered, health checks included.",
        "reqps",
        [(rate("http_requests_total", by="endpoint"), "{{endpoint}}")],
    ),
    Panel(
        "Error rate by endpoint",
        "Requests a second that failed on this side: 5xx, and streams that broke.",
        "reqps",
        [(rate("http_errors_total", by="endpoint"), "{{endpoint}}")],
    ),
    Panel(
        "P95 latency by endpoint",
        "95 of 100 requests took at most this long, until their last byte. A long healthy stream "
        "counts too: for chats see first token and whole answers on the SLO dashboard.",
        "s",
        [(quantile(0.95, "http_request_duration_seconds", by="endpoint"), "{{endpoint}}")],
    ),
    Panel(
        "Active requests gauge",
        "Requests that are being answered now, streams included.",
        "short",
        [(total("http_requests_in_progress", "endpoint"), "{{endpoint}}")],
    ),
    Panel(
        "Chat completion metrics",
        "Chats a second that succeeded, by provider, and attempts at providers that failed.",
        "reqps",
        [
            (rate("chat_completions_total", by="provider"), "{{provider}} succeeded"),
            (rate("chat_completion_errors_total", by="provider"), "{{provider}} failed"),
        ],
    ),
    Panel(
        "Ready",
        "1: the instance can serve chats, and load balancers send it some.",
        "short",
        [("app_ready{$filter}", "{{instance}}")],
        kind="timeline",
        width=4,
    ),
    Panel(
        "Services",
        "1: the last check passed. 0: it failed. The least of all instances.",
        "short",
        [("min by (service_name) (service_health_status{$filter})", "{{service_name}}")],
        kind="timeline",
        width=4,
    ),
)
CAPACITY = (
    Panel(
        "Chat slots",
        "Chats that run and wait, and how many may run at once on all instances together.",
        "short",
        [
            (total("chat_slots_in_use"), "in use"),
            (total("chat_slots_waiting"), "waiting"),
            (total("chat_slots_max"), "most"),
        ],
    ),
    Panel(
        "Server threads",
        "Threads at work, and how many there are.",
        "short",
        [(total("server_threads_busy"), "busy"), (total("server_threads_max"), "most")],
    ),
    Panel(
        "Connections",
        "Client connections that are open, by instance.",
        "short",
        [("server_connections{$filter}", "{{instance}}")],
    ),
    Panel(
        "Waits, p95",
        "Time that requests waited for a server thread, and chats for a chat slot.",
        "s",
        [(quantile(0.95, "queue_wait_seconds", by="queue"), "{{queue}}")],
    ),
    Panel(
        "Database connections",
        "Connections that are taken, how many the pools may open, and threads that wait for one.",
        "short",
        [
            (total("database_pool_connections_in_use"), "in use"),
            (total("database_pool_waiting"), "waiting"),
            (total("database_pool_connections_max"), "most"),
        ],
    ),
    Panel(
        "Memory",
        "Resident memory of each process.",
        "bytes",
        [("process_resident_memory_bytes{$filter}", "{{instance}}")],
    ),
    Panel(
        "CPU",
        "Cores in use by each process. Python uses one at a time: near 1 the instance is full.",
        "short",
        [("rate(process_cpu_seconds_total{$filter}[$__rate_interval])", "{{instance}}")],
        red_from=0.9,
    ),
    Panel(
        "Bytes held for clients",
        "Bodies that have arrived and answers that clients have not read yet.",
        "bytes",
        [
            (total("server_request_body_bytes"), "request bodies"),
            (total("server_unsent_bytes"), "unread answers"),
        ],
    ),
)
BOARD = Board(
    "goblin-overview",
    "overview",
    "The production guide's five panels, services and capacity.",
    [("Traffic", GUIDE), ("Capacity", CAPACITY)],
)
