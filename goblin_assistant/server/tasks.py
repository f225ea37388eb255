"""What a thread does for one request: run the application, or refuse.

waitress answers a request that it cannot parse, or whose body is too large, in plain text, without
correlation id, log line or metric. RefusedTask answers in this API's format.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestHeaderFieldsTooLarge, build_http_date

from goblin_assistant.dialects.error_bodies import body_for, is_anthropics, retry_after_of
from goblin_assistant.errors import AppError, NoFreeSlot, label_of
from goblin_assistant.extensions import allow_headers
from goblin_assistant.server.parser import BodiesFull, path_info
from goblin_assistant.web.error_handlers import from_status
from goblin_assistant.web.request_info import GOOD_ID, RequestInfo, new_id

JOINED_BYTES = 64 * 1024
"""A larger first piece is sent after the header block, not copied into one piece with it."""
LAG_BYTES = 64 * 1024
"""A stream slows down when its client is behind by more than this."""
FULL_RETRY_SECONDS = 5.0
"""Retry-After when bodies are at their bound: half-sent ones have been refused by then."""


class RefusedTask(ErrorTask):  # type: ignore[misc]
    """The response to a request that never reached the application."""

    def execute(self) -> None:
        """Write the response, count it and log it."""
        request = self.request
        error = _error_of(request)
        given = request.headers.get("X_CORRELATION_ID", "")
        identity = given if GOOD_ID(given) else new_id()
        path = path_info(request.path)
        info = RequestInfo(identity, request.command[:32], path[:1024], self.channel.addr[0])
        body = json.dumps(body_for(path, error, identity)).encode()
        self.status = f"{error.status} {request.error.reason}"
        self.response_headers.extend(
            [
                ("Content-Type", "application/json"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Correlation-ID", identity),
                ("x-request-id", identity),
                *allow_headers(self.channel.server.cors_origins, self._origin()),
            ]
        )
        if is_anthropics(path):
            self.response_headers.append(("request-id", identity))
        if (seconds := retry_after_of(error)) is not None:
            self.response_headers.append(("Retry-After", str(seconds)))
            info.error_type = label_of(error)
        # Set for the client: waitress would offer keep-alive to an HTTP/1.0 client that asks for
        # it.
        request.headers["CONNECTION"] = "close"
        self.set_close_on_finish()
        info.error_code = error.code
        self.content_length = len(body)
        self.channel.linger = True
        if request.command == "HEAD":
            body = b""
        info.status, info.bytes = error.status, len(body)
        info.finish(complete=True)
        self.write(body)

    def _origin(self) -> str:
        """The Origin of the request. A head that is too long may not have been read as far as its
        Origin, which Chromium puts behind a script's own headers. Then it is the only origin that
        may call, if there is one: browsers compare it with the page's."""
        request, origins = self.request, self.channel.server.cors_origins
        cut = (
            isinstance(request.error, RequestHeaderFieldsTooLarge) and not request.headers_finished
        )
        only = cut and not request.origin and len(origins) == 1
        return str(origins[0].lower() if only else request.origin)  # as browsers write it


def _error_of(request: Any) -> AppError:
    if isinstance(request.error, BodiesFull):
        return NoFreeSlot(
            "too many request bodies are on their way; try again", retry_after=FULL_RETRY_SECONDS
        )
    return from_status(request.error.code)


class ApplicationTask(WSGITask):  # type: ignore[misc]
    """A request to the application. While the server drains, its response closes the connection.

    The usual header block is written without waitress's capitalising and sorting of every name, and
    is sent with the first piece of the body: one system call and one packet.
    """

    wrote_header: bool
    close_on_finish: bool
    response_headers: list[tuple[str, str]]

    def build_response_header(self) -> bytes:
        """The header block.

        A connection is kept wherever the client can tell the response's end: it is chunked, or has
        no body (204, 304, HEAD). waitress would close these connections.
        """
        if self.request.final:  # the rest of an oversized body is still arriving
            self.channel.linger = True
            self.set_close_on_finish()
        elif self.channel.server.draining:
            self.set_close_on_finish()
        if self.version == "1.1" and self.request.headers.get("CONNECTION", "").lower() != "close":
            lines = [f"HTTP/1.1 {self.status}"]
            ours = True
            measured = dated = False
            for name, value in self.response_headers:
                name = _capitalised(name)
                lines.append(f"{name}: {value}")
                if name == "Content-Length":
                    measured = True
                elif name == "Date":
                    dated = True
                elif name == "Server":
                    ours = False
            streamed = not measured and self.content_length is None
            if ours and (streamed or (measured and self.has_body)):
                if streamed and self.has_body and self.request.command != "HEAD":
                    lines.append("Transfer-Encoding: chunked")
                    self.chunked_response = True
                lines.append(f"Server: {self.channel.adj.ident}")
                if not dated:
                    lines.append(f"Date: {_date(int(self.start_time))}")
                lines.append("\r\n")
                return "\r\n".join(lines).encode("latin-1")
        head = bytes(super().build_response_header())
        if self.request.command == "HEAD":
            self.chunked_response = False  # waitress would send the end mark of a body
        return head

    def execute(self) -> None:
        """Run the application. Afterwards nobody else writes into its response."""
        try:
            super().execute()
        finally:
            silent = self.channel.silent
            if silent is not None:
                silent.end(self)

    def write(self, data: bytes) -> None:
        """Send a piece of the body, the first one together with the header block."""
        if self.chunked_response and self.channel.total_outbufs_len > LAG_BYTES:
            self.channel.slow_down(len(data))
        if self.wrote_header:
            super().write(data)
            return
        silent = self.channel.silent
        if silent is not None:
            silent.take_over(self)
        self._write_first(data)
        if silent is not None and self.content_length is None:  # not an error's body
            silent.flows(chunked=self.chunked_response)

    def _write_first(self, data: bytes) -> None:
        length = self.content_length
        if (
            self.wrote_header
            or not data
            or not self.complete
            or len(data) > JOINED_BYTES
            or not self.has_body
        ):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        if self.chunked_response:
            self.channel.write_soon(b"%b%X\r\n%b\r\n" % (head, len(data), data))
        elif length is None or len(data) <= length:
            self.content_bytes_written += len(data)
            self.channel.write_soon(head + data)
        else:  # more than Content-Length: waitress handles it
            self.channel.write_soon(head)
            super().write(data)


@lru_cache(maxsize=1024)
def _capitalised(name: str) -> str:
    return "-".join([part.capitalize() for part in name.split("-")])


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return str(build_http_date(second))
