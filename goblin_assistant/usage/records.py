"""A usage record: its fields, its form in a journal or a log, and how it is read back. No I/O.

A record's `id` has the time at which the chat began: 12 hex digits of milliseconds since 1970, then
20 random ones. All that depends on the time (day of a report, month of a budget, retention) comes
from the id, so that a chat is in the same month everywhere.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import orjson

from goblin_assistant.usage.tags import is_stored_form

_BIGGEST = 2**63 - 1
_ID = re.compile(r"[0-9a-f]{32}")
MARK = b"usage_record"
UNSAVED_EVENT = "usage_record_unsaved"


def new_record_id() -> str:
    """An id of 32 hex digits that sorts by time.

    Unique, not secret: os.urandom would release Python's lock.
    """
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def ms_of(record_id: str) -> int:
    """The time in an id, in milliseconds since 1970."""
    return int(record_id[:12], 16)


def first_id_at(ms: int) -> str:
    """The smallest id of a millisecond, as the border of a range."""
    return f"{max(0, min(ms, 2**48 - 1)):012x}" + "0" * 20


@dataclass(slots=True)
class UsageEntry:
    """A row of `usage_records` (database/models.py), filled in while the chat runs."""

    id: str
    created_at: int = 0
    correlation_id: str = ""
    user_id: int | None = None
    key_id: int | None = None
    operation: str = "chat_completion"
    provider: str = ""
    model_requested: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    token_source: str = "provider"
    cost_microusd: int | None = 0
    duration_ms: int = 0
    queue_ms: int = 0
    first_token_ms: int | None = None
    status_code: int = 200
    error_type: str | None = None
    error_source: str | None = None
    attempts: int = 1
    fallback: bool = False
    stream: bool = False
    completed: bool = True
    timeline: str | None = None
    trace_id: str | None = None
    tags: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Column -> value, as `values()`."""
        return dict(zip(COLUMNS, self.values(), strict=True))

    def values(self) -> tuple[Any, ...]:
        """The columns in order, after `tidy()`."""
        self.tidy()
        return _values(self)

    def tidy(self) -> None:
        """Take the time from the id, and cut and clean texts for every database."""
        self.created_at = int(self.id[:12], 16)
        texts = (
            self.correlation_id
            + self.provider
            + self.model_requested
            + self.model
            + (self.error_type or "")
        )
        if (
            len(texts) > 128
            or not (texts.isascii() and texts.isprintable())
            or len(self.provider) > 64
        ):
            for name, length in _TEXTS:
                if value := getattr(self, name):
                    setattr(self, name, _clean(value, length))


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(UsageEntry))
_values = attrgetter(*COLUMNS)
_TEXTS = (
    ("correlation_id", 128),
    ("provider", 64),
    ("model_requested", 255),
    ("model", 255),
    ("error_type", 64),
)  # of the table

# Column -> types that are accepted from a line. NoneType: the column may be null.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(COLUMNS, (int,)),
    **dict.fromkeys(("user_id", "key_id", "cost_microusd", "first_token_ms"), (int, type(None))),
    **dict.fromkeys(
        (
            "id",
            "correlation_id",
            "operation",
            "provider",
            "model_requested",
            "model",
            "token_source",
        ),
        (str,),
    ),
    **dict.fromkeys(
        ("error_type", "error_source", "timeline", "trace_id", "tags"), (str, type(None))
    ),
    **dict.fromkeys(("fallback", "stream", "completed"), (bool,)),
}
_SHORT_TEXTS = (("operation", 24), ("token_source", 16), ("error_source", 16), ("trace_id", 32))


class UnreadableRecord(ValueError):
    """A line that has, or had, a usage record that cannot be read."""


def _clean(value: str, length: int) -> str:
    # PostgreSQL refuses NUL and lone surrogates, which an invented model name may have.
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:length]


def entry_from(row: Any) -> UsageEntry:
    """The entry of a row as `as_row` gives it. Raises UnreadableRecord.

    Fields that an older version did not have take their defaults.
    """
    if not isinstance(row, Mapping):
        raise UnreadableRecord("not an object")
    record_id = row.get("id")
    if not isinstance(record_id, str) or not _ID.fullmatch(record_id):
        raise UnreadableRecord("no record id")
    values = {}
    for name in COLUMNS:
        if name not in row:
            continue
        value = row[name]
        if type(value) not in _TYPES[name]:
            raise UnreadableRecord(f"{name} is of the wrong type")
        if type(value) is int and not 0 <= value <= _BIGGEST:
            raise UnreadableRecord(f"{name} is out of range")
        values[name] = value
    for name, length in _SHORT_TEXTS:
        if len(values.get(name) or "") > length:
            raise UnreadableRecord(f"{name} is too long")
    if (tags := values.get("tags")) is not None and not is_stored_form(tags):
        raise UnreadableRecord("tags are not those of a record")
    return UsageEntry(**values)


def journal_line(entry: UsageEntry) -> bytes:
    """The entry as a line of a journal, `{"usage_record": {...}}`."""
    entry.tidy()
    return b'{"usage_record":' + orjson.dumps(entry) + b"}\n"


def entry_in(line: bytes) -> UsageEntry | None:
    """The entry in a line of a journal or a JSON log; None when the line has none.

    A log shipper may have wrapped the line. Raises UnreadableRecord when a record was in the line
    but is incomplete, changed, or of an unknown version.
    """
    if MARK not in line:
        return None
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        marks = (b'usage_record"', b'usage_record\\"', UNSAVED_EVENT.encode())
        if any(mark in line for mark in marks):
            raise UnreadableRecord("not JSON") from None
        return None
    lost = False
    for value in _objects(parsed):
        if "usage_record" in value:
            return entry_from(value["usage_record"])
        lost = lost or UNSAVED_EVENT in (value.get("message"), value.get("event"), value.get("msg"))
    if lost:
        raise UnreadableRecord("the line has no record in it")
    return None


def _objects(parsed: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """An object and those inside it, also in texts that are JSON (docker's `{"log": "..."}`)."""
    if isinstance(parsed, str) and MARK.decode() in parsed and parsed.lstrip().startswith("{"):
        try:
            parsed = orjson.loads(parsed)
        except orjson.JSONDecodeError:
            raise UnreadableRecord("not JSON") from None
    if depth > 6:
        return
    if isinstance(parsed, Mapping):
        yield parsed
        for name, value in parsed.items():
            if name != "usage_record" and isinstance(value, Mapping | list | str):
                yield from _objects(value, depth + 1)
    elif isinstance(parsed, list):
        for value in parsed:
            yield from _objects(value, depth + 1)
