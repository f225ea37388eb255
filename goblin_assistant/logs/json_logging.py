"""One JSON object per line, in the production guide's format, on standard output or into a file.

`{"timestamp": "2025-12-02T10:30:45.123Z", "level", "logger", "message", "correlation_id",
"trace_id", ...extras, "exc_info", "stack_info", "instance"}`

A record is formatted and redacted in the thread that logs: the correlation id is known there, and
the arguments have not changed yet. The line goes into a bounded queue (logs/writer.py).
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

from goblin_assistant.config import ConfigError
from goblin_assistant.logs.encoding import as_json
from goblin_assistant.logs.redaction import Redactor
from goblin_assistant.logs.writer import QUEUE_LINES, QueueingHandler

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="-")
"""The current request's id, also in streaming generators. A thread that a request starts has it
only within `contextvars.copy_context().run`."""
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The id of the trace that the current request belongs to. Empty outside requests."""

_RESERVED = frozenset(RESERVED_ATTRS) | {"taskName", "correlation_id", "trace_id", "instance"}
_redactor = Redactor()
_handler: QueueingHandler | None = None


class JsonFormatter(OrjsonFormatter):
    """The guide's keys in the guide's order. Never raises: what is not JSON is written as text.

    Not python-json-logger's `format`, which costs four times as much. Its table of reserved
    attributes and its encoding of unusual types are used.
    """

    def __init__(self) -> None:
        super().__init__(["timestamp", "level", "logger", "message", "correlation_id"])
        self._second = (-1, "")
        self.name_instance(socket.gethostname())

    def name_instance(self, name: str) -> None:
        """Set the `instance` of every line from now on."""
        self.instance = name
        # As the end of a line, with its brace: it is the same in each.
        self._end = "," + _redactor.redact(as_json({"instance": name}))[1:]

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        fields = record.__dict__
        data: dict[str, Any] = {
            "timestamp": self.timestamp_of(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            "correlation_id": fields.get("correlation_id") or correlation_id.get(),
        }
        if trace := fields.get("trace_id") or trace_id.get():
            data["trace_id"] = trace
        if len(fields) > _PLAIN_RECORD_SIZE:
            for key, value in fields.items():
                if key not in _RESERVED:
                    data.setdefault(key, value)
        if record.exc_info and record.exc_info[0] is not None:
            data["exc_info"] = _traceback(record)
        elif record.exc_text:
            data["exc_info"] = record.exc_text
        if record.stack_info:
            data["stack_info"] = record.stack_info
        return _redactor.redact(as_json(data))[:-1] + self._end

    def line(self, level: int, logger: str, message: str, fields: dict[str, Any]) -> str:
        """The line of an event without a LogRecord. Of the guide's keys, `fields` may contain only
        the correlation id."""
        data: dict[str, Any] = {
            "timestamp": self.timestamp_of(time.time()),
            "level": logging.getLevelName(level),
            "logger": logger,
            "message": message,
            "correlation_id": correlation_id.get(),
        }
        if trace := trace_id.get():
            data["trace_id"] = trace
        data.update(fields)
        return _redactor.redact(as_json(data))[:-1] + self._end

    def timestamp_of(self, created: float) -> str:
        """`2025-12-02T10:30:45.123Z`. The part before the dot is formatted once per second."""
        second = int(created)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = (second, text)
        return f"{text}{int((created - second) * 1000):03d}Z"

    @staticmethod
    def _message(record: logging.LogRecord) -> str:
        try:
            return record.getMessage()
        except Exception as error:
            # logging.Handler would print the failure to stderr and lose the line.
            return f"{record.msg!s} (arguments do not fit: {type(error).__name__})"


# A record without extras has this many attributes.
_PLAIN_RECORD_SIZE = len(logging.makeLogRecord({}).__dict__)


def _traceback(record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    try:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    except Exception as error:
        return f"traceback cannot be formatted: {type(error).__name__}"


_formatter = JsonFormatter()


def make_handler(stream: TextIO | None = None, capacity: int = QUEUE_LINES) -> QueueingHandler:
    """A handler that writes this format to `stream`, or to standard output."""
    return QueueingHandler(_formatter, stream, capacity)


# The access lines of werkzeug's development server: request_completed says more.
_ACCESS_LINE = re.compile(r"^\S+ - - \[")
_COLOUR = re.compile(r"\x1b\[\d*m")


def _tidy_werkzeug(record: logging.LogRecord) -> bool:
    if isinstance(record.msg, str):
        record.msg = _COLOUR.sub("", record.msg)
        return not _ACCESS_LINE.match(record.msg)
    return True


def configure(
    level: str,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    *,
    instance: str = "",
    path: Path | None = None,
) -> None:
    """Send the records of every logger in the process to one JSON handler.

    It writes to the file `path`, else to `stream`, else to standard output. `secrets` are values
    that must never appear in a line. `instance` is this process's name in each line; empty: as
    before. When called again, the last values apply, and secrets are added. Raises ConfigError for
    a file that cannot be opened.
    """
    global _handler
    _redactor.register(secrets)
    if instance:
        _formatter.name_instance(instance)
    root = logging.getLogger()
    if _handler is None or not _handler.writes_to(stream, path) or not _handler.writing():
        made = _open_handler(stream, path)
        previous, _handler = _handler, made
        root.addHandler(_handler)
        if previous is not None:
            root.removeHandler(previous)
            previous.close()
    elif _handler not in root.handlers:
        root.addHandler(_handler)
    root.setLevel(level)
    # These attributes cost time in every record, and no line shows them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_exception
    for name, least in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    werkzeug = logging.getLogger("werkzeug")
    if _tidy_werkzeug not in werkzeug.filters:
        werkzeug.addFilter(_tidy_werkzeug)


def _open_handler(stream: TextIO | None, path: Path | None) -> QueueingHandler:
    try:
        return QueueingHandler(_formatter, stream, path=path)
    except OSError as error:
        raise ConfigError([f"GOBLIN_LOG_FILE={path}: {error.strerror}"]) from None


# Below these levels libraries repeat request_completed, or write a line per request under load.
_LIBRARY_LEVELS = {
    "waitress": logging.WARNING,  # INFO per client that left; completed: false says so
    "waitress.queue": logging.ERROR,  # WARNING per queued request; server_threads_busy says so
    "urllib3": logging.WARNING,  # DEBUG lines contain URLs with their query
    "flask-limiter": logging.WARNING,  # INFO per refusal; rate_limit_rejections_total says so
    "alembic": logging.WARNING,
    "redis": logging.WARNING,  # DEBUG line per connection
}


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        logging.getLogger("goblin_assistant").error(
            "thread_failed",
            extra={"thread_name": args.thread.name if args.thread else ""},
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


def event(logger: logging.Logger, level: int, message: str, fields: dict[str, Any]) -> None:
    """`logger.log(level, message, extra=fields)` at half the cost, for the lines of each request.

    It does not look for the caller, which no line shows. It makes a LogRecord only for other
    handlers (pytest's caplog, an operator's own).
    """
    if not logger.isEnabledFor(level):
        return
    if _handler is not None and _only_ours(logger):
        _handler.emit_line(_formatter.line(level, logger.name, message, fields))
        return
    record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
    record.__dict__.update(fields)
    logger.handle(record)


def _only_ours(logger: logging.Logger) -> bool:
    current: logging.Logger | None = logger
    while current is not None:
        if current.handlers and current.handlers != [_handler]:
            return False
        if current.filters or not current.propagate:
            return False
        current = current.parent
    return True


def instance() -> str:
    """The name of this process in its lines."""
    return _formatter.instance


def register_secrets(secrets: Iterable[str]) -> None:
    """Add values that must never appear in a line."""
    _redactor.register(secrets)


def redact(text: str) -> str:
    """`text` without registered secrets and credential-like text."""
    return _redactor.redact(text)


def reopen() -> None:
    """Open the log's file again, because it may have been moved away. Without a file, nothing."""
    if _handler is not None:
        _handler.reopen()


def flush(timeout: float = 2.0) -> bool:
    """Wait until every line so far is written; False after `timeout` seconds. Called at exit."""
    return _handler.flush_within(timeout) if _handler is not None else True


def _after_fork() -> None:
    if _handler is not None:
        _handler.start_in_child()


atexit.register(flush)
os.register_at_fork(after_in_child=_after_fork)
