"""What happened to one request, from its usage record and its log lines. Neither has content.

The record's `timeline` has the events between arrival and end. The log adds what is logged under
the correlation id: refusals before a chat began (limits, credentials), the request's own line and
others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Engine, select

from goblin_assistant.database.models import api_keys, now_ms, usage_records, users
from goblin_assistant.database.pool import connect
from goblin_assistant.logs.reading import parsed_lines
from goblin_assistant.money import from_microusd
from goblin_assistant.schemas.base import rfc3339
from goblin_assistant.usage.records import first_id_at

MAX_RECORDS = 50
"""Of one correlation id: clients may send the same id again and again."""
TRACE_DAYS = 7
"""How far back the records of a trace id are looked for: no index has it."""
TRACE_ID = re.compile(r"[0-9a-f]{32}").fullmatch
_STANDARD = frozenset(
    {
        "timestamp",
        "level",
        "logger",
        "message",
        "correlation_id",
        "trace_id",
        "usage_record",
        "exc_info",
        "stack_info",
    }
)

# The events of a Trace, from the router and from Settlement: what they mean, with their details.
_SENTENCES: dict[str, str] = {
    "limit": "{remaining} of {limit} chats left in the caller's window",
    "slot": "waited {waited_ms} ms for a chat slot",
    "circuit_open": "circuit breaker of {provider} is open: passed over",
    "provider_busy": "{provider} has {cap} calls running, its limit: passed over",
    "unfit": "{provider}/{model} cannot take the request's form: passed over",
    "fallback": "fell back from {from_provider} to {to_provider}",
    "retry": "tries {provider} again after {after_ms} ms",
    "first_token": "first token from {provider}",
    "failed": "{provider} failed: {error}",
    "disconnected": "the client went away ({phase})",
    "shutdown": "cut by the server's shutdown ({phase})",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One event. `at_ms` is since the request's arrival; None when only the order is known."""

    at_ms: float | None
    text: str


@dataclass(slots=True)
class Story:
    """One chat: facts by name, and its events in order."""

    facts: dict[str, str]
    moments: list[Moment]


def records_of(engine: Engine, identity: str) -> list[dict[str, Any]]:
    """The usage records of a correlation id, else of a trace id of the last days, oldest first,
    with names of user and key."""
    record = usage_records.c
    found = _records(engine, record.correlation_id == identity)
    if not found and TRACE_ID(identity):
        since = first_id_at(now_ms() - TRACE_DAYS * 24 * 60 * 60 * 1000)
        found = _records(engine, (record.id >= since) & (record.trace_id == identity))
    return found


def _records(engine: Engine, condition: ColumnElement[bool]) -> list[dict[str, Any]]:
    record, key = usage_records.c, api_keys.c
    with connect(engine) as connection:
        rows = connection.execute(
            select(
                usage_records,
                users.c.email,
                key.name.label("key_name"),
                key.prefix.label("key_prefix"),
            )
            .outerjoin(users, users.c.id == record.user_id)
            .outerjoin(api_keys, key.id == record.key_id)
            .where(condition)
            .order_by(record.id)
            .limit(MAX_RECORDS)
        )
        return [dict(row) for row in rows.mappings()]


def log_lines_of(lines: Iterable[bytes], identity: str) -> list[dict[str, Any]]:
    """The parsed log lines with a correlation id or a trace id, also from journald and Docker."""
    needle = identity.encode("utf-8", "replace")
    return [
        line
        for line in parsed_lines(lines, needle)
        if identity in (line.get("correlation_id"), line.get("trace_id"))
    ]


def story_of(record: Mapping[str, Any]) -> Story:
    """The story of a usage record."""
    moments = [Moment(0.0, "the request arrived"), *_timeline(record.get("timeline"))]
    duration = float(record["duration_ms"])
    if record["completed"]:
        moments.append(Moment(duration, "the answer was complete"))
    else:
        moments.append(Moment(duration, f"ended with {record['error_type'] or 'an error'}"))
    return Story(_facts(record), moments)


def _timeline(text: Any) -> list[Moment]:
    try:
        events = orjson.loads(text) if isinstance(text, str) else []
    except orjson.JSONDecodeError:
        return [Moment(None, "(the timeline cannot be read)")]
    moments = []
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict):
            continue
        at = event.get("at_ms")
        moments.append(Moment(float(at) if isinstance(at, int | float) else None, _sentence(event)))
    return moments


