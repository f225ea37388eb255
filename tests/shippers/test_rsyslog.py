"""The real rsyslogd reads a real server's log file by ops/logging/rsyslog/goblin-assistant.conf."""

from __future__ import annotations

import functools
import json
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT, Serve, wait_until
from tests.support.services import find_binary

FAILED = "configuration_not_reloaded"
CONFIG = ROOT / "ops" / "logging" / "rsyslog" / "goblin-assistant.conf"


class Collector(socketserver.ThreadingTCPServer):
    """Receives lines over TCP."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Lines)
        self.lines: list[dict[str, Any]] = []


class _Lines(socketserver.StreamRequestHandler):
    server: Collector

    def handle(self) -> None:
        for line in self.rfile:
            self.server.lines.append(json.loads(line))


class MailServer(socketserver.ThreadingTCPServer):
    """Accepts mails by SMTP and keeps their text."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mails)
        self.mails: list[str] = []


class _Mails(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.wfile.write(b"220 mail\r\n")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(text.decode())
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running Collector."""
    yield from _running(Collector())


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A running MailServer."""
    yield from _running(MailServer())


def _running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Rsyslog:
    """rsyslogd with the product's configuration, on other paths and addresses."""

    def __init__(self, folder: Path, collector: Collector, mail_server: MailServer) -> None:
        self.binary = find_binary("rsyslogd")
        self.logs = folder / "log"
        self.central = self.logs / "central"
        self._folder = folder
        for path in (self.logs, folder / "spool"):
            path.mkdir()
        text = CONFIG.read_text()
        for old, new in {
            "/var/log/goblin-assistant": str(self.logs),
            "/var/spool/rsyslog": str(folder / "spool"),
            'target="logs.example.com" port="5170"': _at("target", collector),
            'server="mail.example.com" port="25"': _at("server", mail_server),
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        self.config = folder / "rsyslog.conf"
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it in the foreground."""
        pid = self._folder / "rsyslogd.pid"
        self._process = subprocess.Popen(
            [self.binary, "-n", "-f", str(self.config), "-i", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(pid.exists, 30, "rsyslogd")

    def stop(self) -> None:
        """End it in its own way, which saves what it has queued."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def kept(self) -> list[dict[str, Any]]:
        """The lines of its own copy."""
        path = self.central / "all.log"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def _at(name: str, server: socketserver.TCPServer) -> str:
    return f'{name}="127.0.0.1" port="{server.server_address[1]}"'


@pytest.fixture
def rsyslog(tmp_path: Path, collector: Collector, mail_server: MailServer) -> Iterator[Rsyslog]:
    """rsyslogd, not yet running."""
    folder = tmp_path / "rsyslog"
    folder.mkdir()
    made = Rsyslog(folder, collector, mail_server)
    yield made
    made.stop()


def test_the_configuration_is_valid_as_it_is_shipped() -> None:
    done = subprocess.run(
        [find_binary("rsyslogd"), "-N1", "-f", str(CONFIG)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()


def test_each_line_arrives_with_its_ecs_names_and_the_first_error_is_mailed(
    serve: Serve, rsyslog: Rsyslog, collector: Collector, mail_server: MailServer
) -> None:
    rsyslog.start()
    goblin_toml = rsyslog.logs.parent / "goblin.toml"
    goblin_toml.write_text("")
    server = serve(
        GOBLIN_LOG_FILE=str(rsyslog.logs / "goblin.log"),
        GOBLIN_CONFIG_FILE=str(goblin_toml),
        GOBLIN_INSTANCE_NAME="web-1",
    )
    requests.get(server.url + "/health", headers={"X-Correlation-ID": "abc-1"}, timeout=60)
    goblin_toml.write_text("[aliases")
    for _ in range(2):
        known = count(collector, FAILED)
        server.process.send_signal(signal.SIGHUP)
        wait_until(functools.partial(more_than, known, collector), 20)
    assert server.stop() == 0
    wait_until(lambda: count(collector, "server_stopped"), 20)
    written = [json.loads(line) for line in (rsyslog.logs / "goblin.log").read_text().splitlines()]
    wait_until(lambda: len(rsyslog.kept()) == len(written))
    assert rsyslog.kept() == written
    assert [line["message"] for line in collector.lines] == [line["message"] for line in written]
    sent = next(line for line in collector.lines if line["http.request.id"] == "abc-1")
    original = json.loads(sent.pop("event.original"))
    assert sent.pop("goblin.duration_ms") == original["duration_ms"]
    assert sent.pop("@timestamp") == original["timestamp"]
    assert sent.pop("trace.id") == original["trace_id"]
    assert sent == {
        "log.level": "INFO",
        "log.logger": "goblin_assistant",
        "message": "request_completed",
        "http.request.id": "abc-1",
        "service.name": "goblin-assistant",
        "service.node.name": "web-1",
        "http.request.method": "GET",
        "url.path": "/health",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
    }
    (mail,) = mail_server.mails
    assert "Subject: goblin-assistant web-1: configuration_not_reloaded" in mail
    assert "goblin-assistant explain -" in mail
    assert not (rsyslog.central / "unparsed.log").exists()


def more_than(known: int, collector: Collector) -> bool:
    return count(collector, FAILED) > known


def count(collector: Collector, message: str) -> int:
    return sum(line["message"] == message for line in collector.lines)


def test_a_long_line_is_neither_cut_nor_split(rsyslog: Rsyslog, collector: Collector) -> None:
    rsyslog.start()
    line = json.dumps({"message": "long", "level": "INFO", "exc_info": "x" * 40_000})
    (rsyslog.logs / "goblin.log").write_text(line + "\n")
    wait_until(lambda: count(collector, "long"), 20)
    assert len(collector.lines[0]["error.stack_trace"]) == 40_000


def test_what_was_written_while_it_was_away_is_sent_when_it_is_back(
    rsyslog: Rsyslog, collector: Collector
) -> None:
    log = rsyslog.logs / "goblin.log"
    log.write_text(line_of("first"))
    rsyslog.start()
    wait_until(lambda: count(collector, "first"), 20)
    rsyslog.stop()
    with log.open("a") as file:
        file.write(line_of("second"))
    rsyslog.start()
    wait_until(lambda: count(collector, "second"), 20)
    assert count(collector, "first") == 1


def test_a_moved_log_file_is_read_to_its_end(rsyslog: Rsyslog, collector: Collector) -> None:
    log = rsyslog.logs / "goblin.log"
    log.write_text(line_of("first"))
    rsyslog.start()
    wait_until(lambda: count(collector, "first"), 20)
    with log.open("a") as old:
        log.rename(rsyslog.logs / "goblin.log.1")
        old.write(line_of("second"))  # the server has not had its signal yet
    log.write_text(line_of("third"))
    wait_until(lambda: count(collector, "third"), 20)
    assert [line["message"] for line in collector.lines] == ["first", "second", "third"]


def line_of(message: str) -> str:
    return json.dumps({"message": message, "level": "INFO"}) + "\n"


def test_what_is_no_json_is_kept_apart(rsyslog: Rsyslog) -> None:
    rsyslog.start()
    (rsyslog.logs / "goblin.log").write_text("Traceback (most recent call last):\n")
    path = rsyslog.central / "unparsed.log"
    wait_until(lambda: path.exists() and "Traceback" in path.read_text(), 20)
    assert rsyslog.kept() == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_collector_may_be_away(rsyslog: Rsyslog, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    text = rsyslog.config.read_text()
    target = text[text.index('target="') :].split('port="')[1].split('"')[0]
    rsyslog.config.write_text(text.replace(f'port="{target}" protocol', f'port="{port}" protocol'))
    rsyslog.start()
    (rsyslog.logs / "goblin.log").write_text(line_of("kept"))
    wait_until(lambda: [line["message"] for line in rsyslog.kept()] == ["kept"], 20)
