"""Every instrument of the product: name, help, labels, buckets.

The first nine have the production guide's names and labels. All are in one registry: Prometheus
expects one per process, so that several applications in one process (tests) share it.

    from goblin_assistant.metrics import chat_completions_total
    chat_completions_total.labels(provider="openai", model="gpt-4").inc()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # `_created` series double a scrape's size

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# 0.1, 0.5 and 2 s are the guide's targets: a quantile is exact only at a bucket's edge. 300 s is
# the longest chat.
DURATION_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)
QUEUE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
STORAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.3, 1.0)

OTHER_MODEL = "other"
"""The label of a model in no catalogue: clients can make up names, and series must stay bounded."""

UNMATCHED = "<unmatched>"
"""Value of `endpoint` for a path that no route matches."""

B = TypeVar("B")


class BoundMetrics(Generic[B]):
    """Keeps what `bind` makes of two label values: `labels()` costs more than the counting.

    The caller bounds the label values, because nothing is ever dropped.
    """

    def __init__(self, bind: Callable[[str, str], B]) -> None:
        self._bind = bind
        self._bound: dict[tuple[str, str], B] = {}

    def of(self, first: str, second: str) -> B:
        """The bound metrics of these two label values."""
        key = (first, second)
        bound = self._bound.get(key)
        if bound is None:
            # Two threads may both bind; the registry gives both the same series.
            bound = self._bound[key] = self._bind(first, second)
        return bound


class OptionalGauge:
    """A gauge whose value is asked for at a scrape, and which has no sample while it has none."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self.name = name
        self.documentation = documentation
        self._value: Callable[[], float | None] = lambda: None
        registry.register(self)

    def set_function(self, value: Callable[[], float | None]) -> None:
        """Ask `value` at each scrape; None: there is no value now. It must not raise."""
        self._value = value

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """For the registry."""
        yield GaugeMetricFamily(self.name, self.documentation, value=self._value())


# -- HTTP -----------------------------------------------------------------------------------------
http_requests_total = Counter(
    "http_requests_total",
    "HTTP requests answered.",
    ["method", "endpoint", "status_code"],
    registry=REGISTRY,
)
http_request_duration_seconds = Histogram(
    "http_request_duration_seconds",
    "Time from the request's arrival to its last byte, streams included.",
    ["method", "endpoint"],
    buckets=DURATION_BUCKETS,
    registry=REGISTRY,
)
http_requests_in_progress = Gauge(
    "http_requests_in_progress",
    "HTTP requests being answered now.",
    ["method", "endpoint"],
    registry=REGISTRY,
)
http_errors_total = Counter(
    "http_errors_total",
    "HTTP requests that failed on this side: answered with a 5xx, "
    "or cut by a failure after the first byte.",
    ["method", "endpoint", "error_type"],
    registry=REGISTRY,
)
# -- chat -----------------------------------------------------------------------------------------
chat_completions_total = Counter(
    "chat_completions_total",
    "Chat completions that succeeded.",
    ["provider", "model"],
    registry=REGISTRY,
)
chat_completion_tokens_total = Counter(
    "chat_completion_tokens_total",
    "Tokens of chat completions; token_type is prompt or completion.",
    ["provider", "model", "token_type"],
    registry=REGISTRY,
)
chat_completion_errors_total = Counter(
    "chat_completion_errors_total",
    "Attempts at a chat completion that failed at the provider.",
    ["provider", "error_type"],
    registry=REGISTRY,
)
provider_latency_seconds = Histogram(
    "provider_latency_seconds",
    "Time that a provider took, to the end of its answer.",
    ["provider", "operation"],
    buckets=DURATION_BUCKETS,
    registry=REGISTRY,
)
chat_answer_duration_seconds = Histogram(
    "chat_answer_duration_seconds",
    "Time from a request's arrival to its whole answer; streamed and failed chats are left out.",
    ["provider"],
    buckets=DURATION_BUCKETS,
    registry=REGISTRY,
)
chat_time_to_first_token_seconds = Histogram(
    "chat_time_to_first_token_seconds",
    "Time from a request's arrival to the first byte of its streamed answer.",
    ["provider", "model"],
    buckets=DURATION_BUCKETS,
    registry=REGISTRY,
)
chat_gateway_overhead_seconds = Histogram(
    "chat_gateway_overhead_seconds",
    "Time of a chat spent in this product: everything but the provider and the wait for a slot.",
    buckets=OVERHEAD_BUCKETS,
    registry=REGISTRY,
)
chat_cost_usd_total = Counter(
    "chat_cost_usd_total",
    "Cost of chat completions in US dollars.",
    ["provider", "model"],
    registry=REGISTRY,
)
chat_price_unknown_total = Counter(
    "chat_price_unknown_total",
    "Chat completions whose price is not known.",
    ["provider", "model"],
    registry=REGISTRY,
)
provider_usage_unusable_total = Counter(
    "provider_usage_unusable_total",
    "Token counts of a provider that could not be true and were replaced by an estimate.",
    ["provider", "model"],
    registry=REGISTRY,
)
chat_slots_in_use = Gauge("chat_slots_in_use", "Chat slots taken now.", registry=REGISTRY)
chat_slots_max = Gauge("chat_slots_max", "Chat slots there are.", registry=REGISTRY)
chat_slots_waiting = Gauge(
    "chat_slots_waiting", "Chats that wait for a slot now.", registry=REGISTRY
)
stream_incomplete_total = Counter(
    "stream_incomplete_total",
    "Streams that did not reach their end; reason is client, provider, timeout or shutdown.",
    ["reason"],
    registry=REGISTRY,
)
client_disconnects_total = Counter(
    "client_disconnects_total",
    "Clients that left before their answer; phase is waiting, before_first_token or streaming.",
    ["phase"],
    registry=REGISTRY,
)
usage_records_unsaved_total = Counter(
    "usage_records_unsaved_total",
    "Usage records that could not be written to the database and were logged whole instead.",
    registry=REGISTRY,
)
idempotency_store_failures_total = Counter(
    "idempotency_store_failures_total",
    "Operations of the store of Idempotency-Key that failed: the request goes on without it.",
    registry=REGISTRY,
)
idempotent_replays_total = Counter(
    "idempotent_replays_total",
    "Answers replayed for a repeated Idempotency-Key.",
    registry=REGISTRY,
)

