"""urllib3's pooled connections, changed so that another thread can shut them down, and one
request's way over them.

Pool, TLS and connecting are urllib3's. http.client encodes a request's head and reads the
response's. urllib3's `urlopen` is not used: it handles retries, redirects, proxies and preloaded
bodies, which nothing here needs, and costs a third of a whole call's CPU.
"""

from __future__ import annotations

import errno
import http.client
import os
import queue
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError, ProxyError, SSLError

from goblin_assistant.providers.upstream.deadlines import Exchange, ownership
from goblin_assistant.providers.upstream.lease import Lease
from goblin_assistant.providers.upstream.response_head import QuickResponse
from goblin_assistant.providers.upstream.responses import Response

JOINED_BYTES = 65536
"""Bytes. A larger body is sent apart from its head, without copying it."""

_forks = 0
"""The number of forks between the first process and this one. An idle connection from before a fork
belongs to the parent too: two processes on one socket would read each other's responses."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class Tracked:
    """Mixed into urllib3's connections: knows its exchange, and can be shut down by another
    thread."""

    exchange: Exchange | None = None
    live: socket.socket | None = None
    """The socket. http.client clears `sock` when the server announces `Connection: close`."""
    dialled: socket.socket | None = None
    """A duplicate of the socket during a TLS handshake, which detaches the original."""
    carried = 0
    """Requests that were sent since it connected."""
    condemned = False
    """Its call was cut. It may be in the pool again before its socket is shut down."""
    process = 0
    """`_forks` when it connected."""
    sock: Any

    def adopt(self, exchange: Exchange) -> None:
        """Belong to `exchange`. Called before connecting, so that a TLS handshake can be cut
        too."""
        with ownership:
            self.exchange = exchange
            exchange.connection = self

    def shut_down(self, exchange: Exchange) -> None:
        """Cut `exchange` from another thread: the thread that waits in recv() wakes. No further
        request is sent over this connection."""
        with ownership:
            if self.exchange is not exchange:  # it serves another call: this one is over
                return
            self.condemned = True
            sock = self.dialled or self.sock or self.live
        if sock is not None:
            # Not SSLSocket.shutdown: it removes the TLS object that the reading thread uses.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

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
        self.sock.settimeout(None)  # from now on deadlines.py enforces the limits
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
    ) -> Response:
        """Connect if necessary, send a request and read the head of its response. Raises OSError
        (of ssl's too), HTTPException, and urllib3's exceptions while connecting."""
        exchange = self.exchange
        assert exchange is not None
        if self.condemned or (self.carried and (exchange.fresh or self.process != _forks)):
            self.close()
        if self.sock is None:
            self.timeout = connect
            lease.pool.open(self)
        exchange.reused = self.carried > 0
        exchange.sent_at = time.monotonic()
        sock = self.sock
        try:
            # One system call and one packet for head and body: a sixth of a call's CPU.
            if body is None or len(body) <= JOINED_BYTES:
                sock.sendall(head + body if body else head)
            else:
                sock.sendall(head)
                sock.sendall(body)
        except (BrokenPipeError, ssl.SSLEOFError):  # without TLS, and with it
            pass  # the server may have answered without reading the whole body
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        self.carried += 1
        return self.read_response(lease, sock, method)

    def read_response(self, lease: Lease, sock: socket.socket, method: str) -> Response:
        """Read a response's head with http.client."""
        raw = QuickResponse(sock, method=method)
        try:
            raw.begin()
        except BaseException as error:
            raw.close()  # it holds the socket too
            if raw.begun and isinstance(error, ConnectionError):
                # The server has begun to answer, so the request must not be sent again.
                raise http.client.IncompleteRead(b"") from error
            raise
        if raw.will_close:
            self.close()  # no more requests; the response keeps the socket open
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
    """The part of queue.LifoQueue that urllib3's pools use, without its locks: these pools never
    block."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """The one that was put last. Raises queue.Empty."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = False) -> None:
        """Keep a connection, or close it if the pool is full. Never raises queue.Full, because
        urllib3 logs that: a finaliser may put a connection back, and must not take logging's
        locks."""
        if len(self._items) < self._maxsize:
            self._items.append(item)
        elif item is not None:
            item.close()

    def qsize(self) -> int:
        """The number of items, with the places (None) of connections that are not made yet."""
        return len(self._items)


class Pool:
    """Mixed into urllib3's pools."""

    tunnelled = False
    """Connections lead through the proxy's CONNECT: there is a proxy, and the provider has TLS."""
    proxy: Any
    proxy_headers: Any
    host: str
    port: int | None

    def open(self, connection: Any) -> None:
        """Connect. Raises ProxyError for what goes wrong before a proxy has let the call through;
        else as urllib3."""
        if self.proxy is None:
            connection.connect()
            return
        try:
            if self.tunnelled:
                # Each time: urllib3 forgets the tunnel when it closes a connection.
                connection.set_tunnel(self.host, self.port, self.proxy_headers)
            connection.connect()
        except (ssl.SSLError, ssl.CertificateError, SSLError):
            raise  # the provider's: proxies with TLS are refused at start
        except (OSError, HTTPError, http.client.HTTPException) as error:
            raise ProxyError("no way through the proxy", error) from error

    def send_request(
        self,
        exchange: Exchange,
        method: str,
        head: bytes,
        body: bytes | None,
        connect: float,
    ) -> Response:
        """Send a request over an idle or a new connection, and return its response when the head
        has come.

        `connect` limits connecting and the TLS handshake, in seconds each. Raises urllib3's
        exceptions, and TimeoutError.
        """
        connection = self._get_conn()
        lease = Lease(self, connection)
        try:
            connection.adopt(exchange)
            response: Response = connection.send_request(lease, method, head, body, connect)
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
