"""An SMTP server on loopback that keeps what it gets (RFC 5321, as far as one client needs)."""

from __future__ import annotations

import base64
import email.policy
import socketserver
import threading
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any


class Mailbox:
    """Keeps every message in `messages` and every pair of user and password in `logins`; use as a
    context manager.
    """

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.logins: list[tuple[str, str]] = []
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 60

            def handle(self) -> None:
                self._say("220 mailbox.test ESMTP")
                for line in self.rfile:
                    word, _, rest = line.decode().strip().partition(" ")
                    if not self._answer(word.upper(), rest):
                        return

            def _answer(self, word: str, rest: str) -> bool:
                if word == "EHLO":
                    self._say("250-mailbox.test")
                    self._say("250 AUTH PLAIN")
                elif word == "AUTH":
                    _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                    mailbox.logins.append((user, password))
                    self._say("235 welcome")
                elif word == "DATA":
                    self._say("354 go on")
                    mailbox.messages.append(self._message())
                    self._say("250 kept")
                else:
                    self._say("221 bye" if word == "QUIT" else "250 ok")
                return word != "QUIT"

            def _message(self) -> EmailMessage:
                lines = []
                for line in self.rfile:
                    if line == b".\r\n":
                        break
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                parser: Any = BytesParser(policy=email.policy.default)
                found: EmailMessage = parser.parsebytes(b"".join(lines))
                return found

            def _say(self, text: str) -> None:
                self.wfile.write(text.encode() + b"\r\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Mailbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
