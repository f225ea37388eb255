"""Checks that logs are collected. Doctor cannot query the log store, but can leave a mark in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import requests

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, ok, warning
from goblin_assistant.commands.plain_session import plain_session

SHIPPERS = frozenset(
    {"filebeat", "logstash", "agent", "datadog-agent", "amazon-cloudwatch-agent", "rsyslogd",
     "fluent-bit", "fluentd", "vector", "promtail", "alloy", "otelcol"}
)  # fmt: skip
"""Process names. /proc/PID/comm has only the first 15 characters."""
_COMM_LENGTH = 15


def aggregation(context: Context, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """A log shipper runs here. With --url, a request is sent whose id can be searched for."""
    mark = _leave_mark(context)
    found = shippers(proc)
    if found:
        yield ok("logs", f"{', '.join(found)} runs here{mark}")
    else:
        yield warning(
            "logs",
            f"no log shipper runs here{mark}",
            "Set one up (ops/logging), or see that the container's runtime collects the output.",
        )


def shippers(proc: Path) -> list[str]:
    """The log shippers among the processes in `proc`."""
    short = {name[:_COMM_LENGTH] for name in SHIPPERS}
    names = set()
    for path in proc.glob("[0-9]*/comm"):
        try:
            names.add(path.read_text().strip())
        except OSError:
            continue  # it has ended
    return sorted(names & short)


def _leave_mark(context: Context) -> str:
    if context.url is None:
        return ""
    mark = f"doctor-{uuid.uuid4().hex[:12]}"
    try:
        with plain_session() as session:
            session.get(
                context.url + "/health",
                headers={"X-Correlation-ID": mark},
                timeout=5,
                verify=context.verify,
            )
    except requests.RequestException:
        return ""  # the checks of --url report it
    return f"; search your logs for {mark}"
