"""goblin-assistant report: what Prometheus saw, as Markdown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from goblin_assistant.commands.prometheus_api import JOB, Prometheus, PrometheusError
from goblin_assistant.config import Config

DAY = 86400
_SEARCH = "30d"
"""How far back the first sample is looked for."""
_OURS = f'job="{JOB}"'

# {w} is the window of the report. Each gives a single number, or no data.
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table. `target` is the guide's, in words."""

    title: str
    expression: str
    show: Format
    target: str = ""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _dollars(value: float) -> str:
    return f"${value:,.4f}"


def _p95(endpoint: str) -> str:
    return (
        "histogram_quantile(0.95, sum by (le) (increase(http_request_duration_seconds_bucket"
        f'{{{_OURS},endpoint=~"{endpoint}"}}[{{w}}])))'
    )


def _sum(metric: str, labels: str = "") -> str:
    return f"sum(increase({metric}{{{_OURS}{labels}}}[{{w}}]))"


TRAFFIC = (
    Line("Requests", _sum("http_requests_total"), _count),
    Line("Failed requests", _sum("http_errors_total"), _count),
    Line(
        "Share of failures",
        f"{_sum('http_errors_total')} / {_sum('http_requests_total')}",
        _share,
    ),
    Line("Refused with 429", _sum("rate_limit_rejections_total"), _count),
    Line("p95 of health checks", _p95("/health.*"), _seconds, "below 100 ms"),
    Line("p95 of chats, streams included", _p95("/chat/completions|/v1/.*"), _seconds, "below 2 s"),
    Line("p95 of logins", _p95("/auth/login"), _seconds, "below 500 ms"),
    Line("Chats", _sum("chat_completions_total"), _count),
    Line("Failed attempts at providers", _sum("chat_completion_errors_total"), _count),
    Line("Tokens", _sum("chat_completion_tokens_total"), _count),
    Line("Cost", _sum("chat_cost_usd_total"), _dollars),
)
CONDITION = (
    Line("Instances", f"count(up{{{_OURS}}})", _count),
    Line("Share of scrapes that succeeded", f"avg(avg_over_time(up{{{_OURS}}}[{{w}}]))", _share),
    Line(
        "Starts of a process",
        f"sum(changes(process_start_time_seconds{{{_OURS}}}[{{w}}]))",
        _count,
    ),
    Line(
        "Most memory of an instance",
        f"max(max_over_time(process_resident_memory_bytes{{{_OURS}}}[{{w}}]))",
        lambda value: f"{value / 1048576:.0f} MiB",
    ),
    Line(
        "Most chat slots in use, of all",
        f"max(max_over_time(chat_slots_in_use{{{_OURS}}}[{{w}}]) / chat_slots_max{{{_OURS}}})",
        _share,
    ),
    Line(
        "Usage records that the database refused",
        _sum("usage_records_unsaved_total"),
        _count,
        "none",
    ),
    Line("Log lines dropped", _sum("log_records_dropped_total"), _count, "none"),
)
# Title -> expression with one label to name each series by.
LISTS: tuple[tuple[str, str, str, Format], ...] = (
    (
        "Failures by endpoint",
        f"topk(10, sum by (endpoint) (increase(http_errors_total{{{_OURS}}}[{{w}}])) > 0)",
        "endpoint",
        _count,
    ),
    (
        "Failed attempts by provider",
        f"sum by (provider) (increase(chat_completion_errors_total{{{_OURS}}}[{{w}}])) > 0",
        "provider",
        _count,
    ),
    (
        "Services that were not always healthy",
        f"min by (service_name) (avg_over_time(service_health_status{{{_OURS}}}[{{w}}])) < 1",
        "service_name",
        _share,
    ),
    (
        "Alerts that fired, with the samples that they fired for",
        'sum by (alertname) (count_over_time(ALERTS{alertstate="firing",alertname!="Watchdog"}'
        "[{w}]))",
        "alertname",
        _count,
    ),
)


@click.group()
def report() -> None:
    """Reports from Prometheus, as Markdown."""


@report.command("first-24h")
@click.option(
    "--since",
    type=click.DateTime(),
    help="When the day began, in UTC. [default: the first scrape that Prometheus has]",
)
def first_24h(since: datetime | None) -> None:
    """The last item of the guide's checklist: the metrics of the first 24 hours.

    Reads PROMETHEUS_URL and prints Markdown.
    """
    address = Config.load().prometheus_url
    if address is None:
        raise click.ClickException("set PROMETHEUS_URL: the report reads Prometheus")
    prometheus = Prometheus(address)
    try:
        begin = since.replace(tzinfo=UTC).timestamp() if since else _first_scrape(prometheus)
        for line in _lines(prometheus, begin, min(begin + DAY, time.time())):
            click.echo(line)
    except PrometheusError as error:
        raise click.ClickException(f"Prometheus: {error}") from None


def _first_scrape(prometheus: Prometheus) -> float:
    found = prometheus.number(
        f"min(min_over_time(timestamp(up{{{_OURS}}})[{_SEARCH}:5m]))"
    ) or prometheus.number(f"min(timestamp(up{{{_OURS}}}))")
    if found is None:
        raise PrometheusError(f"has no job {JOB}; see ops/prometheus/prometheus.yml")
    return found


def _lines(prometheus: Prometheus, begin: float, end: float) -> Iterator[str]:
    seconds = math.ceil(end - begin)
    if seconds < 1:
        raise PrometheusError("that day has not begun")
    ask = _Window(prometheus, end, seconds)
    yield "# The first 24 hours"
    yield ""
    yield f"{_time(begin)} to {_time(end)}, from Prometheus's job `{JOB}`."
    if seconds < DAY - 60:
        yield ""
        yield f"**The day is not over: {seconds / 3600:.1f} of 24 hours.**"
    for title, table in (("Traffic", TRAFFIC), ("Condition", CONDITION)):
        yield from ("", f"## {title}", "", "| | measured | target |", "|---|---|---|")
        for line in table:
            value = ask.number(line.expression)
            shown = "no data" if value is None or math.isnan(value) else line.show(value)
            yield f"| {line.title} | {shown} | {line.target} |"
    for title, expression, label, show in LISTS:
        yield from ("", f"## {title}", "")
        rows = ask.vector(expression)
        yield from (
            f"- `{labels.get(label, '')}`: {show(value)}"
            for labels, value in sorted(rows, key=lambda row: -row[1])
        )
        if not rows:
            yield "None."


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


class _Window:
    """Questions about one stretch of time."""

    def __init__(self, prometheus: Prometheus, end: float, seconds: int) -> None:
        self._prometheus = prometheus
        self._end = end
        self._seconds = seconds

    def vector(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Each series of an expression at the end of the stretch."""
        return self._prometheus.vector(self._over(expression), at=self._end)

    def number(self, expression: str) -> float | None:
        """The only series of an expression."""
        return self._prometheus.number(self._over(expression), at=self._end)

    def _over(self, expression: str) -> str:
        return expression.replace("{w}", f"{self._seconds}s")
