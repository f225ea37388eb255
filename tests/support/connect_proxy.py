"""An HTTP proxy on loopback: CONNECT for https, whole addresses for http. It can refuse, hang and
die."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass
class ConnectProxy:
    """`refusal`: the bytes of its answer to every request; b"" is silence until the client leaves.

    `hosts` maps host names, which only this proxy knows, to addresses.
    """

    refusal: bytes | None = None
    hosts: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    left: int = 0
    """Connections that a client has closed."""

    def __post_init__(self) -> None:
        self._closing = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    def url(self, credentials: str = "") -> str:
        """Its address; `credentials` as user:password@."""
        return f"http://{credentials}127.0.0.1:{self.port}"

    def die(self) -> None:
        """Close every connection that is open."""
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def close(self) -> None:
        """Stop, and wait for the threads."""
        self._closing = True
        _shut(self._listener)
        self._listener.close()
        self.die()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection of the proxy hangs"

    # -- inside
    def _spawn(self, target: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="connect-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            try:
                self._converse(client)
            finally:
                with self._lock:
                    self._open.discard(client)

    def _converse(self, client: socket.socket) -> None:
        buffered = b""
        while b"\r\n\r\n" not in buffered:
            piece = client.recv(65536)
            if not piece:
                self.left += 1
                return
            buffered += piece
        method, target = buffered.decode("latin-1").split(" ", 2)[:2]
        if self.refusal is not None:
            self._taken(buffered)
            client.sendall(self.refusal)
            while not self.refusal and client.recv(65536):
                pass
            self.left += 1
            return
        address = urlsplit(target if "://" in target else f"//{target}")
        host = self.hosts.get(address.hostname or "", address.hostname or "")
        with socket.create_connection((host, address.port or 80), 10) as server:
            server.settimeout(None)
            with self._lock:
                self._open.add(server)
            try:
                if method == "CONNECT":
                    _, buffered = self._taken(buffered)
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._pass_on(client, server, buffered, as_it_is=method == "CONNECT")
            finally:
                with self._lock:
                    self._open.discard(server)

    def _taken(self, data: bytes) -> tuple[bytes, bytes]:
        """Note the first request in `data`. That request, for the server, and what follows it; if
        it is not whole yet, nothing and `data`."""
        head, end, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", 0))
        if not end or len(rest) < length:
            return b"", data
        method, target, version = first.split(" ", 2)
        self.asked.append(Asked(method, target, headers))
        path = "/" + target.partition("://")[2].partition("/")[2]
        kept = [x for x in lines if not x.lower().startswith("proxy-")]
        top = "\r\n".join([f"{method} {path} {version}", *kept]).encode("latin-1")
        return top + b"\r\n\r\n" + rest[:length], rest[length:]

    def _pass_on(
        self, client: socket.socket, server: socket.socket, buffered: bytes, *, as_it_is: bool
    ) -> None:
        while True:
            if as_it_is:
                ready, buffered = buffered, b""
            else:
                ready, buffered = self._taken(buffered)
            server.sendall(ready)
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    self.left += source is client and not self._closing
                    return
                if source is client:
                    buffered += data
                else:
                    client.sendall(data)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
