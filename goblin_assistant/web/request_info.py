"""What is known about the current request, and how it is counted and logged at its end."""

from __future__ import annotations

import logging
import random
import re
from time import perf_counter
from typing import Any

from flask import request
from prometheus_client import Counter

from goblin_assistant.logs import json_logging
from goblin_assistant.metrics import (
    UNMATCHED,
    BoundMetrics,
    http_client_errors_total,
    http_errors_total,
    http_request_duration_seconds,
    http_requests_in_progress,
    http_requests_total,
)
from goblin_assistant.tracing.context import TraceContext, log_ids
from goblin_assistant.tracing.spans import RequestSpans, Span, Value

logger = logging.getLogger("goblin_assistant")

ENVIRON_KEY = "goblin.request"
PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Routes that probes and scrapes ask every few seconds: their lines are for DEBUG."""
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
OTHER_METHOD = "OTHER"
"""The label of unknown methods, which a client could make up without end."""

GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


def new_id() -> str:
    """A random UUID (version 4). Not from os.urandom: it releases the GIL, and an id is no
    secret."""
    digits = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class RequestInfo:
    """One request. `principal`, `error_type` and `incomplete` may be set until the last byte is
    sent.

    `started` is by time.perf_counter(). `error_type` (of a 5xx) and `error_code` (of a 4xx) become
    a metric's label. `headers` are added to the response, at a tenth of their cost in a Response
    object, which copies them.
    """

    __slots__ = (
        "_metrics", "bytes", "client", "content_length", "correlation_id", "endpoint", "error_code",
        "error_type", "headers", "incomplete", "label", "limit", "method", "path", "principal",
        "spans", "started", "status", "trace",
    )  # fmt: skip

    def __init__(
        self,
        correlation_id: str = "-",
        method: str = "",
        path: str = "",
        client: str = "",
        trace: TraceContext | None = None,
        spans: RequestSpans | None = None,
    ) -> None:
        self.correlation_id = correlation_id
        self.trace = trace
        self.spans = spans
        self.method = method
        self.path = path
        self.client = client
        self.label = method if method in METHODS else OTHER_METHOD
        self.endpoint = UNMATCHED
        self.principal: str | None = None
        self.error_type: str | None = None
        self.error_code: str | None = None
        self.incomplete = False
        self.headers: list[tuple[str, str]] = []
        # The limit that counts it, and what remains of that.
        self.limit: tuple[int, int] | None = None
        self.started = perf_counter()
        self.status = 0
        self.bytes = 0
        self.content_length = -1
        self._metrics: RouteMetrics | None = None

    def route_found(self, endpoint: str) -> None:
        """Set the route template, and count the request as in progress. Later calls do nothing."""
        if self._metrics is None:
            self.endpoint = endpoint
            self._metrics = route_metrics.of(self.label, endpoint)
            self._metrics.in_progress.inc()

    def ids(self) -> dict[str, str]:
        """The fields of a log line that tie it to the request, from any thread."""
        return log_ids(self.correlation_id, self.trace)

    def identify(self, headers: list[tuple[str, str]]) -> None:
        """Add the request's own headers to those of its response."""
        headers.extend(self.headers)
        headers.append(("X-Correlation-ID", self.correlation_id))
        headers.append(("x-request-id", self.correlation_id))  # the OpenAI SDK's request_id

    def log_start(self) -> None:
        """Log the request's arrival."""
        fields = {
            **self.ids(),
            "method": self.method,
            "path": self.path,
            "client": self.client,
        }
        json_logging.event(logger, logging.DEBUG, "request_started", fields)

    def finish(self, complete: bool) -> None:
        """Count and log the request. `complete`: the client has everything."""
        seconds = perf_counter() - self.started
        if self._metrics is None:  # it failed before the router ran
            self.route_found(UNMATCHED)
        metrics = self._metrics
        assert metrics is not None
        metrics.in_progress.dec()
        metrics.count(self.status)
        failed = self.status >= 500
        exemplar = None
        if self.spans is not None:
            self._end_span(self.spans, started=self.started, ended=self.started + seconds)
            exemplar = self.spans.exemplar()
        metrics.observe(seconds, exemplar)
        if failed or (self.error_type is not None and self.incomplete):
            http_errors_total.labels(
                self.label, self.endpoint, self.error_type or f"HTTP{self.status}"
            ).inc()
        elif self.status >= 400:
            http_client_errors_total.labels(self.error_code or f"http_{self.status}").inc()
        level = logging.WARNING if failed else logging.INFO
        if self.endpoint in PROBES and not failed:
            level = logging.DEBUG
            if not logger.isEnabledFor(level):
                return
        fields: dict[str, Any] = {
            **self.ids(),
            "method": self.method,
            "path": self.path,
            "status_code": self.status,
            "duration_ms": round(seconds * 1000, 2),
            "bytes": self.bytes,
            "client": self.client,
        }
        if self.principal is not None:
            fields["principal"] = self.principal
        if self.incomplete or not complete:
            fields["completed"] = False
        if self.error_type is not None:
            fields["error_type"] = self.error_type
        json_logging.event(logger, level, "request_completed", fields)

    def _end_span(self, spans: RequestSpans, *, started: float, ended: float) -> None:
        """The request's own span is over."""
        error = self.error_type or (f"HTTP{self.status}" if self.status >= 500 else "")
        if self.status < 500 and not self.incomplete:
            error = ""
        attributes: dict[str, Value] = {
            "http.request.method": self.label,
            "http.route": self.endpoint,
            "http.response.status_code": self.status,
            "goblin.correlation_id": self.correlation_id,
        }
        if self.principal is not None:
            attributes["goblin.principal"] = self.principal
        if error or self.error_code:
            attributes["error.type"] = error or str(self.error_code)

        def make(context: TraceContext) -> list[Span]:
            name = f"{self.label} {self.endpoint}"
            return [
                Span(
                    name, "server", context.span_id, context.parent_id, started, ended, attributes,
                    error=error,
                )
            ]  # fmt: skip

        spans.add_part(make, keep=bool(error))


class RouteMetrics:
    """The metrics of one method and route template."""

    __slots__ = ("_endpoint", "_method", "_statuses", "in_progress", "observe")

    def __init__(self, method: str, endpoint: str) -> None:
        self._method = method
        self._endpoint = endpoint
        self._statuses: dict[int, Counter] = {}
        self.in_progress = http_requests_in_progress.labels(method, endpoint)
        self.observe = http_request_duration_seconds.labels(method, endpoint).observe

    def count(self, status: int) -> None:
        """Count one answer with this status."""
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = http_requests_total.labels(
                self._method, self._endpoint, str(status)
            )
        counter.inc()


route_metrics = BoundMetrics(RouteMetrics)


def request_info() -> RequestInfo:
    """The current request's info. In a bare test_request_context, one that nobody reads."""
    info = request.environ.get(ENVIRON_KEY)
    return info if info is not None else RequestInfo()
