"""A server with the load test's routes and prescribed answers: arguments are PORT and RULES.

RULES is JSON: path -> [status, times], the status of the first answers on that path. All later
answers succeed. Two statuses are special: NULL is a 200 whose body is `null`, CUT is a stream that
breaks off after its first event.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NULL = -1
CUT = -2


class Target(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rules: dict[str, list[int]] = {}
    lock = threading.Lock()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Everything that a GET's scenario looks for."""
        if not self._ruled():
            self._answer(200, {"status": "ok", "services": {}, "data": []})

    def do_POST(self) -> None:
        """Tokens, a chat, a stream."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._ruled():
            return
        if self.path.startswith("/auth/"):
            created = 201 if self.path == "/auth/register" else 200
            self._answer(
                created,
                {
                    "access_token": "a",
                    "refresh_token": "r",
                    "token_type": "bearer",
                    "expires_in": 900,
                },
            )
        elif body.get("stream"):
            self._stream()
        else:
            self._answer(200, {"choices": [{"message": {"content": "Because."}}]})

    def _ruled(self) -> bool:
        with self.lock:
            rule = self.rules.get(self.path)
            if rule is None or rule[1] <= 0:
                return False
            rule[1] -= 1
        if rule[0] == CUT:
            self._stream(cut=True)
        elif rule[0] == NULL:
            self._answer(200, None)
        else:
            self._answer(
                rule[0], {"error": "ruled", "message": "as the test wants it", "retry_after": 1}
            )
        return True

    def _answer(self, status: int, body: dict[str, Any] | None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in ('{"delta":{"content":"Be"}}', '{"delta":{"content":"cause"}}', "[DONE]"):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            if cut:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    """Accepts many connections at once."""

    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    Target.rules = json.loads(sys.argv[2])
    Server(("127.0.0.1", int(sys.argv[1])), Target).serve_forever()
