"""Tests that an alert posted to Alertmanager arrives at a receiver."""

from __future__ import annotations

import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from goblin_assistant.commands.doctor.findings import in_words
from goblin_assistant.commands.plain_session import plain_session
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen

PROMISE = "An alert arrives"
ALERT = "GoblinProve"
_MOST_BYTES = 1 << 20


class _Receiver(ThreadingHTTPServer):
    """Sets `arrived` when a notification with the label of this run is received."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], mark: str) -> None:
        super().__init__(address, _Handler)
        self.mark = mark
        self.arrived = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignored: a client that disconnects has not delivered a notification."""


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), _MOST_BYTES)
        if _names(self.rfile.read(length), self.server.mark):
            self.server.arrived.set()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: standard error shows the progress."""


def _names(body: bytes, mark: str) -> bool:
    try:
        alerts = json.loads(body)["alerts"]
        return any(alert["labels"].get("prove") == mark for alert in alerts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def alert(alertmanager: str | None, listen: tuple[str, int] | None, seconds: float) -> Seen:
    """Post a test alert to Alertmanager and wait for its notification at `listen`.

    API: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
    """
    if alertmanager is None or listen is None:
        raise NotTried("it needs --alertmanager URL and --listen HOST:PORT; see docs/prove.md")
    mark = uuid.uuid4().hex
    try:
        receiver = _Receiver(listen, mark)
    except OSError as error:
        raise NotTried(f"--listen {listen[0]}:{listen[1]}: {in_words(error)}") from None
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    try:
        began = time.monotonic()
        _post(alertmanager, mark, seconds + 60)
        arrived = receiver.arrived.wait(seconds)
        took = time.monotonic() - began
        _post(alertmanager, mark, 0)
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join()
    if not arrived:
        raise Broken(
            f"no notification of {ALERT} within {seconds:g} s at {listen[0]}:{listen[1]}: is there "
            "a route to it in alertmanager.yml, and can Alertmanager reach it?"
        )
    return Seen(f"{ALERT} arrived {took:.1f} s after it was posted", {"seconds": round(took, 1)})


def _post(alertmanager: str, mark: str, lasts: float) -> None:
    """Post the alert. `lasts` is in seconds; 0 resolves it."""
    now = datetime.now(UTC)
    body = [
        {
            "labels": {
                "alertname": ALERT,
                "job": "goblin-assistant",
                "severity": "info",
                "prove": mark,
            },
            "annotations": {"summary": "A test of `goblin-assistant prove`; nothing to do."},
            "endsAt": (now + timedelta(seconds=lasts)).isoformat(),
        }
    ]
    try:
        with plain_session() as session:
            answer = session.post(
                alertmanager.rstrip("/") + "/api/v2/alerts", json=body, timeout=10
            )
            answer.raise_for_status()
    except requests.RequestException as error:
        said = in_words(error)
        if isinstance(error, requests.HTTPError) and error.response is not None:
            said = f"it answers {error.response.status_code}"
        raise NotTried(f"--alertmanager {alertmanager}: {said}") from None
