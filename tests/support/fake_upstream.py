"""A provider's server for tests: a real socket server whose every byte is scripted.

    upstream.reply(Reply.json(200, {...}))    # for the next request; after the script: `default`
    upstream.reply(Reply.sse([b"data: {}\\n\\n", SILENCE]))   # one event, then nothing
    upstream.requests[0].body, upstream.requests[0].headers["authorization"]
    wait_until(lambda: upstream.open_connections == 0)

Wire-exact bodies of OpenAI and Anthropic are in tests/support/wire_bodies.py.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

import pytest

from tests.support.services import free_port


@dataclass(frozen=True)
class Silence:
    """Send nothing until the peer closes the connection or `upstream.release()` is called."""


@dataclass(frozen=True)
class Close:
    """Close the connection in the middle of a reply; with `reset` by RST instead of FIN."""

    reset: bool = False


@dataclass(frozen=True)
class Pause:
    """Send nothing for so many seconds."""

    seconds: float


SILENCE = Silence()
CUT = Close()
RESET = Close(reset=True)


@dataclass(frozen=True)
class Gate:
    """Send nothing until `opened` is set, or until the peer closes the connection."""

    opened: threading.Event = field(default_factory=threading.Event)


Step = bytes | Silence | Close | Pause | Gate


@dataclass(frozen=True)
class Reply:
    """The reply to one request: steps, each sent on its own.

    `keep_alive` False closes the connection afterwards. `stale` leaves it open and closes it
    without a byte when the next request arrives, like a server that closes an idle connection just
    then.
    """

    steps: Sequence[Step]
    keep_alive: bool = True
    stale: bool = False

    @staticmethod
    def raw(*steps: Step) -> Reply:
        """Exactly these bytes, then close."""
        return Reply(steps, keep_alive=False)

    @staticmethod
    def plain(
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        *,
        stale: bool = False,
    ) -> Reply:
        """A whole answer with Content-Length."""
        fields = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
        return Reply([_head(status, fields) + body], stale=stale)

    @staticmethod
    def json(
        status: int, body: Any, headers: Mapping[str, str] | None = None, *, stale: bool = False
    ) -> Reply:
        """A whole JSON answer."""
        return Reply.plain(status, json.dumps(body).encode(), headers=headers, stale=stale)

    @staticmethod
    def gzipped(status: int, body: bytes, content_type: str = "application/json") -> Reply:
        """A whole answer, compressed although the client did not ask for it."""
        return Reply.plain(status, gzip.compress(body), content_type, {"Content-Encoding": "gzip"})

    @staticmethod
    def sse(
        events: Sequence[Step],
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str = "text/event-stream; charset=utf-8",
        framing: Literal["chunked", "close"] = "chunked",
        status: int = 200,
    ) -> Reply:
        """A stream: headers, each step as one chunk, and a proper end unless a step closes it."""
        fields = {"Content-Type": content_type, "Cache-Control": "no-cache", **(headers or {})}
        if framing == "close":
            return Reply(
                [_head(status, {**fields, "Connection": "close"}), *events], keep_alive=False
            )
        steps: list[Step] = [_head(status, {**fields, "Transfer-Encoding": "chunked"})]
        steps += [
            b"%x\r\n%b\r\n" % (len(step), step) if isinstance(step, bytes) else step
            for step in events
        ]
        return Reply([*steps, b"0\r\n\r\n"])


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Scripted",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def http_date(seconds_from_now: float) -> str:
    """For Retry-After."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names in lower case. `connection` counts from 1. `head`
    is its bytes: `headers` has only the last of several of one name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    head: bytes = b""

    @property
    def repeated(self) -> list[str]:
        """Names of headers that were sent more than once."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        names = [line.partition(":")[0].lower() for line in lines]
        return sorted({name for name in names if names.count(name) > 1})

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def answering_gets(reply: Reply) -> Callable[[Request], Reply | None]:
    """For `choose`: health checks come at any time, and take nothing from the script."""
    return lambda request: reply if request.method == "GET" else None


@dataclass
class FakeUpstream:
    """The server. `default` answers after the end of the script.

    `choose` is asked first, for one request after the other: what it answers is sent, and nothing
    is taken from the script. None: the script answers.

    `reset_on_accept` resets new connections at once.
    """

    default: Reply = field(
        default_factory=lambda: Reply.json(
            500, {"error": {"message": "the script of this test is at its end"}}
        )
    )
    choose: Callable[[Request], Reply | None] | None = None
    reset_on_accept: bool = False
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    closed_by_peer: int = 0

    def __post_init__(self) -> None:
        self._script: deque[Reply] = deque()
        self._release = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://127.0.0.1:{self.port}"

    def reply(self, *replies: Reply) -> None:
        """Add one reply for each request, in order of arrival."""
        self._script.extend(replies)

    def release(self) -> None:
        """End every silence, now and to come."""
        self._release.set()

    def close_idle(self) -> None:
        """Close every connection now."""
        with self._lock:
            for connection in self._sockets:
                _close(connection)

    def close(self) -> None:
        """Stop, close everything and wait for the threads. No request may have had a header
        twice."""
        self._closing = True
        self.release()
        _close(self._listener)
        self.close_idle()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a connection of the fake upstream hangs"
        repeated = {name for request in self.requests for name in request.repeated}
        assert not repeated, f"sent upstream more than once: {repeated}"

    # -- the server's side --------------------------------------------------------------------
    def _spawn(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name="fake-upstream")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.reset_on_accept:
                _reset(connection)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self.open_connections += 1
                self._sockets.add(connection)
                if self._closing:  # accepted while close() shut down the others
                    _close(connection)
                number = self.connections
            self._spawn(self._serve, connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            self._converse(connection, number)
        except OSError:
            with self._lock:
                self.closed_by_peer += not self._closing
        finally:
            with self._lock:
                self.open_connections -= 1
                self._sockets.discard(connection)
            _close(connection)

    def _converse(self, connection: socket.socket, number: int) -> None:
        buffered = b""
        stale = False
        while True:
            while b"\r\n\r\n" not in buffered:
                data = connection.recv(65536)
                if not data:
                    with self._lock:
                        self.closed_by_peer += not self._closing
                    return
                buffered += data
            head, _, buffered = buffered.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            length = int(headers.get("content-length", 0))
            while len(buffered) < length:
                data = connection.recv(65536)
                if not data:
                    return
                buffered += data
            if stale:
                return
            body, buffered = buffered[:length], buffered[length:]
            method, path, _ = first.split(" ", 2)
            with self._lock:
                self.requests.append(Request(method, path, headers, body, number, head))
                chosen = self.choose(self.requests[-1]) if self.choose is not None else None
                if chosen is None:
                    chosen = self._script.popleft() if self._script else self.default
                reply = chosen
            for step in reply.steps:
                if not self._perform(connection, step):
                    return
            if not reply.keep_alive:
                return
            stale = reply.stale

    def _perform(self, connection: socket.socket, step: Step) -> bool:
        """Return False when the connection is closed."""
        if isinstance(step, bytes):
            connection.sendall(step)
            return True
        if isinstance(step, Close):
            if step.reset:
                _reset(connection)
            return False
        end = time.monotonic() + (step.seconds if isinstance(step, Pause) else 60)
        over = step.opened if isinstance(step, Gate) else self._release
        while time.monotonic() < end and (isinstance(step, Pause) or not over.is_set()):
            if select.select([connection], [], [], 0.01)[0] and not connection.recv(
                1, socket.MSG_PEEK
            ):
                with self._lock:
                    self.closed_by_peer += not self._closing
                return False
        return not self._closing


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def unused_url() -> str:
    """An address where nobody listens: connections are refused."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def fake_upstream() -> Iterator[FakeUpstream]:
    """A fake upstream of the test's own."""
    upstream = FakeUpstream()
    try:
        yield upstream
    finally:
        upstream.close()
