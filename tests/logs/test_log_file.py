"""The log in a file of its own: its mode, and what happens when it is moved away or cannot be
written."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.config import ConfigError
from goblin_assistant.logs import json_logging, writer
from goblin_assistant.metrics import REGISTRY
from tests.conftest import ROOT, Serve, wait_until


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[writer.QueueingHandler]:
    """A handler that writes to `server.log`."""
    made = writer.QueueingHandler(json_logging.JsonFormatter(), path=tmp_path / "server.log")
    yield made
    made.close()


def logger_of(handler: writer.QueueingHandler) -> logging.Logger:
    logger = logging.Logger("goblin_assistant.test")
    logger.addHandler(handler)
    return logger


def messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def dropped() -> float:
    return REGISTRY.get_sample_value("log_records_dropped_total") or 0.0


def test_only_the_owner_may_read_a_new_log_file(
    handler: writer.QueueingHandler, tmp_path: Path
) -> None:
    assert stat.S_IMODE((tmp_path / "server.log").stat().st_mode) == 0o600


def test_a_log_file_that_exists_is_continued_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text('{"message": "before"}\n')
    path.chmod(0o640)
    handler = writer.QueueingHandler(json_logging.JsonFormatter(), path=path)
    logger_of(handler).info("after")
    handler.close()
    assert messages(path) == ["before", "after"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_after_a_reopening_lines_go_into_the_new_file(
    handler: writer.QueueingHandler, tmp_path: Path
) -> None:
    logger = logger_of(handler)
    logger.info("first")
    assert handler.flush_within(5)
    (tmp_path / "server.log").rename(tmp_path / "server.log.1")
    logger.info("second")
    assert handler.flush_within(5)
    handler.reopen()
    wait_until((tmp_path / "server.log").exists)
    logger.info("third")
    assert handler.flush_within(5)
    assert messages(tmp_path / "server.log.1") == ["first", "second"]
    assert messages(tmp_path / "server.log") == ["third"]
    assert stat.S_IMODE((tmp_path / "server.log").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_reopened_is_written_on(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    handler = writer.QueueingHandler(json_logging.JsonFormatter(), path=folder / "server.log")
    moved = folder.rename(tmp_path / "moved")
    writer.logger.addHandler(handler)
    try:
        handler.reopen()
        wait_until(lambda: "log_file_not_reopened" in messages(moved / "server.log"))
        logger_of(handler).info("on")
        assert handler.flush_within(5)
    finally:
        writer.logger.removeHandler(handler)
        handler.close()
    assert messages(moved / "server.log")[-1] == "on"


def test_a_full_disk_costs_lines_and_never_joins_two(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's end."""
    code = (
        "import json, logging, resource, signal, sys, pathlib\n"
        "from goblin_assistant.logs import json_logging\n"
        "from goblin_assistant.metrics import REGISTRY\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "json_logging.configure('INFO', path=path)\n"
        "log = logging.getLogger('goblin_assistant')\n"
        "log.info('first'); assert json_logging.flush(5)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, -1))\n"
        "log.info('cut'); assert json_logging.flush(5)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "log.info('second'); assert json_logging.flush(5)\n"
        "print(REGISTRY.get_sample_value('log_records_dropped_total'))\n"
    )
    path = tmp_path / "server.log"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    first, cut, second = path.read_text().splitlines()
    assert json.loads(first)["message"] == "first"
    assert len(cut) == 20
    assert json.loads(second)["message"] == "second"
    assert done.stdout == "1.0\n"


def test_a_log_file_that_cannot_be_opened_stops_the_start(tmp_path: Path, make_app: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        make_app(log_file=tmp_path / "absent" / "server.log")
    assert raised.value.problems == [
        f"GOBLIN_LOG_FILE={tmp_path}/absent/server.log: No such file or directory"
    ]


def test_a_server_with_a_log_file_prints_no_line(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "goblin.log"
    server = serve(GOBLIN_LOG_FILE=str(path), GOBLIN_INSTANCE_NAME="blue-1")
    wait_until(lambda: "server_started" in path.read_text())
    assert server.stop() == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["message"] == "server_stopped"
    assert {line["instance"] for line in lines} == {"blue-1"}
    assert server.output == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_line_names_its_instance_by_host_and_port(serve: Serve) -> None:
    server = serve(LOG_LEVEL="DEBUG")
    assert server.stop() == 0
    lines = server.log_lines()
    assert {line["instance"] for line in lines} == {f"{os.uname().nodename}:{server.port}"}
    assert len(lines) > 3


def test_an_extra_cannot_overwrite_the_instance(
    handler: writer.QueueingHandler, tmp_path: Path
) -> None:
    logger_of(handler).info("event", extra={"instance": "another"})
    assert handler.flush_within(5)
    text = (tmp_path / "server.log").read_text()
    assert text.count('"instance"') == 1
    assert "another" not in text