def _sentence(event: Mapping[str, Any]) -> str:
    details = {str(k): v for k, v in event.items() if k not in ("at_ms", "event")}
    name = str(event.get("event", "?"))
    pattern = _SENTENCES.get(name)
    if pattern is not None:
        try:
            text = pattern.format_map(details)
        except (KeyError, ValueError, IndexError):
            pass  # written by another version: show the bare details
        else:
            details = {k: v for k, v in details.items() if "{" + k + "}" not in pattern}
            if details.pop("may_bill", False):
                text += "; it may be generating, and bill as well"
            name = text
    shown = ", ".join(f"{key} {value}" for key, value in details.items() if value is not None)
    return f"{name} ({shown})" if shown else name


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    answered = f"{record['provider']}/{record['model']}" if record["provider"] else "nobody"
    attempts = f"{record['attempts']}" + (
        " (fell back to another provider)" if record["fallback"] else ""
    )
    tokens = f"{record['prompt_tokens']} prompt + {record['completion_tokens']} completion"
    parts = [f"{record[name]} {label}" for name, label in _TOKEN_PARTS if record[name]]
    tokens += f" (of which {', '.join(parts)})" if parts else ""
    cost = record["cost_microusd"]
    return {
        "usage record": record["id"],
        "trace": record.get("trace_id") or "-",
        "began": rfc3339(record["created_at"], "milliseconds"),
        "principal": _principal(record),
        "operation": record["operation"] + (", streamed" if record["stream"] else ""),
        "model asked": record["model_requested"],
        "answered by": answered,
        "status": _status(record),
        "attempts": attempts,
        "waited for a slot": f"{record['queue_ms']} ms",
        "first token": "-"
        if record["first_token_ms"] is None
        else f"{record['first_token_ms']} ms",
        "duration": f"{record['duration_ms']} ms",
        "tokens": f"{tokens}; {_SOURCES.get(record['token_source'], record['token_source'])}",
        "tags": _tags(record.get("tags")),
        "cost": "not known: no price for this model" if cost is None else f"${from_microusd(cost)}",
    }


def _tags(tags: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items()) if tags else "-"


_TOKEN_PARTS = (
    ("cached_tokens", "cached"),
    ("cache_write_tokens", "written to the cache"),
    ("reasoning_tokens", "reasoning"),
)
_SOURCES = {
    "provider": "counted by the provider",
    "estimated": "estimated",
    "none": "none were used",
}


def _principal(record: Mapping[str, Any]) -> str:
    user = f"user {record['user_id']}" + (f" ({record['email']})" if record.get("email") else "")
    if record["key_id"] is None:
        return f"{user}, by access token"
    named = f" ({record['key_name']}, {record['key_prefix']}...)" if record.get("key_name") else ""
    return f"{user}, by API key {record['key_id']}{named}"


def _status(record: Mapping[str, Any]) -> str:
    text = str(record["status_code"])
    if record["error_type"]:
        text += f" {record['error_type']}"
    if record["error_source"]:
        text += f"; to blame: {record['error_source']}"
    return text if record["completed"] else f"{text}; not completed"


def log_text(line: Mapping[str, Any]) -> str:
    """A log line as text: time, level, event, details."""
    details = [
        f"{key}={value}"
        for key, value in line.items()
        if key not in _STANDARD and value is not None
    ]
    return " ".join(
        [
            str(line.get("timestamp", "-")),
            str(line.get("level", "-")),
            str(line.get("message", "")),
            *details,
        ]
    )


def render(stories: Sequence[Story], log: Sequence[Mapping[str, Any]]) -> str:
    """Stories and log lines as text for a terminal."""
    lines: list[str] = []
    for number, story in enumerate(stories, 1):
        if len(stories) > 1:
            lines += ["", f"chat {number} of {len(stories)}"]
        width = max(map(len, story.facts))
        lines += [f"{name.ljust(width)}  {value}" for name, value in story.facts.items()]
        lines.append("")
        lines += [f"{_at(moment.at_ms):>12}  {moment.text}" for moment in story.moments]
    if log:
        lines += ["", "log"]
        lines += [f"  {log_text(line)}" for line in log]
    return "\n".join(lines).lstrip("\n")


def _at(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.1f} ms"