# -- routing --------------------------------------------------------------------------------------
provider_retries_total = Counter(
    "provider_retries_total",
    "Attempts repeated at the same provider.",
    ["provider", "reason"],
    registry=REGISTRY,
)
chat_fallbacks_total = Counter(
    "chat_fallbacks_total",
    "Chats that moved to the next provider of their chain.",
    ["from_provider", "to_provider"],
    registry=REGISTRY,
)
provider_circuit_state = Gauge(
    "provider_circuit_state",
    "Circuit breaker: 0 closed, 1 half open, 2 open.",
    ["provider"],
    registry=REGISTRY,
)

provider_calls_in_flight = Gauge(
    "provider_calls_in_flight",
    "Calls that a provider is at work on now, streams included.",
    ["provider"],
    registry=REGISTRY,
)
provider_oldest_call_age_seconds = Gauge(
    "provider_oldest_call_age_seconds",
    "Age of the oldest call that a provider has given no first token or whole answer yet; "
    "0 when there is none.",
    ["provider"],
    registry=REGISTRY,
)
provider_calls_max = Gauge(
    "provider_calls_max",
    "Calls at once that a provider's max_concurrency allows; absent without one.",
    ["provider"],
    registry=REGISTRY,
)
provider_slow_calls_total = Counter(
    "provider_slow_calls_total",
    "Provider calls without a sign of life for GOBLIN_BREAKER_SLOW_FIRST_TOKEN_SECONDS "
    "or _SLOW_ANSWER_SECONDS.",
    ["provider"],
    registry=REGISTRY,
)

# -- limits and accounts --------------------------------------------------------------------------
http_client_errors_total = Counter(
    "http_client_errors_total",
    "HTTP requests answered with a 4xx, by the error's code.",
    ["error_code"],
    registry=REGISTRY,
)
rate_limit_rejections_total = Counter(
    "rate_limit_rejections_total",
    "Requests refused with 429; scope is ip, user, key or account.",
    ["group", "scope"],
    registry=REGISTRY,
)
rate_limiter_degraded = Gauge(
    "rate_limiter_degraded",
    "1 while the shared limit storage is lost and limits are counted in this process.",
    registry=REGISTRY,
)
rate_limiter_storage_seconds = Histogram(
    "rate_limiter_storage_seconds",
    "Time of one operation of the shared limit storage (Redis), failures included; "
    "counting in memory is left out.",
    buckets=STORAGE_BUCKETS,
    registry=REGISTRY,
)
auth_failures_total = Counter(
    "auth_failures_total", "Credentials refused.", ["reason"], registry=REGISTRY
)
password_requests_waiting = Gauge(
    "password_requests_waiting",
    "Requests whose password is being hashed or waits for that now.",
    registry=REGISTRY,
)
budget_rejections_total = Counter(
    "budget_rejections_total",
    "Chats refused with 402: the key's budget is spent.",
    registry=REGISTRY,
)

