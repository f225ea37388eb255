"""urllib3's pooled connections, which can be shut down from outside, and one request's way over them.

Pool, TLS and connecting are urllib3's; http.client writes a head and reads the answer's. urllib3's own way between the two
(`urlopen`) provides for retries, redirects, proxies and preloaded bodies, of which nothing is used
here: it costs a third of a whole call's CPU.
"""

from __future__ import annotations

import errno
import http.client
import os
import queue
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, SSLError

from goblin_assistant.providers.upstream.deadlines import Exchange, ownership
from goblin_assistant.providers.upstream.lease import Lease
from goblin_assistant.providers.upstream.response_head import QuickResponse, ReadAhead, plain_body
from goblin_assistant.providers.upstream.responses import PlainResponse, Response

JOINED_BYTES = 65536
"""A larger body is not copied behind its head."""
FIRST_BYTES = 8192
"""What is asked for of an answer at first; usually all of it."""

_forks = 0
"""How often this process was forked, from the first one on. An idle connection that was made before a fork belongs to
the parent too: two processes on one socket would read each other's answers."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class RequestHead:
    """The head of requests that differ in little: request line and headers as http.client checks and encodes them, once."""

    __slots__ = ("_known",)

    def __init__(
        self, connection: HTTPConnection, method: str, target: str, headers: Mapping[str, str]
    ) -> None:
        """`connection` is one to where the requests go; it is not connected. Raises ValueError for what cannot be sent."""
        names = {name.lower() for name in headers}
        connection.putrequest(
            method,
            target,
            skip_host="host" in names,
            skip_accept_encoding="accept-encoding" in names,
        )
        for name, value in headers.items():
            connection.putheader(name, value)
        self._known = b"\r\n".join(connection._buffer)  # type: ignore[attr-defined]

    def render(self, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """The whole head of one request. Raises ValueError for a value that cannot be sent."""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if not lines:
            return self._known + b"\r\n\r\n"
        text = "\r\n".join(lines)
        if not len(lines) == text.count("\r") + 1 == text.count("\n") + 1 or "\0" in text:
            raise ValueError("a header holds a line break")
        return b"%b\r\n%b\r\n\r\n" % (self._known, text.encode("latin-1"))


class Tracked:
    """Mixed into urllib3's connections: knows the exchange that it carries, and can be shut down from outside."""

    exchange: Exchange | None = None
    live: socket.socket | None = (
        None  # http.client forgets `sock` when the server announces `Connection: close`
    )
    dialled: socket.socket | None = (
        None  # the same connection during a TLS handshake, which takes `sock` away
    )
    carried = 0
    condemned = False  # a cut call's: it may be in the pool before its socket is shut down
    process = 0  # the one that connected, by the number of forks
    sock: Any

    def adopt(self, exchange: Exchange) -> None:
        """Belong to `exchange` from now on, connecting included: a TLS handshake can be cut too."""
        with ownership:
            self.exchange = exchange
            exchange.connection = self

    def condemn(self) -> socket.socket | None:
        """The socket to shut down, under the thread that uses it; no further request is sent over it. The caller
        holds `ownership`, and lets go of it before it shuts the socket down."""
        self.condemned = True
        return self.dialled or self.sock or self.live

    def connect(self) -> None:
        """As urllib3."""
        self.carried = 0
        self.condemned = False
        self.process = _forks
        try:
            super().connect()  # type: ignore[misc]
        finally:
            with ownership:
                dialled, self.dialled = self.dialled, None
            if dialled is not None:
                dialled.close()
        self.sock.settimeout(None)  # from now on deadlines.py keeps the time
        self.live = self.sock

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        self.dialled = sock.dup()
        return sock

    def send_request(
        self,
        lease: Lease,
        method: str,
        head: bytes,
        body: bytes | None,
        connect: float,
        *,
        streamed: bool,
    ) -> Response:
        """Connect if need be, send a request and read the head of its answer. Raises what the layers below raise."""
        exchange = self.exchange
        assert exchange is not None
        if self.condemned or (self.carried and (exchange.fresh or self.process != _forks)):
            self.close()
        if self.sock is None:
            self.timeout = connect
            self.connect()
        exchange.reused = self.carried > 0
        sock = self.sock
        try:
            # One system call and one packet for head and body: a sixth of a call's CPU.
            if body is None or len(body) <= JOINED_BYTES:
                sock.sendall(head + body if body else head)
            else:
                sock.sendall(head)
                sock.sendall(body)
        except (
            BrokenPipeError,
            ssl.SSLEOFError,
        ):  # the second is the first's name where there is TLS
            pass  # it has answered, perhaps, without waiting for the whole body
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        self.carried += 1
        if streamed:
            return self.read_response(lease, sock, method)
        first = sock.recv(FIRST_BYTES)
        plain = plain_body(first)
        if plain is not None and method != "HEAD":
            return PlainResponse(lease, self.read_response, sock, first, *plain)
        return self.read_response(lease, ReadAhead(sock, first), method)

    def read_response(self, lease: Lease, sock: Any, method: str) -> Response:
        """Read an answer's head by way of http.client."""
        raw = QuickResponse(sock, method=method)
        try:
            raw.begin()
        except BaseException as error:
            raw.close()  # it holds the socket too
            if raw.begun and isinstance(error, ConnectionError):
                # Not a connection that had been closed before the request came: it must not be sent again.
                raise http.client.IncompleteRead(b"") from error
            raise
        if raw.will_close:
            self.close()  # no more requests; the answer has the socket
        return Response(lease, raw)

    if TYPE_CHECKING:  # of http.client.HTTPConnection
        timeout: float | None

        def close(self) -> None:
            """As http.client."""


class TrackedConnection(Tracked, HTTPConnection):  # type: ignore[misc]
    """A plain connection."""


class TrackedTLSConnection(Tracked, HTTPSConnection):  # type: ignore[misc]
    """A TLS connection."""


class IdleConnections:
    """The part of queue.LifoQueue that urllib3's pools use, without its locks: nobody ever waits for a connection."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """The one that was put there last. Raises queue.Empty."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = False) -> None:
        """Keep one, or close it. Never raises queue.Full, for which urllib3 writes a log line: a finaliser may put a
        connection back, and must not take the log's locks."""
        if len(self._items) < self._maxsize:
            self._items.append(item)
        elif item is not None:
            item.close()

    def qsize(self) -> int:
        """How many there are, places for connections that are not made yet included."""
        return len(self._items)


class Pool:
    """Mixed into urllib3's pools."""

    def send_request(
        self,
        exchange: Exchange,
        method: str,
        head: bytes,
        body: bytes | None,
        connect: float,
        *,
        streamed: bool = False,
    ) -> Response:
        """Send a request over an idle connection, or a new one, and return its answer once its head has come.

        `connect` is the timeout of connecting and of the TLS handshake, in seconds each. Raises urllib3's exceptions,
        and TimeoutError.
        """
        connection = self._get_conn()
        lease = Lease(self, connection)
        try:
            connection.adopt(exchange)
            response: Response = connection.send_request(
                lease, method, head, body, connect, streamed=streamed
            )
            return response
        except BaseException as error:
            lease.drop()
            if isinstance(error, TimeoutError) or not isinstance(
                error, (OSError, http.client.HTTPException)
            ):
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
    QueueCls = IdleConnections  # type: ignore[assignment]


class TrackedTLSPool(Pool, HTTPSConnectionPool):
    """urllib3's TLS pool with our connections."""

    ConnectionCls = TrackedTLSConnection
    QueueCls = IdleConnections  # type: ignore[assignment]
