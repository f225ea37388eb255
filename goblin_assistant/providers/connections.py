"""urllib3's pooled connections, which the watchdog can shut down, and one request's way over them.

Pool, TLS and connecting are urllib3's; http.client writes the request and reads the head of the answer. urllib3's own way
between the two (`urlopen`) provides for retries, redirects, proxies and preloaded bodies, of which nothing is used
here: it costs a third of a whole call's CPU.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from urllib3._collections import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, SSLError
from urllib3.response import HTTPResponse

from goblin_assistant.providers.response_head import QuickResponse
from goblin_assistant.providers.watchdog import Exchange, HeaderLines, ownership

CORK_BYTES = 65536
"""A larger body is not copied behind its head."""


def header_lines(headers: Mapping[str, str]) -> HeaderLines:
    """Have http.client check and encode headers now, so that nobody has to with each request."""
    lines: dict[tuple[str, tuple[str, ...]], bytes] = {}
    for name, value in headers.items():
        probe = HTTPConnection("localhost")
        probe.putrequest("GET", "/", skip_host=True, skip_accept_encoding=True)
        # One that cannot be sent (a line feed in a key) fails with each request, as an error of the provider.
        with contextlib.suppress(ValueError):
            probe.putheader(name, value)
            lines[name, (value,)] = probe._buffer[-1]  # type: ignore[attr-defined]
    return lines


class Tracked:
    """Mixed into urllib3's connections: knows the exchange that it carries, and can be shut down from outside."""

    exchange: Exchange | None = None
    live: socket.socket | None = None  # http.client forgets `sock` when the server announces `Connection: close`
    carried = 0
    corked: list[bytes] | None = None
    response_class: Any = QuickResponse
    sock: Any

    def adopt(self, exchange: Exchange) -> None:
        """Belong to `exchange` from now on, connecting included: a TLS handshake can be cut too."""
        with ownership:
            self.exchange = exchange
            exchange.connection = self

    def shut_down(self) -> None:
        """End the connection under the thread that uses it. The caller holds `ownership`."""
        sock = self.sock or self.live
        if sock is not None:
            # Past SSLSocket.shutdown, which would take the TLS object away from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def connect(self) -> None:
        """As urllib3."""
        self.carried = 0
        super().connect()  # type: ignore[misc]
        self.live = self.sock

    def ask(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], connect: float, read: float
    ) -> http.client.HTTPResponse:
        """Connect if need be, send a request and read the head of its answer. Raises what the layers below raise."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.fresh and self.carried:
            self.close()
        if self.sock is None:
            self.timeout = connect
            self.connect()
        exchange.reused = self.carried > 0
        self.timeout = read
        self.sock.settimeout(read)
        try:
            self._write(method, target, body, headers)
        except BrokenPipeError:
            pass  # it has answered, perhaps, without waiting for the whole body
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        self.carried += 1
        # Past urllib3's own, which would wrap the answer.
        return http.client.HTTPConnection.getresponse(self)  # type: ignore[arg-type]

    def _write(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        self.corked = []
        try:
            names = {name.lower() for name in headers}
            self.putrequest(method, target, skip_host="host" in names, skip_accept_encoding="accept-encoding" in names)
            if body is not None:
                self.putheader("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.putheader(name, value)
            self.endheaders(body)
            head_and_body = b"".join(self.corked)
        finally:
            self.corked = None
        if head_and_body:
            self.send(head_and_body)

    def putheader(self, header: Any, *values: Any) -> None:
        """Add a header; a known one without checking it again."""
        line = self.exchange.lines.get((header, values)) if self.exchange is not None else None
        if line is not None:
            self._output(line)
        else:
            super().putheader(header, *values)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Hold the head back for the body: one system call and one packet in place of two, a sixth of a call's CPU."""
        if self.corked is not None and isinstance(data, bytes):
            self.corked.append(data)
            if len(data) <= CORK_BYTES:
                return
            data, self.corked = b"".join(self.corked), []
        super().send(data)  # type: ignore[misc]

    if TYPE_CHECKING:  # of http.client.HTTPConnection
        timeout: float | None

        def putrequest(self, method: str, url: str, skip_host: bool = ..., skip_accept_encoding: bool = ...) -> None:
            """As http.client."""

        def endheaders(self, message_body: bytes | None = ...) -> None:
            """As http.client."""

        def close(self) -> None:
            """As http.client."""

        def _output(self, s: bytes) -> None: ...


class TrackedConnection(Tracked, HTTPConnection):  # type: ignore[misc]
    """A plain connection."""


class TrackedTLSConnection(Tracked, HTTPSConnection):  # type: ignore[misc]
    """A TLS connection."""


class Pool:
    """Mixed into urllib3's pools."""

    def ask(
        self,
        exchange: Exchange,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        connect: float,
        read: float,
    ) -> Answer:
        """Send a request over an idle connection, or a new one, and return its answer once the head has come.

        `connect` and `read` are timeouts in seconds. Raises urllib3's exceptions, and TimeoutError.
        """
        connection = self._get_conn()
        try:
            connection.adopt(exchange)
            return Answer(self, connection, connection.ask(method, target, body, headers, connect, read))
        except BaseException as error:
            connection.close()
            self._put_conn(None)  # the pool counts its places
            if isinstance(error, TimeoutError) or not isinstance(error, (OSError, http.client.HTTPException)):
                raise
            if isinstance(error, (ssl.SSLError, ssl.CertificateError)):
                raise SSLError(error) from error
            raise ProtocolError("Connection aborted.", error) from error

    if TYPE_CHECKING:  # of urllib3's HTTPConnectionPool

        def _get_conn(self, timeout: Any = ...) -> Any: ...

        def _put_conn(self, conn: Any) -> None: ...


class TrackedPool(Pool, HTTPConnectionPool):
    """urllib3's pool with our connections."""

    ConnectionCls = TrackedConnection


class TrackedTLSPool(Pool, HTTPSConnectionPool):
    """urllib3's TLS pool with our connections."""

    ConnectionCls = TrackedTLSConnection


class Answer:
    """The head of an answer; its body is still to be read: with `whole()` where that is allowed, else with `stream()`."""

    __slots__ = ("_connection", "_pool", "_raw", "status")

    def __init__(self, pool: Pool, connection: Tracked, raw: http.client.HTTPResponse) -> None:
        self._pool = pool
        self._connection = connection
        self._raw = raw
        self.status = raw.status

    def is_plain(self, limit: int) -> bool:
        """Whether the body's length is known, at most `limit`, and nothing has to be decoded."""
        length = self._raw.length
        return length is not None and length <= limit and not self._raw.headers.get("content-encoding")

    def whole(self) -> bytes:
        """The body of a plain answer; the connection is free for the next request. Raises OSError or HTTPException."""
        try:
            data = self._raw.read()
        except BaseException:
            self._connection.close()
            self._pool._put_conn(None)
            raise
        self._pool._put_conn(self._connection)
        return data

    def stream(self) -> HTTPResponse:
        """urllib3's response over it, which knows every way to end a body and to decode it."""
        raw = self._raw
        return HTTPResponse(
            body=raw,  # type: ignore[arg-type]
            headers=HTTPHeaderDict(raw.headers.items()),
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            original_response=raw,  # type: ignore[arg-type]
            pool=self._pool,  # type: ignore[arg-type]
            connection=self._connection,  # type: ignore[arg-type]
            request_method=raw._method,  # type: ignore[attr-defined]
        )
