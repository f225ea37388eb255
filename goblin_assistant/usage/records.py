"""One chat's entry in the books: how it is made, told and read back. No I/O.

An entry's `id` says when the chat began: 12 hex digits of milliseconds since 1970, then 20 random ones. Everything
that depends on the time (the day in a
report, the month of a budget, retention) is taken from the id, so that a chat is never in one month for its budget
and in another for the report.
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

_BIGGEST = 2**63 - 1
_ID = re.compile(r"[0-9a-f]{32}")
MARK = b"usage_record"
UNSAVED_EVENT = "usage_record_unsaved"


def new_record_id() -> str:
    """An id of 32 hex digits that sorts by time. Unique, not secret: os.urandom would give up Python's lock."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def ms_of(record_id: str) -> int:
    """When the chat of an id began, in milliseconds since 1970."""
    return int(record_id[:12], 16)


def first_id_at(ms: int) -> str:
    """The smallest id of a millisecond: the border of a range."""
    return f"{max(0, min(ms, 2**48 - 1)):012x}" + "0" * 20


@dataclass(slots=True)
class UsageEntry:
    """The columns of `models.UsageRecord`, which says what they mean. Filled in while the chat runs."""

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

    def as_row(self) -> dict[str, Any]:
        """Column -> value, as `values()`."""
        return dict(zip(COLUMNS, self.values(), strict=True))

    def values(self) -> tuple[Any, ...]:
        """The columns in order, fit for every database: the time from the id, texts as long and clean as they may
        be."""
        self.tidy()
        return _values(self)

    def tidy(self) -> None:
        """Take the time from the id and cut the texts to what the columns hold."""
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

# What a column takes when it is read back from a line. None among the types: the column may be null.
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
    **dict.fromkeys(("error_type", "error_source", "timeline"), (str, type(None))),
    **dict.fromkeys(("fallback", "stream", "completed"), (bool,)),
}
_SHORT_TEXTS = (("operation", 24), ("token_source", 16), ("error_source", 16))


class UnreadableRecord(ValueError):
    """A line that is, or was, a usage record and cannot be understood."""


def _clean(value: str, length: int) -> str:
    # PostgreSQL takes neither NUL nor lone surrogates; both can be in a model name that a server or a client made up.
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:length]


def entry_from(row: Any) -> UsageEntry:
    """The entry of a row as `as_row` gave it; fields that an older version did not have take their defaults. Raises
    UnreadableRecord."""
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
    return UsageEntry(**values)


def journal_line(entry: UsageEntry) -> bytes:
    """The entry as a line of a journal, `{"usage_record": {...}}`."""
    entry.tidy()
    return b'{"usage_record":' + orjson.dumps(entry) + b"}\n"


def entry_in(line: bytes) -> UsageEntry | None:
    """The entry in a line of a journal or of a log in any JSON format, also when a log shipper wrapped it; None: the
    line is about something else.

    Raises UnreadableRecord for a line that has lost a record: broken off, changed, or of a version that we do not know.
    """
    if MARK not in line:
        return None
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        if b'usage_record"' in line or b'usage_record\\"' in line or UNSAVED_EVENT.encode() in line:
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
    """An object and those inside it; texts that are JSON themselves (docker's `{"log": "..."}`) are opened."""
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
