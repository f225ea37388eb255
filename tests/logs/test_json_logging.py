"""The log has one JSON object per line, with the guide's keys, whatever is logged. A reader that
stops reading stops nothing else."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from goblin_assistant.logs import json_logging
from goblin_assistant.logs.json_logging import (
    JsonFormatter,
    correlation_id,
    event,
    make_handler,
    trace_id,
)
from goblin_assistant.metrics import log_records_dropped_total
from tests.conftest import ROOT, wait_until


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    """A logger with a handler of its own, apart from the process's."""
    handler = make_handler(stream)
    logger = logging.Logger("goblin_assistant.test")
    logger.addHandler(handler)
    logger.flush = handler.flush_within  # type: ignore[attr-defined]
    yield logger
    handler.close()


def lines(logger: Any, stream: io.StringIO) -> list[dict[str, Any]]:
    assert logger.flush(5)
    return [json.loads(line) for line in stream.getvalue().rstrip("\n").split("\n")]


def test_a_line_has_the_guides_keys_in_the_guides_order(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    trace_id.set("")  # a request of another test may have left one
    correlation_id.set("550e8400-e29b-41d4-a716-446655440000")
    event(
        logger,
        logging.INFO,
        "request_completed",
        {"method": "POST", "path": "/chat/completions", "status_code": 200, "duration_ms": 1234.56},
    )
    correlation_id.set("-")
    (line,) = lines(logger, stream)
    assert list(line) == [
        "timestamp", "level", "logger", "message", "correlation_id", "method", "path",
        "status_code", "duration_ms", "instance",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line.pop("instance").startswith(socket.gethostname())
    assert line == {
        "level": "INFO",
        "logger": "goblin_assistant.test",
        "message": "request_completed",
        "correlation_id": "550e8400-e29b-41d4-a716-446655440000",
        "method": "POST",
        "path": "/chat/completions",
        "status_code": 200,
        "duration_ms": 1234.56,
    }


def test_the_timestamp_is_utc_with_milliseconds() -> None:
    formatter = JsonFormatter()
    assert formatter.timestamp_of(1764671445.1234) == "2025-12-02T10:30:45.123Z"
    assert formatter.timestamp_of(1764671445.9999) == "2025-12-02T10:30:45.999Z"
    assert formatter.timestamp_of(1764671446.0) == "2025-12-02T10:30:46.000Z"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(), Hostile(), {1, 2}, b"\xff\x00", 2**100, -(2**70), float("nan"), float("inf"),
        "\udc80 lone", circular(),
        {"nested": {"deep": [Hostile(), {("a", 1): 2}]}}, ValueError("x"), type, lambda: 1,
        "line\nbreak\r\n\u2028\x00",
        {Hostile: 1}, {"\udc80": 1}, 1 + 2j, logging,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_extra_makes_one_line_of_json(
    logger: logging.Logger, stream: io.StringIO, value: Any
) -> None:
    logger.info("event", extra={"value": value})
    (line,) = lines(logger, stream)
    assert line["message"] == "event"
    assert "value" in line
    assert "\n" not in stream.getvalue()[:-1]


@pytest.mark.parametrize(
    "message",
    ["a\nb", "a\r\nb", 'quote " backslash \\', "\x1b[31mred\x00", "\u2028\u2029", "\udcff"],
)
def test_no_message_breaks_one_object_a_line(
    logger: logging.Logger, stream: io.StringIO, message: str
) -> None:
    logger.info(message)
    logger.info("%s", message)
    assert len(lines(logger, stream)) == 2
    assert stream.getvalue().count("\n") == 2


def test_arguments_that_do_not_fit_lose_no_line(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    logger.info("%d things", "three")
    (line,) = lines(logger, stream)
    assert line["message"] == "%d things (arguments do not fit: TypeError)"


def test_a_stack_trace_is_one_field(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logger.exception("failed")
    (line,) = lines(logger, stream)
    assert line["level"] == "ERROR"
    assert line["exc_info"].startswith("Traceback (most recent call last):\n")
    assert line["exc_info"].endswith("KeyError: 'gone'")


def test_an_extra_cannot_overwrite_the_guides_keys(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    logger.info("event", extra={"timestamp": "never", "level": "none", "logger": "x"})
    (line,) = lines(logger, stream)
    assert line["level"] == "INFO"
    assert line["timestamp"] != "never"


def test_the_id_of_the_request_is_that_of_the_thread(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    def work(name: str) -> None:
        correlation_id.set(name)
        for _ in range(20):
            logger.info("event", extra={"thread_name": name})

    threads = [threading.Thread(target=work, args=(f"id-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(logger, stream)
    assert len(found) == 160
    assert all(line["correlation_id"] == line["thread_name"] for line in found)


def test_lines_are_written_in_the_order_of_each_thread(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    for number in range(5000):
        logger.info("event", extra={"number": number})
    assert [line["number"] for line in lines(logger, stream)] == list(range(5000))


class Blocked(io.StringIO):
    """A stream whose reader has stopped reading."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.open.wait()
        return super().write(text)


def test_a_reader_who_does_not_read_blocks_nobody_and_drops_are_counted() -> None:
    stream = Blocked()
    handler = make_handler(stream, capacity=100)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    dropped = log_records_dropped_total._value.get()  # type: ignore[attr-defined]
    logger.info("first")
    assert stream.reached.wait(30)
    for _ in range(1000):
        logger.info("event")
    assert log_records_dropped_total._value.get() - dropped == 900  # type: ignore[attr-defined]
    assert not handler.flush_within(0.05)
    stream.open.set()
    assert handler.flush_within(5)
    assert len(stream.getvalue().splitlines()) == 101
    handler.close()


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_who_has_gone_stops_nothing() -> None:
    handler = make_handler(Broken())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    dropped = log_records_dropped_total._value.get()  # type: ignore[attr-defined]
    logger.info("event")
    assert handler.flush_within(5)
    assert log_records_dropped_total._value.get() - dropped == 1  # type: ignore[attr-defined]
    handler.close()


def run(code: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **kwargs,
    )


def test_every_line_is_out_when_the_process_ends() -> None:
    done = run(
        "import logging; from goblin_assistant.logs import json_logging; "
        "json_logging.configure('INFO')\n"
        "for n in range(3000): logging.getLogger('goblin_assistant').info('event', extra={'n': n})"
    )
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(3000))
    assert done.stderr == ""


def test_libraries_warnings_and_threads_log_json_too() -> None:
    done = run(
        "import logging, threading, warnings\n"
        "from goblin_assistant.logs import json_logging; json_logging.configure('INFO')\n"
        "logging.getLogger('waitress').warning('from waitress')\n"
        "logging.getLogger('sqlalchemy.engine').error('from sqlalchemy')\n"
        "logging.getLogger('alembic').warning('from alembic')\n"
        "logging.getLogger('werkzeug').info('\\x1b[31m\\x1b[1mWARNING\\x1b[0m * Running')\n"
        "logging.getLogger('werkzeug').info('127.0.0.1 - - [23/Nov/2026 10:00:00] \"GET / "
        "HTTP/1.1\" 200 -')\n"
        "warnings.warn('deprecated thing', DeprecationWarning)\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert [line["logger"] for line in found] == [
        "waitress", "sqlalchemy.engine", "alembic", "werkzeug", "py.warnings", "goblin_assistant",
    ]  # fmt: skip
    assert found[3]["message"] == "WARNING * Running"
    assert found[-1]["message"] == "thread_failed"
    assert "ZeroDivisionError" in found[-1]["exc_info"]


def test_the_level_is_the_least_that_is_logged() -> None:
    done = run(
        "import logging; from goblin_assistant.logs import json_logging; "
        "json_logging.configure('WARNING')\n"
        "log = logging.getLogger('goblin_assistant.chat'); log.info('quiet'); log.warning('loud')\n"
    )
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["loud"]


def test_a_forked_child_logs_too() -> None:
    done = run(
        "import logging, os; from goblin_assistant.logs import json_logging; "
        "json_logging.configure('INFO')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    logging.getLogger('goblin_assistant').info('child'); json_logging.flush(); "
        "os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    assert own_messages(done.stdout) == ["child"]


def own_messages(output: str) -> list[str]:
    """The messages of the product's logger. From Python 3.12 on, a fork beside the writer's thread
    is a warning, and the log has a line for it too."""
    lines = [json.loads(line) for line in output.splitlines()]
    return [line["message"] for line in lines if line["logger"] == "goblin_assistant"]


def test_a_forked_child_does_not_write_the_lines_that_its_parent_had_queued() -> None:
    done = run(
        "import logging, os, threading\n"
        "from goblin_assistant.logs import json_logging; from goblin_assistant.logs import "
        "writer as log_writer; json_logging.configure('INFO')\n"
        "log_writer.GATHER_SECONDS = 1\n"  # the lines wait in the queue while the process forks
        "log = logging.getLogger('goblin_assistant'); log.info('parent')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    log.info('child'); json_logging.flush(); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    assert sorted(own_messages(done.stdout)) == ["child", "parent"]


def test_a_full_pipe_that_is_read_later_loses_nothing_that_fits() -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import logging, sys; from goblin_assistant.logs import json_logging; "
            "json_logging.configure('INFO')\n"
            "for n in range(5000): logging.getLogger('x').info('event', extra={'text': 'y' * "
            "100})\n"
            "sys.stderr.write('done'); sys.stderr.flush(); json_logging.flush(20)",
        ],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert process.stderr is not None
    assert process.stderr.read(4) == b"done"  # the pipe holds 64 KiB, and logging went on
    with os.fdopen(reading) as pipe:
        count = sum(1 for line in pipe if json.loads(line))
    assert process.wait(20) == 0
    process.stderr.close()
    assert count == 5000


def test_configuring_again_changes_level_and_stream_without_doubling_lines() -> None:
    before = logging.getLogger().handlers[:]
    first, second = io.StringIO(), io.StringIO()
    try:
        json_logging.configure("INFO", stream=first)
        json_logging.configure("INFO", stream=first)
        logging.getLogger("goblin_assistant.again").info("one")
        json_logging.flush()
        json_logging.configure("ERROR", stream=second)
        logging.getLogger("goblin_assistant.again").info("two")
        logging.getLogger("goblin_assistant.again").error("three")
        json_logging.flush()
    finally:
        json_logging.configure("WARNING")
    assert [json.loads(line)["message"] for line in first.getvalue().splitlines()] == ["one"]
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["three"]
    wait_until(lambda: len([h for h in logging.getLogger().handlers if h not in before]) <= 1)
