"""urllib3's pooled connections, which the watchdog can shut down, and one request's way over them.

Pool, TLS and connecting are urllib3's; http.client writes a head and reads the answer's. urllib3's own way between the two
(`urlopen`) provides for retries, redirects, proxies and preloaded bodies, of which nothing is used
here: it costs a third of a whole call's CPU.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import queue
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from urllib3._collections import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, SSLError
from urllib3.response import HTTPResponse

from goblin_assistant.providers.chunked import ChunkedBody
from goblin_assistant.providers.response_head import QuickResponse, ReadAhead, plain_body
from goblin_assistant.providers.watchdog import Exchange, ownership

JOINED_BYTES = 65536
"""A larger body is not copied behind its head."""
FIRST_BYTES = 8192
"""What is asked for of an answer at first; usually all of it."""


class Head:
    """The head of requests that differ in little: request line and headers as http.client checks and encodes them, once."""

    __slots__ = ("_known",)

    def __init__(self, connection: HTTPConnection, method: str, target: str, headers: Mapping[str, str]) -> None:
        """`connection` is one to where the requests go; it is not connected. Raises ValueError for what cannot be sent."""
        names = {name.lower() for name in headers}
        connection.putrequest(
            method, target, skip_host="host" in names, skip_accept_encoding="accept-encoding" in names
        )
        for name, value in headers.items():
            connection.putheader(name, value)
        self._known = b"\r\n".join(connection._buffer)  # type: ignore[attr-defined]

    def with_(self, headers: Mapping[str, str], body: bytes | None) -> bytes:
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
    live: socket.socket | None = None  # http.client forgets `sock` when the server announces `Connection: close`
    dialled: socket.socket | None = None  # the same connection during a TLS handshake, which takes `sock` away
    carried = 0
    sock: Any

    def adopt(self, exchange: Exchange) -> None:
        """Belong to `exchange` from now on, connecting included: a TLS handshake can be cut too."""
        with ownership:
            self.exchange = exchange
            exchange.connection = self

    def shut_down(self) -> None:
        """End the connection under the thread that uses it. The caller holds `ownership`."""
        sock = self.dialled or self.sock or self.live
        if sock is not None:
            # Past SSLSocket.shutdown, which would take the TLS object away from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def connect(self) -> None:
        """As urllib3."""
        self.carried = 0
        try:
            super().connect()  # type: ignore[misc]
        finally:
            with ownership:
                dialled, self.dialled = self.dialled, None
            if dialled is not None:
                dialled.close()
        self.sock.settimeout(None)  # from now on the watchdog looks at the clock
        self.live = self.sock

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        self.dialled = sock.dup()
        return sock

    def ask(
        self, pool: Pool, method: str, head: bytes, body: bytes | None, connect: float, *, streamed: bool
    ) -> Answer:
        """Connect if need be, send a request and read the head of its answer. Raises what the layers below raise."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.fresh and self.carried:
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
        except (BrokenPipeError, ssl.SSLEOFError):  # the second is the first's name where there is TLS
            pass  # it has answered, perhaps, without waiting for the whole body
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        self.carried += 1
        if streamed:
            return self.long_answer(pool, sock, method)
        first = sock.recv(FIRST_BYTES)
        plain = plain_body(first)
        if plain is not None and method != "HEAD":
            return PlainAnswer(pool, self, sock, first, *plain)
        return self.long_answer(pool, ReadAhead(sock, first), method)

    def long_answer(self, pool: Pool, sock: Any, method: str) -> Answer:
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
        return Answer(pool, self, raw)

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
        """Keep one. Raises queue.Full."""
        if len(self._items) >= self._maxsize:
            raise queue.Full
        self._items.append(item)

    def qsize(self) -> int:
        """How many there are, places for connections that are not made yet included."""
        return len(self._items)