# -- the instance ---------------------------------------------------------------------------------
app_ready = Gauge(
    "app_ready",
    "1 while /health/ready answers 200: the instance can serve chats.",
    registry=REGISTRY,
)
app_draining = Gauge("app_draining", "1 while the instance shuts down.", registry=REGISTRY)
database_schema_current = OptionalGauge(
    "database_schema_current",
    "1 when this version may serve with the database's tables, 0 when they are not migrated or not "
    "compatible; absent until the database has answered.",
    registry=REGISTRY,
)
usage_unsaved_records = Gauge(
    "usage_unsaved_records",
    "Usage records that the database did not take and that wait to be written again.",
    registry=REGISTRY,
)
usage_orphaned_journals = Gauge(
    "usage_orphaned_journals",
    "Journals of killed processes in the instance folder that could not be imported yet.",
    registry=REGISTRY,
)
usage_backlog_records = Gauge(
    "usage_backlog_records",
    "Usage records of finished chats that wait for the next write.",
    registry=REGISTRY,
)
database_pool_connections_in_use = Gauge(
    "database_pool_connections_in_use",
    "Database connections taken from the pool, those that are kept for chats included.",
    registry=REGISTRY,
)
database_pool_connections_max = Gauge(
    "database_pool_connections_max",
    "Database connections that the pool may open.",
    registry=REGISTRY,
)
database_pool_waiting = Gauge(
    "database_pool_waiting",
    "Threads that are being given a database connection now.",
    registry=REGISTRY,
)
backup_last_success_timestamp_seconds = OptionalGauge(
    "backup_last_success_timestamp_seconds",
    "When the last backup was complete, in seconds since 1970; absent where the instance folder "
    "has no file backup_last_success.",
    registry=REGISTRY,
)
instance_disk_free_bytes = OptionalGauge(
    "instance_disk_free_bytes",
    "Bytes that this process may still write to the disk of the instance folder.",
    registry=REGISTRY,
)
instance_disk_size_bytes = OptionalGauge(
    "instance_disk_size_bytes", "Size of the disk of the instance folder.", registry=REGISTRY
)

# -- the process ----------------------------------------------------------------------------------
service_health_status = Gauge(
    "service_health_status",
    "1 when the last check of a service passed, else 0.",
    ["service_name"],
    registry=REGISTRY,
)
service_health_last_check_timestamp_seconds = Gauge(
    "service_health_last_check_timestamp_seconds",
    "When a service was last checked, in seconds since 1970.",
    ["service_name"],
    registry=REGISTRY,
)
service_health_check_duration_seconds = Gauge(
    "service_health_check_duration_seconds",
    "How long the last check of a service took.",
    ["service_name"],
    registry=REGISTRY,
)
queue_wait_seconds = Histogram(
    "queue_wait_seconds",
    "Time that a request waited for a server thread, or a chat for a chat slot; "
    "queue is server_thread or chat_slot.",
    ["queue"],
    buckets=QUEUE_BUCKETS,
    registry=REGISTRY,
)
server_threads_busy = Gauge("server_threads_busy", "Server threads at work now.", registry=REGISTRY)
server_threads_max = Gauge("server_threads_max", "Server threads there are.", registry=REGISTRY)
deadlines_thread_up = Gauge(
    "deadlines_thread_up",
    "1 while the thread that enforces the time limits of provider calls runs, or no call needs it.",
    registry=REGISTRY,
)
server_connections = Gauge(
    "server_connections", "Client connections that are open now.", registry=REGISTRY
)
server_connections_shed_total = Counter(
    "server_connections_shed_total",
    "Idle and half-sent connections closed to make room for new ones.",
    registry=REGISTRY,
)
server_request_body_bytes = Gauge(
    "server_request_body_bytes",
    "Bytes of request bodies held by the server, from their arrival until their answer; "
    "bodies below 16 KiB are left out.",
    registry=REGISTRY,
)
server_unsent_bytes = Gauge(
    "server_unsent_bytes",
    "Bytes of answers that their clients have not taken yet, beside the kernel's buffers.",
    registry=REGISTRY,
)
server_readers_cut_total = Counter(
    "server_readers_cut_total",
    "Connections closed because the client did not take its answer; "
    "reason is time, slots or memory.",
    ["reason"],
    registry=REGISTRY,
)
for _reason in ("time", "slots", "memory"):
    server_readers_cut_total.labels(_reason)
log_records_dropped_total = Counter(
    "log_records_dropped_total",
    "Log lines dropped because nobody read standard output, or the log file took none.",
    registry=REGISTRY,
)
app_build_info = Gauge(
    "app_build_info", "1, labelled with the version that runs.", ["version"], registry=REGISTRY
)
config_reloads_total = Counter(
    "config_reloads_total",
    "Reloads of the configuration on SIGHUP; result is ok or failed.",
    ["result"],
    registry=REGISTRY,
)
for _result in ("ok", "failed"):
    config_reloads_total.labels(_result)
config_last_reload_successful = Gauge(
    "config_last_reload_successful",
    "0 when the last reload failed and the values of before are in force, else 1.",
    registry=REGISTRY,
)
config_last_reload_successful.set(1)
trace_spans_total = Counter(
    "trace_spans_total",
    "Spans of kept traces: sent to the collector, refused by it (or it did not answer), or dropped "
    "because the queue was full.",
    ["result"],
    registry=REGISTRY,
)
for _result in ("sent", "refused", "dropped"):
    trace_spans_total.labels(_result)