class Pool:
    """Mixed into urllib3's pools."""

    def ask(
        self,
        exchange: Exchange,
        method: str,
        head: bytes,
        body: bytes | None,
        connect: float,
        *,
        streamed: bool = False,
    ) -> Answer:
        """Send a request over an idle connection, or a new one, and return its answer once its head has come.

        `connect` is the timeout of connecting and of the TLS handshake, in seconds each. Raises urllib3's exceptions,
        and TimeoutError.
        """
        connection = self._get_conn()
        try:
            connection.adopt(exchange)
            answer: Answer = connection.ask(self, method, head, body, connect, streamed=streamed)
            return answer
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
    QueueCls = IdleConnections  # type: ignore[assignment]


class TrackedTLSPool(Pool, HTTPSConnectionPool):
    """urllib3's TLS pool with our connections."""

    ConnectionCls = TrackedTLSConnection
    QueueCls = IdleConnections  # type: ignore[assignment]


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
            self._raw.close()
            self._connection.close()
            self._pool._put_conn(None)
            raise
        self._pool._put_conn(self._connection)
        return data

    def events(self) -> ChunkedAnswer | HTTPResponse:
        """The body as it arrives."""
        raw = self._raw
        if raw.chunked and not raw.headers.get("content-encoding"):
            return ChunkedAnswer(self._pool, self._connection, raw)
        return self.stream()

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


class PlainAnswer(Answer):
    """A success whose length is known, read from the socket itself: http.client's file around it costs as much as the
    rest of a call."""

    __slots__ = ("_at", "_first", "_length", "_sock")

    def __init__(
        self, pool: Pool, connection: Tracked, sock: socket.socket, first: bytes, at: int, length: int
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._sock = sock
        self._first = first
        self._at = at
        self._length = length
        self.status = 200

    def is_plain(self, limit: int) -> bool:
        """Whether it is short enough."""
        return self._length <= limit

    def whole(self) -> bytes:
        """See Answer."""
        body = self._first[self._at :]
        missing = self._length - len(body)
        if missing > 0:
            body += self._rest(missing)
        body = body[: self._length]
        # What comes behind it is no answer to the next request. On the socket the pool sees it before it uses the
        # connection again; not what has been read, or decrypted, already.
        if missing < 0 or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            self._connection.close()
        self._pool._put_conn(self._connection)
        return body

    def _rest(self, missing: int) -> bytes:
        pieces = []
        try:
            while missing:
                piece = self._sock.recv(min(missing, JOINED_BYTES))
                if not piece:
                    raise http.client.IncompleteRead(b"", missing)
                pieces.append(piece)
                missing -= len(piece)
        except BaseException:
            self._connection.close()
            self._pool._put_conn(None)
            raise
        return b"".join(pieces)

    def events(self) -> ChunkedAnswer | HTTPResponse:
        """See Answer."""
        return self._long().events()

    def stream(self) -> HTTPResponse:
        """See Answer."""
        return self._long().stream()

    def _long(self) -> Answer:
        return self._connection.long_answer(self._pool, ReadAhead(self._sock, self._first), "POST")


class ChunkedAnswer:
    """A chunked answer, with what an event stream needs of urllib3's response."""

    __slots__ = ("_body", "_connection", "_pool", "_raw", "headers")

    def __init__(self, pool: Pool, connection: Tracked, raw: http.client.HTTPResponse) -> None:
        self._pool = pool
        self._connection: Tracked | None = connection
        self._raw = raw
        self._body = ChunkedBody(raw.fp.read1)  # type: ignore[attr-defined]
        self.headers: Mapping[str, str] = raw.headers  # type: ignore[assignment]

    def read1(self, amount: int, decode: bool) -> bytes:
        """What has arrived; b"" at the end. Raises OSError or HTTPException."""
        return self._body.read1()

    def close(self) -> None:
        """End the connection."""
        self._raw.close()
        if self._connection is not None:
            self._connection.close()

    def release_conn(self) -> None:
        """Give the connection back: for other requests if the answer is over, else closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._raw.close()
            if not self._body.at_end:
                connection.close()
            self._pool._put_conn(connection)
